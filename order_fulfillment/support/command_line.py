"""The command line of a script: arguments, output, exit codes.

Nothing here imports the Temporal SDK, which takes up to a second: `--help` and mistakes on the
command line are answered without it.
"""

import argparse
import asyncio
import ipaddress
import os
import re
import shlex
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any, Never, NoReturn

from order_fulfillment.support import early_interrupt

MAX_ID_CHARACTERS = 255

SCRIPTS = Path(__file__).parent.parent


class CommandError(Exception):
    """Ends a script with one line that says what happened and what to do."""

    def __init__(self, message: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ArgumentParser(argparse.ArgumentParser):
    """Reports a mistake in one line, with exit code 2."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Called by argparse to leave, with a last message."""
        self._print_message(message or "", sys.stderr)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            try:
                stream.flush()
            except OSError:  # Nobody reads. Python would try again, and end with status 120.
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(status)

    def error(self, message: str) -> NoReturn:
        """Called by argparse with what is wrong."""
        self.exit(2, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def limited_text(max_bytes: int) -> Callable[[str], str]:
    """An argument type: text that Temporal can store, with a limit in bytes."""

    def parse(argument: str) -> str:
        try:
            size = len(argument.encode())
        except UnicodeEncodeError:
            raise argparse.ArgumentTypeError("not valid UTF-8") from None
        if size > max_bytes:
            raise argparse.ArgumentTypeError(f"{size} bytes long, at most {max_bytes} are allowed")
        return argument

    return parse


def workflow_id(argument: str) -> str:
    """An argument type: an ID that can be shown, and typed again."""
    if not argument or len(argument) > MAX_ID_CHARACTERS:
        raise argparse.ArgumentTypeError(f"an ID has 1 to {MAX_ID_CHARACTERS} characters")
    if argument.startswith("-") or not argument.isprintable():
        raise argparse.ArgumentTypeError(
            f"{argument!r} is no ID: it begins with a hyphen, or cannot be printed"
        )
    return argument


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """An argument type: a whole number from `low` to `high`."""

    def parse(argument: str) -> int:
        if re.fullmatch("[0-9]{1,9}", argument) and low <= int(argument) <= high:
            return int(argument)
        raise argparse.ArgumentTypeError(f"{argument!r} is not a number from {low} to {high}")

    return parse


def ip_address_and_port(argument: str) -> str:
    """An argument type: where to listen, such as 127.0.0.1:9464."""
    host, _, port = argument.rpartition(":")
    try:
        # The SDK resolves no host names.
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
        if not 0 < int(port) < 65536:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{argument!r} is not an IP address and a port, such as 127.0.0.1:9464"
        ) from None
    return f"[{address}]:{int(port)}" if address.version == 6 else f"{address}:{int(port)}"


def printable(text: str) -> str:
    """Show control characters instead of letting the terminal obey them."""
    if text.isprintable():  # Every line of the worker's log comes here, and few need more.
        return text
    # The two joiners print nothing, and emoji and several scripts are spelled with them.
    return "".join(
        character
        if character.isprintable() or character in "\u200c\u200d"
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def command(script: str, *arguments: str) -> str:
    """A command for the user to type: one of this package's scripts, as seen from here."""
    path = SCRIPTS / script
    with suppress(OSError, ValueError):
        path = path.relative_to(Path.cwd())
    return shlex.join(["uv", "run", str(path), *arguments])


def say(*fields: str) -> None:
    """Print a line on stdout, with tabs between its fields.

    Raises:
        CommandError: when it cannot be written; with exit code 0 when nobody reads on.
    """
    try:
        print(*map(printable, fields), sep="\t", flush=True)
    except BrokenPipeError:
        raise CommandError(exit_code=0) from None  # `head -1` has all it wants.
    except OSError as error:
        raise CommandError(f"cannot write the output: {error.strerror}") from None


def hint(line: str) -> None:
    """Tell a person something, on stderr: stdout is for programs."""
    with suppress(OSError):  # Perhaps nobody reads it.
        print(printable(line), file=sys.stderr, flush=True)


def progress(line: str = "") -> None:
    """On a terminal, show a line that the next one overwrites; elsewhere do nothing."""
    if sys.stderr.isatty():
        with suppress(OSError):
            print(f"\r\x1b[K{printable(line)}", end="", file=sys.stderr, flush=True)


async def side_by_side[T](
    act: Callable[[T], Awaitable[object]], items: Iterable[T], at_once: int
) -> None:
    """Act on all items, on a limited number of them at once."""
    waiting = iter(items)

    async def act_on_next() -> None:
        for item in waiting:
            await act(item)

    await asyncio.gather(*(act_on_next() for _ in range(at_once)))


def run(script: Coroutine[Any, Any, None], *, interrupted: str) -> Never:
    """Run a script to its end and leave with the right exit code.

    Args:
        script: Raises CommandError to end early.
        interrupted: What Ctrl-C means for the user.
    """
    exit_code = _run(script, interrupted)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    # The threads of the SDK's Rust core outlive the interpreter, which sometimes crashes
    # while it shuts down (temporalio/sdk-python issue 300): so it does not shut down.
    os._exit(exit_code)


def _run(script: Coroutine[Any, Any, None], interrupted: str) -> int:
    # Python has None for a stream that was closed, and prints what is meant for it elsewhere.
    sys.stdout = sys.stdout or StringIO()
    sys.stderr = sys.stderr or StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        early_interrupt.disable()
        asyncio.run(script)
    except CommandError as error:
        if str(error):
            hint(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        hint(f"interrupted: {interrupted}")
        return 130
    except Exception:  # noqa: BLE001 (a bug of ours: the only thing that shows a traceback)
        traceback.print_exc()
        return 1
    return 0
