"""Records the histories that test_replay.py replays: `uv run python -m tests.record_histories NAME`.

Without a name it records the scenarios that have no history yet. With the name of one that has, it
writes over the path of older code: only when no orders of that code are running anywhere.
"""

import json
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from temporalio.client import Client

from order_fulfillment.orders import OrderHandle, ensure_search_attributes
from order_fulfillment.shared import ApprovalDecision, OrderItem, OrderStatus
from order_fulfillment.support.command_line import print_result, run
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import address_of, shop_on, start_dev_server
from tests.history import (
    APPROVED,
    EXPIRED_CARD,
    REJECTED,
    SlowDelivery,
    create_worker,
    place,
    until_event,
    until_status,
)

HISTORIES = Path(__file__).parent / "histories"
TASK_QUEUE = "recording"


async def order_until(
    status: OrderStatus,
    client: Client,
    *,
    early: Sequence[ApprovalDecision] = (),
    signals: Sequence[list[Any]] = (),
    **changes: Any,
) -> OrderHandle:
    """An order with early decisions, and with signals once it waits for its decision."""
    order = await place(client, TASK_QUEUE, **changes)
    for decision in early:
        await order.signal(OrderWorkflow.approve_order, decision)
    async with create_worker(client, TASK_QUEUE):
        if signals:
            await until_status(order, OrderStatus.AWAITING_APPROVAL)
        for arguments in signals:
            await order.signal("approve_order", args=arguments)
        await until_status(order, status)
    return order


async def decision_in_a_race(client: Client) -> OrderHandle:
    order = await order_until(OrderStatus.AWAITING_APPROVAL, client, approval_timeout=3)
    await until_event(order, "TIMER_FIRED")
    await order.signal(OrderWorkflow.approve_order, APPROVED)
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.FULFILLED)
    return order


async def workflow_bug(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE, approval_timeout=0.1)
    with TemporaryDirectory() as folder:
        shop = shop_on(address_of(client), Path(folder))
        shop = shop.with_environment(TEMPORAL_TASK_QUEUE=TASK_QUEUE)
        with shop.with_workflow_bug().worker():
            await until_event(order, "WORKFLOW_TASK_FAILED")
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.EXPIRED)
    return order


async def cancellation(client: Client, *, approved: bool = False) -> OrderHandle:
    order = await order_until(OrderStatus.AWAITING_APPROVAL, client)
    if approved:
        await order.signal(OrderWorkflow.approve_order, APPROVED)
    await order.cancel()
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.CANCELED)
    return order


async def cancellation_during_delivery(client: Client) -> OrderHandle:
    slow = SlowDelivery(client, TASK_QUEUE)
    async with slow.worker:
        order = await place(client, TASK_QUEUE)
        await order.signal(OrderWorkflow.approve_order, APPROVED)
        await slow.began.wait()
        await order.cancel()
        await until_event(order, "WORKFLOW_EXECUTION_CANCEL_REQUESTED")
        await until_status(order, OrderStatus.DELIVERING)
        slow.end.set()
        await until_status(order, OrderStatus.FULFILLED)
    return order


MALFORMED: list[list[Any]] = [[], ["yes"], [{"approved": True}, {"approved": True}]]
SCENARIOS: dict[str, Callable[[Client], Awaitable[OrderHandle]]] = {
    "happy_path": partial(order_until, OrderStatus.FULFILLED, signals=[[APPROVED]]),
    "api_downtime": partial(order_until, OrderStatus.FAILED, outage_attempts=4),
    "api_recovery": partial(
        order_until, OrderStatus.EXPIRED, outage_attempts=1, approval_timeout=0.1
    ),
    "invalid_payment": partial(order_until, OrderStatus.FAILED, card=EXPIRED_CARD),
    "waiting": partial(order_until, OrderStatus.AWAITING_APPROVAL),
    "human_in_the_loop": partial(
        order_until, OrderStatus.REJECTED, signals=[*MALFORMED, [REJECTED]]
    ),
    "early_approval": partial(order_until, OrderStatus.FULFILLED, early=[APPROVED, REJECTED]),
    "small_order": partial(order_until, OrderStatus.FULFILLED, approval_above_cents=100_00),
    "large_order": partial(
        order_until,
        OrderStatus.FULFILLED,
        signals=[[APPROVED]],
        items=[OrderItem("temporal-hoodie", 30, 45_00)],
    ),
    "auto_expiry": partial(order_until, OrderStatus.EXPIRED, approval_timeout=0.5),
    "decision_in_a_race": decision_in_a_race,
    "workflow_bug": workflow_bug,
    "cancellation": cancellation,
    "cancellation_with_approval": partial(cancellation, approved=True),
    "cancellation_during_delivery": cancellation_during_delivery,
    "searchable": partial(order_until, OrderStatus.FULFILLED, signals=[[APPROVED]], listed=True),
}


def without_machine(value: Any) -> Any:
    """A history without what names the machine that it was recorded on."""
    if isinstance(value, list):
        return [without_machine(item) for item in value]
    if not isinstance(value, dict):
        return value
    blank = {"identity", "stackTrace"}
    if value.get("kind") == "TASK_QUEUE_KIND_STICKY":
        blank.add("name")
    return {key: "" if key in blank else without_machine(value[key]) for key in value}


async def main() -> None:
    logging.disable()
    async with await start_dev_server() as environment:
        await ensure_search_attributes(environment.client, print_result)
        recorded = {path.stem for path in HISTORIES.glob("*.json")}
        for name in sys.argv[1:] or SCENARIOS.keys() - recorded:
            order = await SCENARIOS[name](environment.client)
            history = without_machine((await order.fetch_history()).to_json_dict())
            path = HISTORIES / f"{name}.json"
            path.write_text(json.dumps(history, indent=1) + "\n")
            print_result(f"{path.name}: {len(history['events'])} events")


if __name__ == "__main__":
    run(main(), interrupted="nothing is left running")
