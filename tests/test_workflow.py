"""Every path of the order's story, on a server whose clock jumps ahead while orders wait.

What depends on how events reach the workflow together is tested on the real server.
"""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, CancelledError

from order_fulfillment.shared import ApprovalDecision, OrderItem, OrderStatus, ReservationRequest
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop
from tests.history import (
    APPROVED,
    DELIVERED,
    EXPIRED_CARD,
    REJECTED,
    UNDELIVERED,
    SlowDelivery,
    attempts,
    create_worker,
    details,
    events,
    failure_of,
    place,
    steps,
    until_event,
    until_status,
    worker_with,
)
from tests.record_histories import MALFORMED


@pytest.fixture
def task_queue() -> str:
    return f"orders-{uuid4()}"


async def test_an_approved_order_is_delivered(
    time_skipping_server: Client, task_queue: str
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(time_skipping_server, task_queue)
        await until_status(order, OrderStatus.AWAITING_APPROVAL)

        await order.signal(OrderWorkflow.approve_order, APPROVED)
        result = await order.result()

        assert result.order_id == order.id
        assert result.status == OrderStatus.FULFILLED
        assert result.message == "approved: Approved instantly"
        assert result.payment_authorization.startswith("auth-")
        assert result.inventory_reservation.startswith("hold-")
        assert result.tracking_number is not None
        assert result.tracking_number.startswith("track-")
        assert await steps(order) == DELIVERED
        for step in await details(order, "ACTIVITY_TASK_SCHEDULED"):
            # No number of dead workers can fail an order.
            assert step.start_to_close_timeout.ToTimedelta() <= timedelta(seconds=5)
            assert step.schedule_to_close_timeout.ToTimedelta() > timedelta(days=365)
            assert step.retry_policy.maximum_attempts == 0


@pytest.mark.parametrize("seconds", [0.1, 30.0, 30 * 24 * 60 * 60.0])
async def test_an_order_nobody_decides_about_expires(
    time_skipping_server: Client, task_queue: str, seconds: float
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(time_skipping_server, task_queue, approval_timeout=seconds)
        result = await order.result()

        [timer] = await details(order, "TIMER_STARTED")
        assert timer.start_to_fire_timeout.ToTimedelta() == timedelta(seconds=seconds)
        assert result.status == OrderStatus.EXPIRED
        assert result.tracking_number is None
        assert await steps(order) == UNDELIVERED
        assert await order.query(OrderWorkflow.approval_message) is None


@pytest.mark.parametrize(
    ("above", "status", "message"),
    [
        (46_99, OrderStatus.EXPIRED, "no decision within 30 s"),
        (47_00, OrderStatus.FULFILLED, "approved: not above 47.00 USD"),
    ],
)
async def test_an_order_that_costs_no_more_than_the_limit_needs_no_decision(
    time_skipping_server: Client, task_queue: str, above: int, status: OrderStatus, message: str
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(time_skipping_server, task_queue, approval_above_cents=above)
        result = await order.result()

        assert (result.status, result.message, result.decided_by) == (status, message, None)
        assert ("TIMER_STARTED" in await events(order)) == (status == OrderStatus.EXPIRED)


@pytest.mark.parametrize(
    ("first", "above"),
    [(APPROVED, 0), (REJECTED, 0), (REJECTED, 100_00)],
    ids=["approved", "rejected", "rejected though small"],
)
async def test_of_two_early_decisions_the_first_counts_and_no_timer_is_started(
    dev_server: Client, task_queue: str, first: ApprovalDecision, above: int
) -> None:
    second = REJECTED if first.approved else APPROVED
    order = await place(dev_server, task_queue, approval_above_cents=above)
    await order.signal(OrderWorkflow.approve_order, first)
    await order.signal(OrderWorkflow.approve_order, second)

    async with create_worker(dev_server, task_queue):
        result = await order.result()

        status = OrderStatus.FULFILLED if first.approved else OrderStatus.REJECTED
        assert (result.status, result.message) == (status, first.message)
        assert await order.query(OrderWorkflow.approval_message) == first.message
        assert "TIMER_STARTED" not in await events(order)


async def test_a_signal_needs_no_python_and_a_malformed_one_decides_nothing_and_is_logged(
    shop: Shop, dev_server: Client
) -> None:
    wrong_types: list[list[Any]] = [[None], [{"note": "no verdict"}], [{"approved": "false"}]]
    malformed = MALFORMED + wrong_types
    order = await place(dev_server, shop.task_queue)
    for arguments in malformed:
        await order.signal("approve_order", args=arguments)
    with shop.worker() as worker:
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
        assert await order.query(OrderWorkflow.approval_message) is None
        await order.signal("approve_order", {"approved": False, "note": "by CLI", "since": "v2"})
        assert (await order.result()).message == "rejected: by CLI"

    refused = [line for line in worker.stderr.splitlines() if line.split()[3] == order.id]
    dropped = [line for line in refused if "dropping the signal" in line or "Ignored" in line]
    assert len(dropped) == len(malformed)


@pytest.mark.parametrize(
    ("changes", "error", "tried"),
    [
        ({"outage_attempts": 4}, "InventoryUnavailableError", [1, 4]),
        ({"card": EXPIRED_CARD}, "PaymentValidationError", [1]),
        ({"items": [OrderItem("temporal-poster", 11, 1)]}, "OutOfStockError", [1, 1]),
    ],
)
async def test_an_outage_fails_an_order_after_four_attempts_and_a_refusal_after_one(
    time_skipping_server: Client,
    task_queue: str,
    changes: dict[str, Any],
    error: str,
    tried: list[int],
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(time_skipping_server, task_queue, **changes)
        failure = await failure_of(order)

        assert isinstance(failure, ApplicationError)
        assert failure.type == error
        assert await attempts(order) == tried
        assert await order.query(OrderWorkflow.status) == OrderStatus.FAILED


async def test_canceled_before_its_approval_an_order_closes_undelivered(
    time_skipping_server: Client, task_queue: str
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(time_skipping_server, task_queue)
        await until_status(order, OrderStatus.AWAITING_APPROVAL)

        await order.cancel()

        assert isinstance(await failure_of(order), CancelledError)
        assert "WORKFLOW_EXECUTION_CANCELED" in await events(order)
        assert await steps(order) == UNDELIVERED
        assert await order.query(OrderWorkflow.status) == OrderStatus.CANCELED


async def test_canceled_during_its_delivery_even_twice_an_order_is_still_fulfilled(
    dev_server: Client, task_queue: str
) -> None:
    slow = SlowDelivery(dev_server, task_queue)
    async with slow.worker:
        order = await place(dev_server, task_queue)
        await order.signal(OrderWorkflow.approve_order, APPROVED)
        await slow.began.wait()

        for _ in range(2):
            await order.cancel()
            await until_event(order, "WORKFLOW_EXECUTION_CANCEL_REQUESTED")
            await until_status(order, OrderStatus.DELIVERING)
        slow.end.set()
        result = await order.result()

        assert (result.status, result.tracking_number) == (OrderStatus.FULFILLED, "track-slow")
        happened = await events(order)
        delivered = len(happened) - happened[::-1].index("ACTIVITY_TASK_COMPLETED")
        assert "WORKFLOW_EXECUTION_CANCEL_REQUESTED" in happened[:delivered]


@pytest.mark.parametrize("first", ["approval", "cancel request"])
async def test_approved_and_canceled_at_once_an_order_closes_undelivered(
    dev_server: Client, task_queue: str, first: str
) -> None:
    order = await place(dev_server, task_queue)
    # No worker runs, so both reach the order in one workflow task.
    if first == "cancel request":
        await order.cancel()
    await order.signal(OrderWorkflow.approve_order, APPROVED)
    if first == "approval":
        await order.cancel()

    async with create_worker(dev_server, task_queue):
        assert isinstance(await failure_of(order), CancelledError)
        assert "deliver_order" not in await steps(order)
        assert await order.query(OrderWorkflow.status) == OrderStatus.CANCELED
    # The next worker takes back the delivery in the replay, too.
    async with create_worker(dev_server, task_queue):
        assert await order.query(OrderWorkflow.status) == OrderStatus.CANCELED


async def test_a_cancel_request_that_comes_with_the_result_of_a_step_cancels_the_order(
    dev_server: Client, task_queue: str
) -> None:
    token: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    @activity.defn(name="reserve_inventory")
    async def reserve_later(request: ReservationRequest) -> str:
        token.set_result(activity.info().task_token)
        activity.raise_complete_async()

    order = await place(dev_server, task_queue)
    await order.signal(OrderWorkflow.approve_order, APPROVED)
    async with worker_with(dev_server, task_queue, reserve_inventory=reserve_later):
        step = dev_server.get_async_activity_handle(task_token=await token)
    # No worker runs, so both reach the order in one workflow task. There the SDK raises the cancel
    # request in spite of the result: its flag RAISE_ON_CANCELLING_COMPLETED_ACTIVITY.
    await step.complete("hold-later")
    await order.cancel()

    async with create_worker(dev_server, task_queue):
        assert isinstance(await failure_of(order), CancelledError)
        assert await steps(order) == UNDELIVERED
        happened = await events(order)
        completed = happened.index("WORKFLOW_EXECUTION_CANCEL_REQUESTED") - 1
        assert happened[completed - 1 : completed + 1].count("ACTIVITY_TASK_COMPLETED") == 1


async def test_the_web_ui_can_tell_the_story_in_words(dev_server: Client, task_queue: str) -> None:
    async with create_worker(dev_server, task_queue):
        order = await place(dev_server, task_queue)
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
        metadata = await order.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)

        assert metadata.current_details == "Awaiting approval."
        [signal] = [each for each in metadata.definition.signal_definitions if each.name[0] != "_"]
        assert '{"approved": true' in signal.description
        await order.terminate()
