"""Each step of an order takes effect once in the services' books, however often it is attempted."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError

from order_fulfillment.shared import CATALOGUE, ApprovalDecision, OrderItem, OrderStatus
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import SCRIPTS, Shop, address_of
from tests.history import OrderHandle, attempts, place, until, until_status

APPROVED, REJECTED = ApprovalDecision(True), ApprovalDecision(False)
# There are ten of them.
POSTER = OrderItem("temporal-poster", 1, 60_00)


def query(shop: Shop, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(shop.books)) as books:
        rows = books.execute(statement).fetchall()
        books.commit()
    return rows


def rows_by_order(shop: Shop) -> dict[str, list[str]]:
    """What the books have for each order: the kinds of its references."""
    rows: dict[str, list[str]] = {}
    for key, reference in query(shop, "SELECT idempotency_key, reference FROM ledger"):
        rows.setdefault(key.partition("/")[0], []).append(reference.partition("-")[0])
    return rows


async def outcome(order: OrderHandle) -> str:
    try:
        return (await order.result()).status
    except WorkflowFailureError as error:
        match error.cause:
            case ActivityError(cause=ApplicationError(type=kind)):
                return str(kind)
        raise


async def forty_orders(client: Client, shop: Shop, decision: ApprovalDecision) -> Counter[str]:
    """Order the last ten pieces forty times, and decide about all orders early."""
    orders = [
        await place(client, shop.environment["TEMPORAL_TASK_QUEUE"], items=[POSTER])
        for _ in range(40)
    ]
    for order in orders:
        await order.signal(OrderWorkflow.approve_order, decision)
    with shop.worker():
        return Counter(await asyncio.gather(*map(outcome, orders)))


async def test_of_forty_orders_for_the_last_ten_pieces_ten_are_fulfilled(
    shop: Shop, dev_server: Client
) -> None:
    outcomes = await forty_orders(dev_server, shop, APPROVED)

    assert outcomes == {"FULFILLED": 10, "OutOfStockError": 30}
    assert query(shop, "SELECT on_hand FROM stock WHERE sku = 'temporal-poster'") == [(0,)]


async def test_pieces_of_rejected_orders_are_back_when_the_holds_lapse(
    shop: Shop, dev_server: Client
) -> None:
    outcomes = await forty_orders(dev_server, shop, REJECTED)
    task_queue = shop.environment["TEMPORAL_TASK_QUEUE"]
    with shop.worker():
        too_soon = await place(dev_server, task_queue, items=[POSTER])
        assert await outcome(too_soon) == "OutOfStockError"
        # 30 seconds to decide and an hour's margin: let them have passed.
        query(shop, "UPDATE holds SET lapses_at = datetime(lapses_at, '-3631 seconds')")
        for_all = await place(dev_server, task_queue, items=[replace(POSTER, quantity=10)])
        await for_all.signal(OrderWorkflow.approve_order, APPROVED)
        assert await outcome(for_all) == "FULFILLED"

    assert outcomes == {"REJECTED": 10, "OutOfStockError": 30}


async def test_a_delivery_after_the_hold_has_lapsed_fails_and_is_not_retried(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker():
        order = await place(dev_server, shop.environment["TEMPORAL_TASK_QUEUE"])
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
        query(shop, "UPDATE holds SET lapses_at = datetime(lapses_at, '-3631 seconds')")

        await order.signal(OrderWorkflow.approve_order, APPROVED)

        assert await outcome(order) == "LapsedError"
        assert await attempts(order) == [1, 1, 1]
    assert rows_by_order(shop) == {order.id: ["auth", "hold"]}
    assert query(shop, "SELECT captured_at FROM authorizations") == [(None,)]


async def test_a_worker_killed_between_commit_and_answer_leaves_one_row(
    shop: Shop, dev_server: Client
) -> None:
    async def kill_after_commit_of(step: str, log_line: str) -> None:
        folder = shop.folder / step
        folder.mkdir()
        task_queue = f"{shop.environment['TEMPORAL_TASK_QUEUE']}-{step}"
        environment = shop.environment | {"TEMPORAL_TASK_QUEUE": task_queue}
        here = replace(shop, folder=folder, environment=environment)
        order = await place(dev_server, task_queue)
        await order.signal(OrderWorkflow.approve_order, APPROVED)
        deadly = here.with_change("activities.py", log_line, f"os.kill(os.getpid(), 9); {log_line}")
        activities = deadly.scripts / "activities.py"
        activities.write_text(
            activities.read_text().replace("from coll", "import os\nfrom coll", 1)
        )
        with deadly.worker() as worker:
            await asyncio.to_thread(worker.process.wait, 20)
        before = query(here, "SELECT reference FROM ledger")

        with here.worker():
            result = await order.result()

        assert result.status == OrderStatus.FULFILLED
        references = [
            result.payment_authorization,
            result.inventory_reservation,
            result.tracking_number,
        ]
        after = query(here, "SELECT reference FROM ledger")
        assert after == [(reference,) for reference in references]
        assert before == after[: len(before)]
        steps = ["process_payment", "reserve_inventory", "deliver_order"]
        assert await attempts(order) == [1 + (step == each) for each in steps]
        assert len(before) == 1 + steps.index(step)

    await asyncio.gather(
        kill_after_commit_of("process_payment", '_log("Authorized payment'),
        kill_after_commit_of("reserve_inventory", '_log("Reserved inventory'),
        kill_after_commit_of("deliver_order", '_log("Captured the payment'),
    )


async def test_a_reset_order_gets_the_same_references_and_no_new_row(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker():
        order = await place(dev_server, shop.environment["TEMPORAL_TASK_QUEUE"])
        await order.signal(OrderWorkflow.approve_order, APPROVED)
        first = await order.result()
        rows = query(shop, "SELECT * FROM ledger")

        await asyncio.to_thread(
            subprocess.run,
            [
                *("temporal", "workflow", "reset", "--workflow-id", order.id),
                *("--event-id", "4", "--reason", "test", "--address", address_of(dev_server)),
            ],
            check=True,
            capture_output=True,
        )
        again = dev_server.get_workflow_handle_for(OrderWorkflow.run, order.id)
        second = await again.result()

        assert (await again.describe()).run_id != order.first_execution_run_id
        assert second == first
    assert query(shop, "SELECT * FROM ledger") == rows
    sku, sold = "temporal-mug", 2
    assert query(shop, f"SELECT on_hand FROM stock WHERE sku = '{sku}'") == [
        (CATALOGUE[sku].on_hand - sold,)
    ]


async def test_books_that_are_locked_for_a_while_cost_attempts_but_no_order(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker() as worker:
        with closing(sqlite3.connect(shop.books, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            order = await place(dev_server, shop.environment["TEMPORAL_TASK_QUEUE"])
            await order.signal(OrderWorkflow.approve_order, APPROVED)

            async def failed() -> bool:
                return "database is locked" in worker.log

            await until(failed, "an attempt to fail")
            other.execute("ROLLBACK")

        assert await outcome(order) == "FULFILLED"
    assert rows_by_order(shop) == {order.id: ["auth", "hold", "track"]}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing/shop.db", "unable to open database file"),
        ("folder", "unable to open database file"),
        ("notes.txt", "file is not a database"),
    ],
)
def test_a_place_where_no_books_can_be_kept_is_named(shop: Shop, path: str, reason: str) -> None:
    (shop.folder / "folder").mkdir()
    (shop.folder / "notes.txt").write_text("Not a database, but something the user wrote.\n" * 99)

    worker = shop.run("worker.py", "--shop-db", path)

    assert (worker.returncode, worker.stdout) == (1, "")
    assert worker.stderr == (
        f"error: cannot keep books in {path!r}: {reason}; name another --shop-db\n"
    )
    assert "Not a database" in (shop.folder / "notes.txt").read_text()


def test_a_read_only_file_is_named_when_the_worker_starts(shop: Shop) -> None:
    shop.books.touch(mode=0o444)
    # Root may write to any file, unless it gives that right up.
    prefix = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []

    worker = subprocess.run(
        [*prefix, sys.executable, SCRIPTS / "worker.py", "--shop-db", "shop.db"],
        cwd=shop.folder,
        env=shop.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (worker.returncode, worker.stdout) == (1, "")
    assert re.fullmatch(
        "error: cannot keep books in 'shop.db': .* readonly database; .*--shop-db\n", worker.stderr
    )
