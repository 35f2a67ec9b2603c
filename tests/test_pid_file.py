"""worker.pid has at most one owner, and nothing else that is in its place is overwritten."""

import os
from pathlib import Path

import pytest

from order_fulfillment.support.pid_file import held
from tests.conftest import Shop, one_line


def test_a_second_worker_is_refused_and_told_who_the_first_one_is(shop: Shop) -> None:
    with shop.worker() as worker:
        second = shop.run("worker.py")

        assert second.returncode == 1
        error = f"error: 'worker.pid' is held by worker {worker.pid}"
        assert one_line(second.stderr).startswith(error)
        assert worker.returncode is None

    assert not (shop.folder / "worker.pid").exists()


def test_a_file_of_the_users_is_refused_and_left_alone(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_bytes(b"4711 things to do at the caf\xe9")

    with pytest.raises(OSError, match="is no PID file, but has other content"), held(notes):
        pass

    assert notes.read_bytes() == b"4711 things to do at the caf\xe9"


def test_a_worker_that_is_slow_to_stop_leaves_the_file_of_the_next_one(tmp_path: Path) -> None:
    pid_file = tmp_path / "worker.pid"
    with held(pid_file):
        pid_file.unlink()
        pid_file.write_text("4711\n")

    assert pid_file.read_text() == "4711\n"


@pytest.mark.parametrize("left", ["4711\n", ""])
def test_what_a_killed_worker_left_is_taken_over(tmp_path: Path, left: str) -> None:
    pid_file = tmp_path / "worker.pid"
    pid_file.write_text(left)

    with held(pid_file):
        assert pid_file.read_text() == f"{os.getpid()}\n"

    assert not pid_file.exists()
