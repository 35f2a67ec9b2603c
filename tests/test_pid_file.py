"""worker.pid has at most one owner, and nothing else that is in its place is overwritten."""

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from order_fulfillment.support.command_line import CommandError
from order_fulfillment.support.pid_file import held
from tests.conftest import Shop, wait_until


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing/worker.pid", "No such file or directory"),
        ("file/worker.pid", "Not a directory"),
        ("folder", "Is a directory"),
        ("pipe", "File or stream is not seekable."),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_pid_file_that_cannot_be_written_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    os.mkfifo("pipe")

    with pytest.raises(CommandError) as error, held(Path(path)):
        pass

    assert str(error.value) == f"cannot write {path!r}: {reason}; name another --pid-file"


def test_a_device_is_refused_and_left_alone(tmp_path: Path) -> None:
    device = Path("/dev/null")
    if os.geteuid() == 0:  # Who could remove it.
        device = tmp_path / "null"
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))

    with pytest.raises(CommandError, match="it is a device"), held(device):
        pass

    assert device.is_char_device()


def test_a_worker_without_room_for_its_pid_file_stops_with_one_line(shop: Shop) -> None:
    # A limit on the size of files stands for a full disk.
    limited = dedent("""
        import resource, sys
        sys.argv = ["worker.py", "--shop-db", "shop.db"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        from order_fulfillment.worker import main
        main()
    """)

    worker = subprocess.run(
        [sys.executable, "-c", limited],
        cwd=shop.folder,
        env=shop.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (worker.returncode, worker.stdout) == (1, "")
    assert worker.stderr == (
        "error: cannot write 'worker.pid': File too large; name another --pid-file\n"
    )
    assert not (shop.folder / "worker.pid").exists()


def test_a_file_of_the_users_is_refused_and_left_alone(shop: Shop) -> None:
    notes = shop.folder / "notes.txt"
    notes.write_text("4711 things to do")

    worker = shop.run("worker.py", "--pid-file", "notes.txt")

    assert (worker.returncode, worker.stdout) == (1, "")
    assert worker.stderr == (
        "error: 'notes.txt' is not a PID file, but has other content; name another --pid-file\n"
    )
    assert notes.read_text() == "4711 things to do"


def test_what_a_dead_worker_left_is_taken_over(shop: Shop) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    contents = {
        "stale.pid": f"{dead.pid}\n".encode(),
        "reused.pid": f"{os.getpid()}\n".encode(),
        "empty.pid": b"",
    }
    for name, content in contents.items():
        (shop.folder / name).write_bytes(content)

    with started(shop, *contents) as workers:
        for name, worker in zip(contents, workers, strict=True):
            wait_for_owner(shop.folder / name, worker)
            worker.terminate()

        for name, worker in zip(contents, workers, strict=True):
            assert worker.wait(timeout=15) == 0
            assert not (shop.folder / name).exists()


def test_of_workers_that_race_for_the_file_one_wins(shop: Shop) -> None:
    with started(shop, *["worker.pid"] * 3) as workers:

        def running() -> list[subprocess.Popen[str]]:
            return [worker for worker in workers if worker.poll() is None]

        wait_until(lambda: len(running()) == 1, "all but one worker to give up")
        (winner,) = running()
        wait_for_owner(shop.folder / "worker.pid", winner)
        for loser in set(workers) - {winner}:
            _, stderr = loser.communicate()
            assert loser.returncode == 1
            assert re.fullmatch(
                rf"error: 'worker\.pid' is held by (worker {winner.pid}|another worker); "
                "stop that worker, or give this one a --pid-file of its own\n",
                stderr,
            )

        winner.terminate()
        assert winner.wait(timeout=15) == 0
    assert not (shop.folder / "worker.pid").exists()


def test_a_file_that_no_longer_is_the_workers_own_is_left_alone(shop: Shop) -> None:
    pid_file = shop.folder / "worker.pid"
    with started(shop, "worker.pid") as (first,):
        wait_for_owner(pid_file, first)
        pid_file.unlink()
        with started(shop, "worker.pid") as (second,):
            wait_for_owner(pid_file, second)

            first.terminate()
            assert first.wait(timeout=15) == 0
            assert pid_file.read_text() == f"{second.pid}\n"

            pid_file.unlink()
            pid_file.write_text("a note of the user's")
            second.send_signal(signal.SIGINT)
            assert second.wait(timeout=15) == 0
            assert pid_file.read_text() == "a note of the user's"


def test_a_worker_whose_folder_is_gone_stops_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    with held(folder / "worker.pid"):
        folder.rename(tmp_path / "elsewhere")
        folder.touch()

    assert folder.is_file()


@pytest.mark.parametrize(
    ("scribble", "owner"),
    [("4711\n", "worker 4711"), ("", "another"), ("\x1b[31m", "another")],
)
def test_a_held_file_stays_held_whatever_is_scribbled_in_it(
    tmp_path: Path, scribble: str, owner: str
) -> None:
    pid_file = tmp_path / "worker.pid"
    with held(pid_file):
        pid_file.write_text(scribble)

        with pytest.raises(CommandError, match=f" is held by {owner}"), held(pid_file):
            pass


@contextmanager
def started(shop: Shop, *pid_files: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a worker for each PID file, at once; whatever still runs is killed at the end."""
    workers = [shop.start("worker.py", "--pid-file", name) for name in pid_files]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def wait_for_owner(pid_file: Path, worker: subprocess.Popen[str]) -> None:
    def is_owner() -> bool:
        return pid_file.exists() and pid_file.read_bytes() == f"{worker.pid}\n".encode()

    wait_until(is_owner, f"worker {worker.pid} to own {pid_file.name}")
