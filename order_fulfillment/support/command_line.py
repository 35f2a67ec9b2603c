"""The command line of a script: mistakes, output, exit codes."""

import argparse
import asyncio
import os
import shlex
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Never

from order_fulfillment.support import connection

SCRIPTS = Path(__file__).parent.parent

SIDE_BY_SIDE = 50
"""How many calls to make at once: enough to keep a server busy, few enough to be answered."""


class ArgumentParser(argparse.ArgumentParser):
    """Reports a mistake in one line, with exit code 2."""

    def error(self, message: str) -> Never:
        """Called by argparse with what is wrong."""
        self.exit(2, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def command(script: str, *arguments: str) -> str:
    """A command for the user to type: one of this package's scripts, as seen from here."""
    path = min(str(SCRIPTS / script), os.path.relpath(SCRIPTS / script), key=len)
    return shlex.join(["uv", "run", path, *arguments])


ADVICE = {
    connection.NoServerError: "start one with: uv run temporal server start-dev, or check TEMPORAL_ADDRESS",
    connection.NoAnswerError: "it may have acted all the same",
    connection.NoWorkerError: f"start one with: {command('worker.py')}",
    connection.NotFoundError: f"start one with: {command('starter.py')}",
}


def explain(error: Exception) -> str:
    """What happened, and what to do."""
    advice = [advice for kind, advice in ADVICE.items() if isinstance(error, kind)]
    return "; ".join([" ".join(str(error).split()), *advice])


def printable(text: str) -> str:
    """Show control characters instead of letting the terminal obey them."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def say(*fields: str, file: Any = None) -> None:
    """Print a line with tabs between its fields, on stdout by default."""
    with suppress(BrokenPipeError):  # `head -1` has all it wants; the script has more to do.
        print(*map(printable, fields), sep="\t", flush=True, file=file)


def hint(line: str) -> None:
    """Tell a person something, on stderr: stdout is for programs."""
    say(line, file=sys.stderr)


def progress(line: str) -> None:
    """On a terminal, show a line that the next one overwrites."""
    if sys.stderr.isatty() and not sys.stdout.isatty():
        print(f"\r\x1b[K{line}\r", end="", file=sys.stderr, flush=True)


async def side_by_side[T](act: Callable[[T], Awaitable[object]], items: Iterable[T]) -> None:
    """Act on all items as they come, on a limited number of them at once."""
    waiting, loop = iter(items), asyncio.get_running_loop()
    # Reading waits for whoever writes into a pipe, which must hold up nobody else. This thread,
    # unlike those of asyncio.to_thread, does not hold up Ctrl-C either.
    reader = ThreadPoolExecutor(1)

    async def act_on_next() -> None:
        while (item := await loop.run_in_executor(reader, next, waiting, None)) is not None:
            await act(item)

    await asyncio.gather(*(act_on_next() for _ in range(SIDE_BY_SIDE)))


def run(script: Coroutine[Any, Any, int | None], *, interrupted: str) -> Never:
    """Run a script and leave with the exit code that it returns, or after an error with one line.

    What Ctrl-C means for the user is said by `interrupted`.
    """
    try:
        exit_code = asyncio.run(script) or 0
    except KeyboardInterrupt:
        hint(f"interrupted: {interrupted}")
        exit_code = 130
    except (connection.TemporalError, OSError) as error:
        hint(f"error: {explain(error)}")
        exit_code = 1
    except Exception:  # noqa: BLE001 (a bug of ours: the only thing that shows a traceback)
        traceback.print_exc()
        exit_code = 1
    # The threads of the SDK's Rust core outlive the interpreter, which sometimes crashes
    # while it shuts down (temporalio/sdk-python issue 300): so it does not shut down.
    os._exit(exit_code)
