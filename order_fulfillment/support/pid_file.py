"""Keeps a worker's process ID in a file that no other worker can take meanwhile."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from order_fulfillment.support.command_line import CommandError


@contextmanager
def held(pid_file: Path) -> Iterator[None]:
    """Hold the file, and remove it at the end.

    Raises:
        CommandError: when another worker holds it, it cannot be written, or it holds anything
            but a process ID.
    """
    try:
        file = _take(pid_file)
    except OSError as error:
        raise CommandError(
            f"cannot write {str(pid_file)!r}: {error.strerror or error}; name another --pid-file"
        ) from None
    with file:
        try:
            yield
        finally:
            _remove(file, pid_file)


def _take(pid_file: Path) -> TextIO:
    """Lock the file and write the ID to it; the lock, unlike the ID, cannot outlive us."""
    while True:
        file = pid_file.open("a+", errors="replace")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is a device")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = True
        except BlockingIOError:
            is_free = False
        file.seek(0)
        content = file.read(20).strip()
        if not is_free:
            owner = f"worker {content}" if content.isdecimal() else "another worker"
            raise CommandError(
                f"{str(pid_file)!r} is held by {owner}; "
                "stop that worker, or give this one a --pid-file of its own"
            )
        if content and not content.isdecimal():
            raise CommandError(
                f"{str(pid_file)!r} is not a PID file, but has other content; "
                "name another --pid-file"
            )
        # Its last owner may have removed the file just before we locked it.
        if _is_at(file, pid_file):
            try:
                file.truncate(0)
                print(os.getpid(), file=file, flush=True)
            except OSError:
                _remove(file, pid_file)
                raise
            return file
        file.close()


def _remove(file: TextIO, pid_file: Path) -> None:
    # A file that cannot be removed stops nobody, once the lock is gone.
    with suppress(OSError):
        if _is_at(file, pid_file):
            pid_file.unlink()


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
