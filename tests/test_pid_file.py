"""worker.pid has at most one owner."""

import signal

from tests.conftest import Shop


def test_a_second_worker_waits_for_the_first_to_stop_and_then_says_who_it_is(shop: Shop) -> None:
    with shop.worker() as worker:
        second, impatient = shop.start("worker.py"), shop.start("worker.py")
        impatient.until_prints("waiting for the worker")
        impatient.send(signal.SIGINT)

        assert impatient.wait(5) == 130
        assert impatient.stderr.endswith("interrupted: orders wait for the next worker\n")
        assert second.wait(20) == 1
        *_, error = second.stderr.splitlines()
        assert error == f"error: 'worker.pid' is held by worker {worker.pid}"
        assert worker.returncode is None


def test_a_worker_that_is_told_to_stop_is_followed_by_the_next_one(shop: Shop) -> None:
    with shop.worker() as first:
        first.send(signal.SIGSTOP)  # It takes its time.
        first.send(signal.SIGTERM)
        second = shop.start("worker.py")
        second.until_prints("waiting for the worker")
        first.send(signal.SIGCONT)

        second.until_prints(" is polling ")
        assert first.wait(10) == 0
        assert (shop.folder / "worker.pid").read_text() == f"{second.pid}\n"
        second.send(signal.SIGTERM)
        assert second.wait(10) == 0
