"""Records the histories that test_replay.py replays: `uv run python -m tests.record_histories`.

Run it after a change of the workflow when no orders from before the change are running anywhere.
"""

import asyncio
import json
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from order_fulfillment.shared import ApprovalDecision, OrderStatus, Simulation
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop, address_of, clean_environment
from tests.history import (
    EXPIRED_CARD,
    OUTAGE,
    OrderHandle,
    SlowDelivery,
    create_worker,
    place,
    until_event,
    until_status,
)

HISTORIES = Path(__file__).parent / "histories"
TASK_QUEUE = "recording"


async def happy_path(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE)
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
        await order.signal(
            OrderWorkflow.approve_order, ApprovalDecision(True, "Approved instantly")
        )
        await until_status(order, OrderStatus.FULFILLED)
    return order


async def api_downtime(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE, simulation=OUTAGE)
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.FAILED)
    return order


async def api_recovery(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE, simulation=Simulation(1), approval_timeout=0.1)
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.EXPIRED)
    return order


async def invalid_payment(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE, card=EXPIRED_CARD)
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.FAILED)
    return order


async def waiting(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE)
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
    return order


async def human_in_the_loop(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE)
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
        await order.signal("approve_order")
        await order.signal("approve_order", "yes")
        await order.signal("approve_order", args=[{"approved": True}, {"approved": True}])
        await order.signal(OrderWorkflow.approve_order, ApprovalDecision(False, "Too risky"))
        await until_status(order, OrderStatus.REJECTED)
    return order


async def early_approval(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE)
    await order.signal(OrderWorkflow.approve_order, ApprovalDecision(True))
    await order.signal(OrderWorkflow.approve_order, ApprovalDecision(False))
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.FULFILLED)
    return order


async def small_order(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE, approval_above_cents=100_00)
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.FULFILLED)
    return order


async def auto_expiry(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE, approval_timeout=0.5)
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.EXPIRED)
    return order


async def decision_in_a_race(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE, approval_timeout=3)
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
    await until_event(order, "TIMER_FIRED")
    await order.signal(OrderWorkflow.approve_order, ApprovalDecision(True))
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.FULFILLED)
    return order


async def workflow_bug(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE, approval_timeout=0.1)
    environment = {"TEMPORAL_ADDRESS": address_of(client), "TEMPORAL_TASK_QUEUE": TASK_QUEUE}
    with TemporaryDirectory() as folder:
        shop = Shop(Path(folder), clean_environment() | environment)
        with shop.with_workflow_bug().worker():
            await until_event(order, "WORKFLOW_TASK_FAILED")
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.EXPIRED)
    return order


async def cancellation(client: Client) -> OrderHandle:
    order = await place(client, TASK_QUEUE)
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
        await order.cancel()
        await until_status(order, OrderStatus.CANCELED)
    return order


async def cancellation_with_approval(client: Client) -> OrderHandle:
    async with create_worker(client, TASK_QUEUE):
        order = await place(client, TASK_QUEUE)
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
    await order.signal(OrderWorkflow.approve_order, ApprovalDecision(True))
    await order.cancel()
    async with create_worker(client, TASK_QUEUE):
        await until_status(order, OrderStatus.CANCELED)
    return order


async def cancellation_during_delivery(client: Client) -> OrderHandle:
    slow = SlowDelivery(client, TASK_QUEUE)
    async with slow.worker:
        order = await place(client, TASK_QUEUE)
        await order.signal(OrderWorkflow.approve_order, ApprovalDecision(True))
        await slow.began.wait()
        await order.cancel()
        await until_event(order, "WORKFLOW_EXECUTION_CANCEL_REQUESTED")
        await until_status(order, OrderStatus.DELIVERING)
        slow.end.set()
        await until_status(order, OrderStatus.FULFILLED)
    return order


SCENARIOS: list[Callable[[Client], Awaitable[OrderHandle]]] = [
    happy_path,
    api_downtime,
    api_recovery,
    invalid_payment,
    waiting,
    human_in_the_loop,
    early_approval,
    small_order,
    auto_expiry,
    decision_in_a_race,
    workflow_bug,
    cancellation,
    cancellation_with_approval,
    cancellation_during_delivery,
]


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
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=shutil.which("temporal"), dev_server_log_level="error"
    ) as environment:
        for scenario in SCENARIOS:
            order = await scenario(environment.client)
            history = without_machine((await order.fetch_history()).to_json_dict())
            path = HISTORIES / f"{scenario.__name__}.json"
            path.write_text(json.dumps(history, indent=1) + "\n")
            print(f"{path.name}: {len(history['events'])} events")


if __name__ == "__main__":
    asyncio.run(main())
