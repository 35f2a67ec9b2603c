"""worker.pid has at most one owner, and nothing else that is in its place is overwritten."""

import os
import re
import stat
import subprocess
import sys
from contextlib import ExitStack
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


def test_a_file_of_the_users_is_refused_and_left_alone(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("4711 things to do")

    with pytest.raises(CommandError, match="is not a PID file, but has other"), held(notes):
        pass

    assert notes.read_text() == "4711 things to do"


@pytest.mark.parametrize("left", ["stale", "reused", "empty"])
def test_what_a_dead_worker_left_is_taken_over(tmp_path: Path, left: str) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    pid_file = tmp_path / "worker.pid"
    pid_file.write_text(
        {"stale": f"{dead.pid}\n", "reused": f"{os.getppid()}\n", "empty": ""}[left]
    )

    with held(pid_file):
        assert pid_file.read_text() == f"{os.getpid()}\n"

    assert not pid_file.exists()


def test_the_owner_of_a_file_that_is_held_is_named(tmp_path: Path) -> None:
    pid_file = tmp_path / "worker.pid"

    with (
        held(pid_file),
        pytest.raises(CommandError, match=f" is held by worker {os.getpid()}; stop that worker"),
        held(pid_file),
    ):
        pass


def test_of_workers_that_race_for_the_file_one_wins(shop: Shop) -> None:
    pid_file = shop.folder / "worker.pid"
    workers = [shop.start("worker.py") for _ in range(3)]
    try:

        def running() -> list[subprocess.Popen[str]]:
            return [worker for worker in workers if worker.poll() is None]

        wait_until(lambda: len(running()) == 1, "all but one worker to give up")
        (winner,) = running()
        wait_until(lambda: pid_file.read_text() == f"{winner.pid}\n", "the last to own the file")
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
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert not pid_file.exists()


def test_a_file_that_no_longer_is_the_workers_own_is_left_alone(tmp_path: Path) -> None:
    pid_file = tmp_path / "worker.pid"
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(held(pid_file))
        pid_file.unlink()
        second.enter_context(held(pid_file))

        first.close()
        assert pid_file.read_text() == f"{os.getpid()}\n"

        pid_file.unlink()
        pid_file.write_text("a note of the user's")
        second.close()
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
