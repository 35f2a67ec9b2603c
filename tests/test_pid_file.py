"""worker.pid has at most one owner."""

import asyncio
import os
import signal
from pathlib import Path

from order_fulfillment.support.pid_file import hold_pid_file
from tests.conftest import Shop


async def test_a_second_worker_waits_for_the_first_to_stop_and_then_says_who_it_is(
    shop: Shop,
) -> None:
    with shop.worker() as worker:
        second = shop.start("worker.py")

        assert await asyncio.to_thread(second.wait, 20) == 1
        *_, error = second.stderr.splitlines()
        assert error == f"error: 'worker.pid' is held by worker {worker.pid}"
        assert worker.returncode is None

    assert not (shop.folder / "worker.pid").exists()


async def test_ctrl_c_ends_a_worker_that_waits_for_another(shop: Shop) -> None:
    with shop.worker():
        second = shop.start("worker.py")
        second.until_prints("waiting for the worker")
        second.send(signal.SIGINT)

        assert await asyncio.to_thread(second.wait, 5) == 130
        assert second.stderr.endswith("interrupted: orders wait for the next worker\n")


async def test_a_worker_that_is_told_to_stop_is_followed_by_the_next_one(shop: Shop) -> None:
    with shop.worker() as first:
        first.send(signal.SIGSTOP)  # It takes its time.
        first.send(signal.SIGTERM)
        second = shop.start("worker.py")
        second.until_prints("waiting for the worker")
        first.send(signal.SIGCONT)

        second.until_prints(" is polling ")
        assert await asyncio.to_thread(first.wait, 10) == 0
        assert (shop.folder / "worker.pid").read_text() == f"{second.pid}\n"
        second.send(signal.SIGTERM)
        assert await asyncio.to_thread(second.wait, 10) == 0


async def test_a_killed_workers_file_is_taken_over_at_once(tmp_path: Path) -> None:
    pid_file = tmp_path / "worker.pid"
    pid_file.write_text("4711\n")

    async with asyncio.timeout(1), hold_pid_file(pid_file):
        assert pid_file.read_text() == f"{os.getpid()}\n"

    assert not pid_file.exists()
