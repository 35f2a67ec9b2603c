"""Every path of the order's story, on a server whose clock jumps ahead while orders wait.

What depends on how events reach the workflow together is tested on the real server.
"""

import asyncio
import logging
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError
from temporalio.worker import Worker

from order_fulfillment.activities import process_payment, reserve_inventory
from order_fulfillment.shared import ApprovalDecision, Delivery, OrderStatus
from order_fulfillment.worker import create_worker
from order_fulfillment.workflow import OrderWorkflow
from tests.orders import OrderHandle, attempts, events, place, until_event, until_status

APPROVED = ApprovalDecision(True, "Approved instantly")
REJECTED = ApprovalDecision(False, "Too risky")


async def steps(handle: OrderHandle) -> list[str]:
    """The activities that the order scheduled."""
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in (await handle.fetch_history()).events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


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
        assert await steps(order) == ["process_payment", "reserve_inventory", "deliver_order"]


async def test_a_rejected_order_completes_undelivered(
    time_skipping_server: Client, task_queue: str
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(time_skipping_server, task_queue)
        await until_status(order, OrderStatus.AWAITING_APPROVAL)

        await order.signal(OrderWorkflow.approve_order, REJECTED)
        result = await order.result()

        assert (result.status, result.message) == (OrderStatus.REJECTED, "rejected: Too risky")
        assert result.tracking_number is None
        assert await steps(order) == ["process_payment", "reserve_inventory"]


@pytest.mark.parametrize("seconds", [0.1, 30.0, 30 * 24 * 60 * 60.0])
async def test_an_order_nobody_decides_about_expires(
    time_skipping_server: Client, task_queue: str, seconds: float
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(time_skipping_server, task_queue, approval_timeout=seconds)
        result = await order.result()

        history = (await order.fetch_history()).events
        [timer] = [
            event.timer_started_event_attributes
            for event in history
            if event.HasField("timer_started_event_attributes")
        ]
        assert timer.start_to_fire_timeout.ToTimedelta() == timedelta(seconds=seconds)
        assert result.status == OrderStatus.EXPIRED
        assert result.tracking_number is None
        assert await steps(order) == ["process_payment", "reserve_inventory"]
        assert await order.query(OrderWorkflow.approval_message) is None


async def test_an_early_approval_is_kept_and_no_timer_is_started(
    dev_server: Client, task_queue: str
) -> None:
    order = await place(dev_server, task_queue)
    await order.signal(OrderWorkflow.approve_order, APPROVED)

    async with create_worker(dev_server, task_queue):
        result = await order.result()

        assert result.status == OrderStatus.FULFILLED
        assert "TIMER_STARTED" not in await events(order)


async def test_an_early_rejection_is_kept(dev_server: Client, task_queue: str) -> None:
    order = await place(dev_server, task_queue)
    await order.signal(OrderWorkflow.approve_order, REJECTED)

    async with create_worker(dev_server, task_queue):
        assert (await order.result()).status == OrderStatus.REJECTED


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (APPROVED, REJECTED, OrderStatus.FULFILLED),
        (REJECTED, APPROVED, OrderStatus.REJECTED),
        (APPROVED, ApprovalDecision(True, "Me too"), OrderStatus.FULFILLED),
    ],
)
async def test_the_first_decision_counts_and_later_ones_are_logged(
    dev_server: Client,
    task_queue: str,
    caplog: pytest.LogCaptureFixture,
    first: ApprovalDecision,
    second: ApprovalDecision,
    status: OrderStatus,
) -> None:
    order = await place(dev_server, task_queue)
    await order.signal(OrderWorkflow.approve_order, first)
    await order.signal(OrderWorkflow.approve_order, second)

    async with create_worker(dev_server, task_queue):
        result = await order.result()

        assert (result.status, result.message) == (status, first.message)
        assert await order.query(OrderWorkflow.approval_message) == first.message
        assert caplog.text.count(f"Ignored {second.message!r}") == 1


async def test_a_decision_that_the_expired_order_finds_wins(
    dev_server: Client, task_queue: str
) -> None:
    async with create_worker(dev_server, task_queue):
        order = await place(dev_server, task_queue, approval_timeout=3)
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
    await until_event(order, "TIMER_FIRED")
    await order.signal(OrderWorkflow.approve_order, APPROVED)

    async with create_worker(dev_server, task_queue):
        assert (await order.result()).status == OrderStatus.FULFILLED


@pytest.mark.parametrize(
    "arguments",
    [
        ["yes"],
        [None],
        [[]],
        [{}],
        [{"note": "no verdict"}],
        [{"approved": "false"}],
        [{"approved": 1}],
        [{"approved": True, "note": 5}],
        [],
        [{"approved": True}, {"approved": True}],
        [{"approved": "false"}, "x"],
    ],
    ids=str,
)
async def test_a_malformed_signal_decides_nothing_and_costs_one_log_line(
    open_worker: tuple[Client, str], caplog: pytest.LogCaptureFixture, arguments: list[Any]
) -> None:
    client, task_queue = open_worker
    order = await place(client, task_queue)

    await order.signal("approve_order", args=arguments)
    await until_status(order, OrderStatus.AWAITING_APPROVAL)
    assert await order.query(OrderWorkflow.approval_message) is None
    await order.signal("approve_order", {"approved": True})
    result = await order.result()

    # The query makes the worker replay the whole order.
    assert await order.query(OrderWorkflow.status) == OrderStatus.FULFILLED
    assert result.message == "approved"
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "malformed" in lines[0].getMessage()
    assert lines[0].exc_info is None


@pytest.fixture
async def open_worker(dev_server: Client, task_queue: str) -> Any:
    async with create_worker(dev_server, task_queue):
        yield dev_server, task_queue


async def test_the_signal_needs_no_knowledge_of_python(
    time_skipping_server: Client, task_queue: str
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(time_skipping_server, task_queue)

        await order.signal("approve_order", {"approved": False, "note": "by CLI", "since": "v2"})

        assert (await order.result()).message == "rejected: by CLI"


async def test_an_outage_that_lasts_fails_the_order_after_four_attempts(
    time_skipping_server: Client, task_queue: str
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(time_skipping_server, task_queue, inventory_recovers_after=None)
        with pytest.raises(WorkflowFailureError) as failed:
            await order.result()

        step = failed.value.cause
        assert isinstance(step, ActivityError)
        assert step.activity_type == "reserve_inventory"
        assert isinstance(step.cause, ApplicationError)
        assert step.cause.type == "InventoryUnavailableError"
        assert await attempts(order) == [1, 4]
        assert await order.query(OrderWorkflow.status) == OrderStatus.FAILED


@pytest.mark.parametrize("recovers_after", [1, 2, 3])
async def test_an_outage_that_heals_is_survived(
    time_skipping_server: Client, task_queue: str, recovers_after: int
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(
            time_skipping_server, task_queue, inventory_recovers_after=recovers_after
        )
        await order.signal(OrderWorkflow.approve_order, APPROVED)

        assert (await order.result()).status == OrderStatus.FULFILLED
        assert await attempts(order) == [1, recovers_after + 1, 1]


@pytest.mark.parametrize("card_expiry", ["12/23", "13/27", "soon"])
async def test_an_invalid_payment_fails_the_order_at_once(
    time_skipping_server: Client, task_queue: str, card_expiry: str
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(time_skipping_server, task_queue, card_expiry=card_expiry)
        with pytest.raises(WorkflowFailureError) as failed:
            await order.result()

        step = failed.value.cause
        assert isinstance(step, ActivityError)
        assert isinstance(step.cause, ApplicationError)
        assert step.cause.type == "PaymentValidationError"
        assert await attempts(order) == [1]
        assert await order.query(OrderWorkflow.status) == OrderStatus.FAILED


async def test_canceled_before_its_approval_an_order_closes_undelivered(
    time_skipping_server: Client, task_queue: str
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(time_skipping_server, task_queue)
        await until_status(order, OrderStatus.AWAITING_APPROVAL)

        await order.cancel()
        with pytest.raises(WorkflowFailureError) as canceled:
            await order.result()

        assert isinstance(canceled.value.cause, CancelledError)
        assert "WORKFLOW_EXECUTION_CANCELED" in await events(order)
        assert await steps(order) == ["process_payment", "reserve_inventory"]
        assert await order.query(OrderWorkflow.status) == OrderStatus.CANCELED


async def test_canceled_during_an_outage_an_order_closes_undelivered(
    dev_server: Client, task_queue: str
) -> None:
    async with create_worker(dev_server, task_queue):
        order = await place(dev_server, task_queue, inventory_recovers_after=None)
        await until_status(order, OrderStatus.RESERVING_INVENTORY)

        await order.cancel()
        with pytest.raises(WorkflowFailureError) as canceled:
            await order.result()

        assert isinstance(canceled.value.cause, CancelledError)
        assert await order.query(OrderWorkflow.status) == OrderStatus.CANCELED


async def test_canceled_before_it_began_an_order_closes_uncharged(
    dev_server: Client, task_queue: str
) -> None:
    order = await place(dev_server, task_queue)
    await order.cancel()

    async with create_worker(dev_server, task_queue):
        with pytest.raises(WorkflowFailureError) as canceled:
            await order.result()

        assert isinstance(canceled.value.cause, CancelledError)
        assert await steps(order) == []
        assert await order.query(OrderWorkflow.status) == OrderStatus.CANCELED


async def test_canceled_during_its_delivery_an_order_is_still_fulfilled(
    dev_server: Client, task_queue: str
) -> None:
    shipping, shipped = asyncio.Event(), asyncio.Event()

    @activity.defn(name="deliver_order")
    async def deliver_slowly(delivery: Delivery) -> str:
        shipping.set()
        await shipped.wait()
        return "track-slow"

    async with Worker(
        dev_server,
        task_queue=task_queue,
        workflows=[OrderWorkflow],
        activities=[process_payment, reserve_inventory, deliver_slowly],
    ):
        order = await place(dev_server, task_queue)
        await order.signal(OrderWorkflow.approve_order, APPROVED)
        await asyncio.wait_for(shipping.wait(), 10)

        await order.cancel()
        await until_status(order, OrderStatus.DELIVERING)
        shipped.set()
        result = await order.result()

        assert (result.status, result.tracking_number) == (OrderStatus.FULFILLED, "track-slow")
        happened = await events(order)
        delivered = len(happened) - happened[::-1].index("ACTIVITY_TASK_COMPLETED")
        assert "WORKFLOW_EXECUTION_CANCEL_REQUESTED" in happened[:delivered]


@pytest.mark.parametrize("stage", ["before it began", "at the approval step"])
async def test_approved_and_then_canceled_while_no_worker_ran_an_order_is_fulfilled(
    dev_server: Client, task_queue: str, stage: str
) -> None:
    if stage == "before it began":
        order = await place(dev_server, task_queue)
    else:
        async with create_worker(dev_server, task_queue):
            order = await place(dev_server, task_queue)
            await until_status(order, OrderStatus.AWAITING_APPROVAL)
    await order.signal(OrderWorkflow.approve_order, APPROVED)
    await order.cancel()

    async with create_worker(dev_server, task_queue):
        assert (await order.result()).status == OrderStatus.FULFILLED


async def test_no_number_of_dead_workers_can_fail_an_order(
    dev_server: Client, task_queue: str
) -> None:
    async with create_worker(dev_server, task_queue):
        order = await place(dev_server, task_queue)
        await order.signal(OrderWorkflow.approve_order, APPROVED)
        await order.result()

        scheduled = [
            event.activity_task_scheduled_event_attributes
            for event in (await order.fetch_history()).events
            if event.HasField("activity_task_scheduled_event_attributes")
        ]
        assert len(scheduled) == 3
        for step in scheduled:
            assert step.start_to_close_timeout.ToTimedelta() <= timedelta(seconds=5)
            assert step.retry_policy.maximum_attempts == 0
            assert step.schedule_to_close_timeout.ToTimedelta() == timedelta(0)


async def test_the_web_ui_can_tell_the_story_in_words(dev_server: Client, task_queue: str) -> None:
    async with create_worker(dev_server, task_queue):
        order = await place(dev_server, task_queue)
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
        metadata = await order.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        await order.signal(OrderWorkflow.approve_order, APPROVED)
        await order.result()

        summaries = [
            event.user_metadata.summary.data.decode()
            for event in (await order.fetch_history()).events
            if event.HasField("user_metadata")
            and not event.HasField("timer_canceled_event_attributes")
        ]
        assert "30 seconds" in metadata.current_details
        assert summaries == [
            '"Authorize the payment"',
            '"Hold the goods"',
            '"Time to decide"',
            '"Capture and ship"',
        ]
