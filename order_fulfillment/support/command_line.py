"""The command line of a script: mistakes, output, exit codes."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Never

from temporalio.exceptions import TemporalError

from order_fulfillment.support.connection import explain_call


class ArgumentParser(argparse.ArgumentParser):
    """Reports a mistake in one line, with exit code 2."""

    def error(self, message: str) -> Never:
        """Called by argparse with the mistake."""
        self.exit(2, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def printable(text: str) -> str:
    """Show control characters instead of letting the terminal obey them."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def print_result(*fields: str, file: Any = None) -> None:
    """Print a line with tabs between its fields, on stdout by default."""
    with suppress(BrokenPipeError):  # `head -1` has all it wants; the script has more to do.
        print(*map(printable, fields), sep="\t", flush=True, file=file)


def print_message(line: str) -> None:
    """Tell a person something, on stderr: stdout is for programs."""
    print_result(line, file=sys.stderr)


async def in_thread[T](call: Callable[..., T], *arguments: object) -> T:
    """Call a function that waits. Unlike `asyncio.to_thread`, this does not hold up Ctrl-C."""
    return await asyncio.get_running_loop().run_in_executor(ThreadPoolExecutor(1), call, *arguments)


async def side_by_side[T, R](act: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """Act on all items, on fifty at once, and return the answers; or raise the first error."""
    free = asyncio.Semaphore(50)  # So many calls a server answers in time.

    async def act_on(item: T) -> R:
        async with free:
            return await act(item)

    return await asyncio.gather(*map(act_on, items))


def run(
    script: Coroutine[Any, Any, int | None],
    interrupted: str,
    explain: Callable[[Exception], str] = explain_call,
) -> Never:
    """Run a script, and leave with its exit code, or after an error or Ctrl-C with one line."""
    exit_code = 1
    try:
        exit_code = asyncio.run(script) or 0
    except (KeyboardInterrupt, asyncio.CancelledError):
        print_message(f"interrupted: {interrupted}")
        exit_code = 130
    except (TemporalError, OSError) as error:
        print_message(f"error: {explain(error)}")
    # While the interpreter shuts down, threads of the SDK's Rust core sometimes crash it
    # (temporalio/sdk-python issue 300). `_exit` leaves without that.
    os._exit(exit_code)
