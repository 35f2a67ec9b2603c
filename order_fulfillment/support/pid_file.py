"""Keeps a worker's process ID in a file, which one worker at a time holds."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from order_fulfillment.support.command_line import print_message

PATIENCE_SECONDS = 10


@asynccontextmanager
async def hold_pid_file(path: Path) -> AsyncIterator[None]:
    """Hold the file with this process's ID in it, and remove it at the end.

    Wait for a worker that was told to stop. OSError when the file stays held or cannot be written.
    """
    for attempt in range(10 * PATIENCE_SECONDS):
        file = path.open("a+")
        with suppress(BlockingIOError, FileNotFoundError):
            # The lock goes with the process, however it ends; the file may stay.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samefile(path, file.fileno()):  # Its holder may just have removed it.
                break
        file.close()
        if attempt == 0:
            print_message(f"waiting for the worker that holds {str(path)!r}")
        await asyncio.sleep(0.1)
    else:
        raise FileExistsError(f"{str(path)!r} is held by worker {path.read_text().strip()}")
    with file:
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        try:
            yield
        finally:
            # After `rm worker.pid` the next worker may have its own file there.
            with suppress(FileNotFoundError):
                if os.path.samefile(path, file.fileno()):
                    path.unlink()
