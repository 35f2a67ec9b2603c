"""Keeps a worker's process ID in a file, which one worker at a time holds."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from order_fulfillment.support.command_line import print_message


@asynccontextmanager
async def hold_pid_file(path: Path) -> AsyncIterator[None]:
    """Hold the file with this process's ID in it, and empty it at the end.

    Wait up to ten seconds for another worker to end. OSError when the file cannot be had.
    """
    with path.open("a+") as file:
        for attempt in range(100):
            with suppress(BlockingIOError):
                # The lock goes with the process, however it ends.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if attempt == 0:
                print_message(f"waiting for the worker that holds {str(path)!r}")
            await asyncio.sleep(0.1)
        else:
            raise FileExistsError(f"{str(path)!r} is held by worker {path.read_text().strip()}")
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        try:
            yield
        finally:
            file.truncate(0)
