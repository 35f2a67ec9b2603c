"""Keeps a worker's process ID in a file that no second worker can take."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the file with this process's ID in it, and remove it at the end.

    Raises:
        OSError: when it cannot be written, another worker holds it, or it is no PID file.
    """
    with path.open("a+", errors="replace") as file:
        file.seek(0)
        content = file.read(20).strip()
        try:
            # The lock goes with the process, however it ends; the file may stay.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(f"{str(path)!r} is held by worker {content}") from None
        if content and not content.isdecimal():
            raise FileExistsError(f"{str(path)!r} is no PID file, but has other content")
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        try:
            yield
        finally:
            # Somebody may have removed it meanwhile, and the next worker have its own there.
            if path.exists() and path.read_text() == f"{os.getpid()}\n":
                path.unlink()
