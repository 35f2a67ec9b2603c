"""Each step of an order takes effect once in the services' books, however often it is attempted."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from order_fulfillment.services import INITIAL_STOCK, ShopServices
from order_fulfillment.shared import OrderStatus
from order_fulfillment.worker import create_worker
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop
from tests.history import APPROVED, EXECUTOR, ORDER, failure_of, place, until_status
from tests.page import type_command


def serving(client: Client, shop: Shop) -> Worker:
    """A worker in this process, with books that the test can read."""
    return create_worker(client, shop.task_queue, ShopServices(shop.books), EXECUTOR, None)


def rows_by_order(shop: Shop) -> dict[str, list[str]]:
    """What the books have for each order: the kinds of its references."""
    rows: dict[str, list[str]] = {}
    for key, reference in shop.query("SELECT idempotency_key, reference FROM ledger"):
        rows.setdefault(key.partition("/")[0], []).append(reference.partition("-")[0])
    return rows


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
        rows = shop.query("SELECT * FROM ledger")

        type_command(shop, "reset --workflow-id", order_id=order.id)
        again = dev_server.get_workflow_handle_for(OrderWorkflow.run, order.id)
        second = await again.result()

        assert (await again.describe()).run_id != order.first_execution_run_id
        assert second == first
    assert shop.query("SELECT * FROM ledger") == rows
    on_hand = shop.query("SELECT on_hand FROM stock WHERE sku = 'temporal-mug'")
    assert on_hand == [(INITIAL_STOCK["temporal-mug"] - 2,)]


async def test_a_lock_for_a_while_costs_no_order_and_the_file_alone_is_whole_at_the_end(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker() as worker:
        with closing(sqlite3.connect(shop.books, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            order = await place(dev_server, shop.task_queue)
            await order.signal(OrderWorkflow.approve_order, APPROVED)
            worker.until_prints("database is locked")
            other.execute("ROLLBACK")

        assert (await order.result()).status == OrderStatus.FULFILLED

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
        assert {(await order.result()).status for order in small} == {OrderStatus.FULFILLED}
        worker.kill()  # It leaves its -wal file, which is newer than the backup.

    type_command(shop, "cp backup.db")

    with shop.worker():
        assert [shop.query(f"SELECT * FROM {table}") for table in tables] == saved
        for order in (waiting, late):
            await order.signal(OrderWorkflow.approve_order, APPROVED)
        assert (await waiting.result()).status == OrderStatus.FULFILLED
        lapsed = await failure_of(late)
        assert isinstance(lapsed, ApplicationError)
        assert lapsed.type == "LapsedError"


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
