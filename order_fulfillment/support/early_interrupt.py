"""Lets Ctrl-C end a script in one line while its modules are still being loaded.

The scripts import this before anything else. In any other program it does nothing.
"""

import os
import signal
import sys


def _end(*_: object) -> None:
    os.write(2, b"interrupted: nothing was done\n")
    os._exit(130)


def disable() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt as ever."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_program = os.path.realpath(getattr(sys.modules["__main__"], "__file__", None) or "")
# A script that runs in the background may be told to ignore Ctrl-C: then it goes on to.
if (
    os.path.dirname(_program) == os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _end)
