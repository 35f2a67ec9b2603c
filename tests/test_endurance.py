"""Nothing is lost and nothing done twice, whatever is killed, restarted or sent too often.

`uv run pytest tests/test_endurance.py --full-size -n 0 -s --timeout 0` takes some minutes and prints figures;
`uv run pytest` runs a small version of most.
"""

import asyncio
import json
import random
import re
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from temporalio.client import Client

from order_fulfillment.services import INITIAL_STOCK
from order_fulfillment.shared import ApprovalDecision, OrderStatus, Simulation
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop, clean_environment, free_port
from tests.history import ITEMS, attempts, events, place, until_event, until_status

APPROVED = ApprovalDecision(True)


async def test_killed_workers_lose_nothing_and_do_nothing_twice(
    shop: Shop, dev_server: Client, full_size: bool
) -> None:
    task_queue = shop.task_queue
    kills = 10 if full_size else 2
    # Between the service's commit and the activity's answer there is time to be killed.
    slow = shop.with_change(
        "services.py",
        "            yield self._books\n",
        "            yield self._books\n        __import__('time').sleep(0.3)\n",
    )
    orders = [
        await place(dev_server, task_queue, approval_timeout=600, simulation=Simulation(number % 3))
        for number in range(100 if full_size else 10)
    ]

    async def approve_sometime(order_number: int) -> None:
        await asyncio.sleep(random.uniform(0, 2.5 * kills))
        await orders[order_number].signal(OrderWorkflow.approve_order, APPROVED)

    def kill_workers() -> None:
        for _ in range(kills):
            with slow.worker() as worker:
                worker.wait(random.uniform(0, 2))
                worker.kill()

    approving = asyncio.gather(*(approve_sometime(number) for number in range(len(orders))))
    await asyncio.to_thread(kill_workers)
    await approving
    with slow.worker():
        async with asyncio.timeout(60):
            results = await asyncio.gather(*(order.result() for order in orders))

    assert {result.status for result in results} == {OrderStatus.FULFILLED}
    answers = Counter(re.findall(r"order-\S+: (?:Auth|Res|Capt).+", shop.log))
    with closing(sqlite3.connect(shop.books)) as books:
        for order in orders:
            keys = f"idempotency_key LIKE '{order.id}/%'"
            for effect in (
                f"authorizations WHERE {keys}",
                f"(SELECT DISTINCT reference FROM holds WHERE {keys})",
                f"authorizations WHERE {keys} AND captured_at IS NOT NULL",
                f"shipments WHERE {keys}",
            ):
                [count] = books.execute(f"SELECT count(*) FROM {effect}").fetchone()
                assert count == 1, effect
        for item in ITEMS:
            on_hand = books.execute(f"SELECT on_hand FROM stock WHERE sku = '{item.sku}'")
            sold = item.quantity * len(orders)
            assert on_hand.fetchone() == (INITIAL_STOCK[item.sku] - sold,)
    times = Counter(answers.values())
    print(f"\n{len(orders)} orders fulfilled, each step in the books once; logged: {times}")


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


async def test_a_killed_server_forgets_nothing(tmp_path: Path) -> None:
    port = free_port()
    address, database = f"127.0.0.1:{port}", tmp_path / "temporal.db"
    shop = Shop(
        tmp_path,
        clean_environment() | {"TEMPORAL_ADDRESS": address, "TEMPORAL_TASK_QUEUE": "orders"},
    )
    with ExitStack() as stack:
        with dev_server_on(port, database):
            client = await connected_to(address)
            worker = stack.enter_context(shop.worker())
            approved, expiring = [
                await place(client, "orders", approval_timeout=seconds) for seconds in (600, 10)
            ]
            for order in (expiring, approved):
                await until_status(order, OrderStatus.AWAITING_APPROVAL)

            waiting = shop.start("signals.py", "result", expiring.id)
            waiting.until_prints("status: AWAITING_APPROVAL\n")

        waiting.until_prints("still waiting: the Temporal server gave no answer\n")
        with dev_server_on(port, database):
            await approved.signal(OrderWorkflow.approve_order, APPROVED)
            results = [await order.result() for order in (approved, expiring)]

            assert [result.status for result in results] == ["FULFILLED", "EXPIRED"]
            assert await asyncio.to_thread(waiting.wait) == 0, waiting.stderr
            assert json.loads(waiting.stdout)["status"] == "EXPIRED"
            assert worker.returncode is None
            worker.send(signal.SIGTERM)
            assert await asyncio.to_thread(worker.wait, 15) == 0


async def test_one_of_two_workers_is_stopped_and_the_other_takes_over(
    shop: Shop, dev_server: Client, full_size: bool
) -> None:
    task_queue = shop.task_queue
    # Deliveries that take a second are under way when the worker is told to stop.
    slow = shop.with_change(
        "activities.py",
        'activity.logger.info("Captured',
        '__import__("time").sleep(1); activity.logger.info("Captured',
    )
    with (
        slow.worker("--pid-file", "staying.pid") as staying,
        slow.worker("--pid-file", "leaving.pid") as leaving,
    ):
        orders = [
            await place(dev_server, task_queue, approval_timeout=600)
            for _ in range(200 if full_size else 10)
        ]
        for order in orders:
            await until_status(order, OrderStatus.AWAITING_APPROVAL)
        half = len(orders) // 2
        for order in orders[:half]:
            await order.signal(OrderWorkflow.approve_order, APPROVED)
        for order in orders[:half]:
            await until_event(order, "TIMER_CANCELED")
        leaving.send(signal.SIGTERM)
        for order in orders[half:]:
            await order.signal(OrderWorkflow.approve_order, APPROVED)
        async with asyncio.timeout(30):
            results = await asyncio.gather(*(order.result() for order in orders))
        assert await asyncio.to_thread(leaving.wait, 15) == 0

    assert {result.status for result in results} == {OrderStatus.FULFILLED}
    assert "Captured" in staying.stderr
    assert "Captured" in leaving.stderr
    happened = Counter[str]()
    for order in orders:
        assert await attempts(order) == [1, 1, 1]
        happened.update(await events(order))
    print(f"\n{len(orders)} orders fulfilled: {happened}")
    assert happened["ACTIVITY_TASK_COMPLETED"] == 3 * len(orders)
