"""The scripts, each in a process of its own, with the import of the SDK done already.

That import is most of a script's start, so each process is forked from one that has done it.
tests/test_demo.py starts the scripts as people do, with `uv run`.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import temporalio.envconfig
import temporalio.worker  # noqa: F401

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload([__name__])


def wait_until[T](condition: Callable[[], T], what: str, seconds: float = 30) -> T:
    """Wait for a condition to hold, and return what it returned.

    Raises:
        AssertionError: when it does not hold in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} seconds for {what}")


class Script:
    """A script that runs, or has ended, and what it has printed so far."""

    def __init__(
        self, script: Path, arguments: tuple[str, ...], folder: Path, environment: dict[str, str]
    ) -> None:
        number = len(list(folder.glob("*.stdout")))
        self._outputs = [folder / f"{script.stem}-{number}.{name}" for name in ("stdout", "stderr")]
        for output in self._outputs:
            output.touch()
        # As a daemon it is stopped with the tests at the latest.
        self._process = FORKSERVER.Process(
            target=_run, args=(script, arguments, folder, environment, self._outputs), daemon=True
        )
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def stdout(self) -> str:
        """What it has printed for programs."""
        return self._outputs[0].read_text()

    @property
    def stderr(self) -> str:
        """What it has printed for people."""
        return self._outputs[1].read_text()

    @property
    def output(self) -> str:
        """What it has printed for both."""
        return self.stdout + self.stderr

    @property
    def returncode(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it, or None."""
        return self._process.exitcode

    def until_prints(self, text: str) -> None:
        """Wait until it has printed something, or has ended without it."""
        wait_until(lambda: text in self.output or self.returncode is not None, f"{text!r}")
        assert text in self.output, self.output

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Give it no chance to clean up."""
        self._process.kill()
        self._process.join()

    def wait(self, seconds: float = 60) -> int | None:
        """Wait for its end and return its exit code, or None when it has not ended in time."""
        self._process.join(seconds)
        return self.returncode


def _run(
    script: Path,
    arguments: tuple[str, ...],
    folder: Path,
    environment: dict[str, str],
    outputs: list[Path],
) -> None:
    # A shell that starts the tests in the background lets them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), number)
    # A process of the benchmark has imported its modules in the parent's environment.
    for name in [name for name in sys.modules if name.startswith("order_fulfillment")]:
        del sys.modules[name]
    sys.argv = [str(script), *arguments]
    sys.path[:0] = [str(script.parent), *filter(None, [environment.get("PYTHONPATH")])]
    runpy.run_path(str(script), run_name="__main__")
