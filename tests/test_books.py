"""Each step of an order takes effect once in the services' books, however often it is attempted."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Worker

from order_fulfillment.services import INITIAL_STOCK, ShopServices
from order_fulfillment.shared import ApprovalDecision, OrderItem, OrderStatus
from order_fulfillment.worker import create_worker
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop
from tests.history import ORDER, OrderHandle, place, until, until_status
from tests.page import type_command

APPROVED, REJECTED = ApprovalDecision(True), ApprovalDecision(False)
# There are ten of them.
POSTER = OrderItem("temporal-poster", 1, 60_00)


def serving(client: Client, shop: Shop) -> Worker:
    """A worker in this process, with books that the test can read."""
    return create_worker(client, shop.task_queue, ShopServices(shop.books))


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


async def test_a_second_order_of_the_same_id_is_paid_and_shipped_anew(
    shop: Shop, dev_server: Client
) -> None:
    # As after a restart of a dev server, which has forgotten its orders: the books have not.
    order_id = f"order-{shop.task_queue}"
    async with serving(dev_server, shop):
        first, second = [
            await dev_server.execute_workflow(
                OrderWorkflow.run,
                replace(ORDER, approval_above_cents=500_00),
                id=order_id,
                task_queue=shop.task_queue,
            )
            for _ in range(2)
        ]

    assert {first.status, second.status} == {"FULFILLED"}
    assert first.payment_authorization != second.payment_authorization
    assert first.tracking_number != second.tracking_number
    assert sorted(rows_by_order(shop)[order_id]) == sorted(2 * ["auth", "hold", "track"])


async def test_a_reset_order_gets_the_same_references_and_no_new_row(
    shop: Shop, dev_server: Client
) -> None:
    async with serving(dev_server, shop):
        order = await place(dev_server, shop.task_queue)
        await order.signal(OrderWorkflow.approve_order, APPROVED)
        first = await order.result()
        rows = query(shop, "SELECT * FROM ledger")

        reset = (
            "workflow",
            "reset",
            "--workflow-id",
            order.id,
            "--event-id",
            "4",
            "--reason",
            "test",
        )
        assert (await asyncio.to_thread(shop.temporal, *reset)).returncode == 0
        again = dev_server.get_workflow_handle_for(OrderWorkflow.run, order.id)
        second = await again.result()

        assert (await again.describe()).run_id != order.first_execution_run_id
        assert second == first
    assert query(shop, "SELECT * FROM ledger") == rows
    sku, sold = "temporal-mug", 2
    assert query(shop, f"SELECT on_hand FROM stock WHERE sku = '{sku}'") == [
        (INITIAL_STOCK[sku] - sold,)
    ]


async def test_books_that_are_locked_for_a_while_cost_attempts_but_no_order(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker() as worker:
        with closing(sqlite3.connect(shop.books, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            order = await place(dev_server, shop.task_queue)
            await order.signal(OrderWorkflow.approve_order, APPROVED)

            async def failed() -> bool:
                return "database is locked" in worker.stderr

            await until(failed, "an attempt to fail")
            other.execute("ROLLBACK")

        assert await outcome(order) == "FULFILLED"
    assert rows_by_order(shop) == {order.id: ["auth", "hold", "track"]}


async def test_the_file_alone_is_whole_when_its_worker_has_stopped(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker():
        order = await place(dev_server, shop.task_queue)
        await order.signal(OrderWorkflow.approve_order, APPROVED)
        await order.result()

    assert list(shop.folder.glob("shop.db*")) == [shop.books]
    assert rows_by_order(shop) == {order.id: ["auth", "hold", "track"]}


async def test_a_backup_under_load_is_whole_and_a_shop_goes_on_from_it(
    shop: Shop, dev_server: Client
) -> None:
    tables = ("authorizations", "holds", "shipments", "stock")
    with shop.worker() as worker:
        waiting = await place(dev_server, shop.task_queue, approval_timeout=600)
        await until_status(waiting, OrderStatus.AWAITING_APPROVAL)
        small = [
            await place(dev_server, shop.task_queue, approval_above_cents=500_00) for _ in range(40)
        ]
        await small[0].result()

        type_command(shop, "VACUUM INTO")

        with closing(sqlite3.connect(shop.folder / "backup.db")) as backup:
            saved = [backup.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
            [[paid]] = backup.execute("SELECT count(captured_at) FROM authorizations")
        assert 0 < paid == len(saved[2]) < 40
        late = await place(dev_server, shop.task_queue, approval_timeout=600)
        await until_status(late, OrderStatus.AWAITING_APPROVAL)
        assert {await outcome(order) for order in small} == {"FULFILLED"}
        worker.kill()  # It leaves its -wal file, which is newer than the backup.

    type_command(shop, "cp backup.db")

    with shop.worker():
        assert [query(shop, f"SELECT * FROM {table}") for table in tables] == saved
        for order in (waiting, late):
            await order.signal(OrderWorkflow.approve_order, APPROVED)
        assert [await outcome(order) for order in (waiting, late)] == ["FULFILLED", "LapsedError"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing/shop.db", "unable to open database file"),
        ("folder", "unable to open database file"),
        ("notes.txt", "file is not a database"),
    ],
)
def test_a_place_where_no_books_can_be_kept_is_named(
    tmp_path: Path, path: str, reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("Not a database, but something the user wrote.\n" * 99)

    with pytest.raises(OSError, match=f"cannot keep the services' books in .*{path}': {reason}"):
        ShopServices(tmp_path / path)

    assert "Not a database" in (tmp_path / "notes.txt").read_text()
