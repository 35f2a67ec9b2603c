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
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError

from order_fulfillment.shared import (
    ApprovalDecision,
    Card,
    OrderItem,
    OrderStatus,
    ReservationRequest,
)
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop, one_line
from tests.history import (
    DELIVERED,
    OUTAGE,
    UNDELIVERED,
    OrderHandle,
    SlowDelivery,
    attempts,
    create_worker,
    details,
    events,
    place,
    steps,
    until_event,
    until_status,
    worker_with,
)

APPROVED = ApprovalDecision(True, "Approved instantly")
REJECTED = ApprovalDecision(False, "Too risky")


async def failure_of(order: OrderHandle) -> ApplicationError | CancelledError:
    """The error that made an activity, and with it the order, fail; or the cancellation."""
    with pytest.raises(WorkflowFailureError) as failed:
        await order.result()
    cause: BaseException | None = failed.value.cause
    if isinstance(cause, ActivityError):
        cause = cause.cause
    assert isinstance(cause, ApplicationError | CancelledError)
    return cause


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


async def test_a_small_order_that_was_rejected_early_is_not_delivered(
    dev_server: Client, task_queue: str
) -> None:
    order = await place(dev_server, task_queue, approval_above_cents=100_00)
    await order.signal(OrderWorkflow.approve_order, REJECTED)

    async with create_worker(dev_server, task_queue):
        assert (await order.result()).status == OrderStatus.REJECTED


@pytest.mark.parametrize(
    ("decision", "status"),
    [(APPROVED, OrderStatus.FULFILLED), (REJECTED, OrderStatus.REJECTED)],
)
async def test_an_early_decision_is_kept_and_no_timer_is_started(
    dev_server: Client, task_queue: str, decision: ApprovalDecision, status: OrderStatus
) -> None:
    order = await place(dev_server, task_queue)
    await order.signal(OrderWorkflow.approve_order, decision)

    async with create_worker(dev_server, task_queue):
        result = await order.result()

        assert result.status == status
        assert "TIMER_STARTED" not in await events(order)


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


async def test_a_malformed_signal_decides_nothing_and_is_logged(
    shop: Shop, dev_server: Client
) -> None:
    malformed: list[list[Any]] = [
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
    ]
    order = await place(dev_server, shop.task_queue)
    for arguments in malformed:
        await order.signal("approve_order", args=arguments)
    with shop.worker() as worker:
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
        assert await order.query(OrderWorkflow.approval_message) is None
        await order.signal("approve_order", {"approved": True})
        assert (await order.result()).message == "approved"

    refused = [line for line in worker.stderr.splitlines() if f" {order.id}: " in line]
    dropped = [line for line in refused if "dropping the signal" in line or "Ignored" in line]
    assert len(dropped) == len(malformed)


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
        order = await place(time_skipping_server, task_queue, simulation=OUTAGE)
        failure = await failure_of(order)

        assert isinstance(failure, ApplicationError)
        assert failure.type == "InventoryUnavailableError"
        assert await steps(order) == UNDELIVERED
        assert max(await attempts(order)) == 4
        assert await order.query(OrderWorkflow.status) == OrderStatus.FAILED


@pytest.mark.parametrize("card_expiry", ["12/23", "13/27", "soon"])
async def test_an_invalid_payment_fails_the_order_at_once(
    time_skipping_server: Client, task_queue: str, card_expiry: str
) -> None:
    async with create_worker(time_skipping_server, task_queue):
        order = await place(time_skipping_server, task_queue, card=Card("tok", card_expiry))
        failure = await failure_of(order)

        assert isinstance(failure, ApplicationError)
        assert failure.type == "PaymentValidationError"
        assert (await attempts(order))[0] == 1
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


@pytest.mark.parametrize("cancel_requests", [1, 2])
async def test_canceled_during_its_delivery_an_order_is_still_fulfilled(
    dev_server: Client, task_queue: str, cancel_requests: int
) -> None:
    slow = SlowDelivery(dev_server, task_queue)
    async with slow.worker:
        order = await place(dev_server, task_queue)
        await order.signal(OrderWorkflow.approve_order, APPROVED)
        await slow.began.wait()

        for _ in range(cancel_requests):
            await order.cancel()
            await until_event(order, "WORKFLOW_EXECUTION_CANCEL_REQUESTED")
            await until_status(order, OrderStatus.DELIVERING)
        slow.end.set()
        result = await order.result()

        assert (result.status, result.tracking_number) == (OrderStatus.FULFILLED, "track-slow")
        happened = await events(order)
        delivered = len(happened) - happened[::-1].index("ACTIVITY_TASK_COMPLETED")
        assert "WORKFLOW_EXECUTION_CANCEL_REQUESTED" in happened[:delivered]


@pytest.mark.parametrize("stage", ["before it began", "at the approval step"])
@pytest.mark.parametrize("first", ["approval", "cancel request"])
async def test_approved_and_canceled_at_once_an_order_closes_undelivered(
    dev_server: Client, task_queue: str, stage: str, first: str
) -> None:
    order = await place(dev_server, task_queue)
    if stage == "at the approval step":
        async with create_worker(dev_server, task_queue):
            await until_status(order, OrderStatus.AWAITING_APPROVAL)
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


async def test_no_number_of_dead_workers_can_fail_an_order(
    dev_server: Client, task_queue: str
) -> None:
    async with create_worker(dev_server, task_queue):
        order = await place(dev_server, task_queue)
        await order.signal(OrderWorkflow.approve_order, APPROVED)
        await order.result()

        scheduled = await details(order, "ACTIVITY_TASK_SCHEDULED")
        assert len(scheduled) == len(DELIVERED)
        for step in scheduled:
            assert step.start_to_close_timeout.ToTimedelta() <= timedelta(seconds=5)
            assert step.retry_policy.maximum_attempts == 0
            assert step.schedule_to_close_timeout.ToTimedelta() == timedelta(0)


async def test_the_web_ui_can_tell_the_story_in_words(dev_server: Client, task_queue: str) -> None:
    async with create_worker(dev_server, task_queue):
        order = await place(dev_server, task_queue)
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
        metadata = await order.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)

        assert metadata.current_details == "Awaiting approval."
        [signal] = [each for each in metadata.definition.signal_definitions if each.name[0] != "_"]
        assert '{"approved": true' in signal.description
        await order.terminate()


async def test_an_input_that_cannot_be_decoded_stalls_and_status_says_why(
    open_shop: Shop, dev_server: Client
) -> None:
    order_id = f"order-{uuid4()}"
    await dev_server.start_workflow(
        "OrderWorkflow", {"items": "mugs"}, id=order_id, task_queue=open_shop.task_queue
    )
    order = dev_server.get_workflow_handle_for(OrderWorkflow.run, order_id)
    await until_event(order, "WORKFLOW_TASK_FAILED")

    asked = open_shop.run("signals.py", "status", order_id)

    assert (asked.returncode, asked.stdout) == (1, "")
    assert f"the workflow task of order '{order_id}' failed at " in one_line(asked.stderr)
    assert "Failed decoding arguments" in asked.stderr
    assert (await order.describe()).status == WorkflowExecutionStatus.RUNNING
    await order.terminate()


async def test_a_lowered_limit_leaves_orders_alone_that_were_accepted(
    shop: Shop, dev_server: Client
) -> None:
    ten = [OrderItem("temporal-mug", 10, 12_00)]
    with shop.worker():
        waiting = await place(dev_server, shop.task_queue, items=ten, approval_timeout=60)
        await until_status(waiting, OrderStatus.AWAITING_APPROVAL)
    queued = await place(dev_server, shop.task_queue, items=ten, approval_timeout=60)

    with shop.with_change("shared.py", "MAX_QUANTITY = 1000", "MAX_QUANTITY = 5").worker():
        for order in (waiting, queued):
            await order.signal(OrderWorkflow.approve_order, APPROVED)
            assert (await order.result()).status == OrderStatus.FULFILLED

    assert "WORKFLOW_TASK_FAILED" not in await events(waiting)
