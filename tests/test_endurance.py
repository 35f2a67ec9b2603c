"""Nothing is lost and nothing done twice, whatever is killed, restarted or sent too often.

`uv run pytest tests/test_endurance.py --full-size -n 0 -s --timeout 0` takes some minutes and prints
figures and the seed, which STORM_SEED repeats; `uv run pytest` runs a small storm.
"""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistory
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from order_fulfillment.services import INITIAL_STOCK
from order_fulfillment.shared import OrderStatus
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop, clean_environment, free_port, shop_on
from tests.history import (
    APPROVED,
    DELIVERED,
    ITEMS,
    ORDER,
    REJECTED,
    attempts,
    place,
    until_event,
    until_status,
)
from tests.record_histories import MALFORMED

DEADLINE_SECONDS = 300  # The storm at full size has to end, too.


@contextmanager
def dev_server_on(port: int, database: Path) -> Iterator[None]:
    """A dev server that is killed at the end and leaves its database behind."""
    temporal = shutil.which("temporal")
    assert temporal
    process = subprocess.Popen(
        [
            *(temporal, "server", "start-dev", "--headless", "--log-level", "never"),
            *("--ip", "127.0.0.1", "--port", str(port), "--db-filename", str(database)),
        ],
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def connected_to(address: str) -> Client:
    """A client of a server that is about to come up."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await Client.connect(address)
            except RuntimeError:
                await asyncio.sleep(0.05)


class Storm:
    """Two workers and a server, which are killed at random moments until it is over."""

    def __init__(self, shop: Shop, port: int, seed: int) -> None:
        self._shop, self._port, self._seed = shop, port, seed
        self._over = Event()
        self.kills = Counter[str]()

    def blow(self, seconds: float) -> None:
        """Kill everything again and again for so long."""
        with ThreadPoolExecutor(3) as threads:
            keeping = [
                threads.submit(self._keep_server, Random(self._seed)),
                *(threads.submit(self._keep_worker, n, Random(self._seed + n)) for n in (1, 2)),
            ]
            self._over.wait(seconds)
            self._over.set()
        for each in keeping:
            each.result()

    def _keep_server(self, random: Random) -> None:
        while not self._over.is_set():
            with dev_server_on(self._port, self._shop.folder / "temporal.db"):
                self._over.wait(random.uniform(4, 10))
            self.kills["server"] += 1

    def _keep_worker(self, number: int, random: Random) -> None:
        while not self._over.is_set():
            worker = self._shop.start("worker.py", "--pid-file", f"{number}.pid")
            worker.wait(random.uniform(2, 6))
            if worker.returncode is None:
                worker.kill()
                self.kills["worker"] += 1


async def insist(call: Callable[[], Awaitable[object]]) -> None:
    """Make a call until the server takes it, or tells that the order has ended."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            try:
                await asyncio.wait_for(call(), 5)
                return
            except (RPCError, TimeoutError) as error:
                if isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND:
                    return
                await asyncio.sleep(0.2)


async def live_through(
    client: Client, shop: Shop, order_id: str, random: Random, seconds: float
) -> None:
    """Start an order, and do to it at random moments what people do."""
    order = client.get_workflow_handle_for(OrderWorkflow.run, order_id)
    seconds_to_decide, outage = random.choice([2, 600, 600]), random.choice([0, 1, 2])

    async def start() -> None:
        with suppress(WorkflowAlreadyStartedError):
            await client.start_workflow(
                OrderWorkflow.run,
                replace(ORDER, approval_timeout=seconds_to_decide, outage_attempts=outage),
                id=order_id,
                task_queue=shop.task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            )

    async def reset() -> None:
        run = await asyncio.to_thread(
            shop.temporal,
            *("workflow", "reset", "--workflow-id", order_id, "--type", "FirstWorkflowTask"),
            *("--reason", "storm", "--command-timeout", "3s"),
        )
        if run.returncode:
            raise TimeoutError  # It has not begun yet, or there is no server.

    def signal(arguments: list[Any]) -> Callable[[], Awaitable[object]]:
        return lambda: order.signal("approve_order", args=arguments)

    acts: list[tuple[float, Callable[[], Awaitable[object]]]] = []
    for _ in range(random.choice([0, 1, 1, 2, 3])):
        decision = {"approved": random.random() < 0.7, "by": random.choice("AB")}
        acts.append((random.choice([0, random.uniform(0, seconds)]), signal([decision])))
    if random.random() < 0.3:
        malformed = random.choice([*MALFORMED, [None]])
        acts.append((random.uniform(0, seconds), signal(malformed)))
    # A reset does not keep a cancel request, so no order gets both.
    if end := random.choice([None, None, order.cancel, reset]):
        acts.append((random.uniform(1, seconds), end))
    await insist(start)
    elapsed = 0.0
    for at, act in sorted(acts, key=lambda each: each[0]):
        await asyncio.sleep(at - elapsed)
        elapsed = at
        await insist(act)


def first_decision(history: WorkflowHistory) -> bool | None:
    """The verdict of the first valid signal; None if there is none."""
    for event in history.events:
        payloads = event.workflow_execution_signaled_event_attributes.input.payloads
        decision = json.loads(payloads[0].data or b"null") if len(payloads) == 1 else None
        if isinstance(decision, dict):
            return bool(decision["approved"])
    return None


VERDICTS: dict[str, set[bool | None]] = {
    "FULFILLED": {True},
    "REJECTED": {False},
    "EXPIRED": {None},
    "CANCELED": {True, False, None},
}


async def end_of(client: Client, order_id: str, books: sqlite3.Connection) -> str:
    """Wait for an order's end, and see that its status, its history and the books agree on it."""
    order = client.get_workflow_handle_for(OrderWorkflow.run, order_id)
    if first_decision(await order.fetch_history()) is None:
        # It might wait for ten minutes.
        await insist(lambda: order.signal(OrderWorkflow.approve_order, REJECTED))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (ended := (await order.describe()).status) == WorkflowExecutionStatus.RUNNING:
            await asyncio.sleep(0.1)
    canceled = ended == WorkflowExecutionStatus.CANCELED
    status = "CANCELED" if canceled else str((await order.result()).status)
    rows = [
        books.execute(
            f"SELECT count(DISTINCT idempotency_key) FROM {table} WHERE idempotency_key LIKE ?",
            (f"{order_id}/%",),
        ).fetchone()[0]
        for table in ("authorizations", "holds", "shipments")
    ]
    assert first_decision(await order.fetch_history()) in VERDICTS[status], (order_id, status)
    assert rows[2] == (status == "FULFILLED"), (order_id, status, rows)
    assert max(rows) <= 1, (order_id, rows)
    return status


async def test_books_histories_and_statuses_agree_after_a_storm(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seed = int(os.environ.get("STORM_SEED") or Random().randrange(10**6))
    number, seconds = (500, 150) if pytestconfig.getoption("full_size") else (12, 8)
    print(f"\nSTORM_SEED={seed}")
    random, port = Random(seed), free_port()
    shop = shop_on(f"127.0.0.1:{port}", tmp_path)
    # Between the service's commit and the activity's answer there is time to be killed.
    commit = "            yield self._books\n"
    pause = "        __import__('time').sleep(0.1)\n"
    slow = shop.with_change("services.py", commit, f"{commit}{pause}")
    storm = Storm(slow, port, seed)
    blowing = asyncio.create_task(asyncio.to_thread(storm.blow, seconds))
    client = await connected_to(f"127.0.0.1:{port}")
    ids = [f"order-{n}" for n in range(number)]
    people = [
        asyncio.create_task(live_through(client, shop, each, Random(random.random()), seconds))
        for each in ids
    ]
    await blowing

    with dev_server_on(port, tmp_path / "temporal.db"):
        client = await connected_to(f"127.0.0.1:{port}")
        with slow.worker("--pid-file", "1.pid"), closing(sqlite3.connect(shop.books)) as books:
            async with asyncio.timeout(300):
                await asyncio.gather(*people)
                ended = Counter([await end_of(client, order_id, books) for order_id in ids])
            taken = "SELECT count(*) FROM authorizations WHERE captured_at IS NOT NULL"
            assert books.execute(taken).fetchone() == (ended["FULFILLED"],)
            for item in ITEMS:
                on_hand = books.execute("SELECT on_hand FROM stock WHERE sku = ?", (item.sku,))
                sold = item.quantity * ended["FULFILLED"]
                assert on_hand.fetchone() == (INITIAL_STOCK[item.sku] - sold,)
    print(f"{number} orders: {dict(ended)}; killed: {dict(storm.kills)}")


async def test_a_killed_server_forgets_nothing(tmp_path: Path) -> None:
    port, database = free_port(), tmp_path / "temporal.db"
    shop = shop_on(f"127.0.0.1:{port}", tmp_path)
    with dev_server_on(port, database):
        client = await connected_to(f"127.0.0.1:{port}")
        worker = shop.start("worker.py")
        approved = await place(client, shop.task_queue, approval_timeout=600)
        started = await asyncio.to_thread(shop.run, "starter.py", "--approval-timeout", "10")
        expiring = client.get_workflow_handle_for(OrderWorkflow.run, started.stdout.strip())
        for order in (expiring, approved):
            await until_status(order, OrderStatus.AWAITING_APPROVAL)
        waiting = shop.start("signals.py", "result", expiring.id)
        waiting.until_prints("waits for a decision")

    waiting.until_prints("still waiting: the Temporal server gave no answer\n")
    with dev_server_on(port, database):
        await approved.signal(OrderWorkflow.approve_order, APPROVED)
        results = [await order.result() for order in (approved, expiring)]

        assert [result.status for result in results] == ["FULFILLED", "EXPIRED"]
        assert await asyncio.to_thread(waiting.wait) == 0, waiting.stderr
        assert json.loads(waiting.stdout)["status"] == "EXPIRED"
        worker.send(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 15) == 0


async def test_one_of_two_workers_is_stopped_and_the_other_takes_over(
    shop: Shop, dev_server: Client
) -> None:
    # Deliveries that take a second are under way when the worker is told to stop.
    captured = 'activity.logger.info("Captured'
    pause = f'activity.logger.info("Delivering"); __import__("time").sleep(1); {captured}'
    slow = shop.with_change("activities.py", captured, pause)
    with (
        slow.worker("--pid-file", "staying.pid") as staying,
        slow.worker("--pid-file", "leaving.pid") as leaving,
    ):
        orders = [await place(dev_server, shop.task_queue, approval_timeout=600) for _ in range(20)]
        for order in orders:
            await until_status(order, OrderStatus.AWAITING_APPROVAL)
        rest = iter(orders)
        while "Delivering" not in leaving.stderr:  # Either worker may get a delivery.
            order = next(rest)
            await order.signal(OrderWorkflow.approve_order, APPROVED)
            await until_event(order, "TIMER_CANCELED")
        leaving.send(signal.SIGTERM)
        for order in rest:
            await order.signal(OrderWorkflow.approve_order, APPROVED)
        async with asyncio.timeout(30):
            results = await asyncio.gather(*(order.result() for order in orders))
        assert await asyncio.to_thread(leaving.wait, 15) == 0

    assert {result.status for result in results} == {OrderStatus.FULFILLED}
    assert "Captured" in staying.stderr
    assert "Captured" in leaving.stderr
    for order in orders:
        assert await attempts(order) == [1] * len(DELIVERED)
