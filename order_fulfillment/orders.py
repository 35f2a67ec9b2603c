"""What one can do with an order from outside: start it, decide about it, ask how it stands.

For the scripts, the tests, and any other program:

    order = await orders.start(client, "order-1", Order("Ada", items, card))
    await orders.decide(order, ApprovalDecision(approved=True))
    result = await orders.result(order)

What goes wrong is an OrderError, or an error of `support.connection`; its text says what to do.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import batched

from temporalio import exceptions
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.failure.v1 import Failure
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.common import WorkflowIDReusePolicy

from order_fulfillment.shared import (
    TASK_QUEUE,
    ApprovalDecision,
    Order,
    OrderResult,
    OrderStatus,
    amount,
)
from order_fulfillment.support.command_line import CommandError, command
from order_fulfillment.support.connection import NoAnswerError, NotFoundError, server_errors
from order_fulfillment.workflow import OrderWorkflow

type OrderHandle = WorkflowHandle[OrderWorkflow, OrderResult]

QUERY_SECONDS = 5
"""How long a worker may take to answer a query: it may have to replay the order first."""

STALLED_SECONDS = 3
"""How long an order may wait for a worker before this is reported; longer than the pauses between
the attempts of an activity."""

SIDE_BY_SIDE = 50
"""How many orders are asked at once: enough to keep a worker busy, few enough to be answered."""

STEPS = {
    "process_payment": OrderStatus.PROCESSING_PAYMENT,
    "reserve_inventory": OrderStatus.RESERVING_INVENTORY,
    "deliver_order": OrderStatus.DELIVERING,
}


@dataclass(frozen=True)
class PendingOrder:
    """An order that waits for a decision, as its starter described it."""

    order_id: str
    customer: str
    total: str
    started: datetime


class OrderError(CommandError):
    """An operation on an order failed."""


class OrderExistsError(OrderError):
    """The ID was used before, for an order that may have ended since."""


class OrderNotFoundError(OrderError):
    """There is no order of this ID."""


class DecisionIgnoredError(OrderError):
    """The order has ended, or another decision came first."""


class UnansweredError(OrderError):
    """No worker answers for the order, or its workflow task fails."""


class OrderFailedError(OrderError):
    """The order failed or was canceled, or the server closed it: there is no result."""


async def start(
    client: Client, order_id: str, order: Order, task_queue: str = TASK_QUEUE
) -> OrderHandle:
    """Start an order.

    Raises:
        OrderExistsError: when the ID was used before.
        NoAnswerError: when the order may have been started, or not.
    """
    try:
        async with server_errors():
            await client.start_workflow(
                OrderWorkflow.run,
                order,
                id=order_id,
                task_queue=task_queue,
                # By default Temporal would reuse the ID of an order that has ended.
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                # The server takes at most 400 bytes; one character is at most 12 as JSON.
                static_summary=f"Order of {order.customer_name[:30]}",
                # A list of workflows has it at hand, without asking any worker.
                memo={
                    "customer": order.customer_name[:100],
                    "total": amount(order.total_cents, order.currency),
                },
            )
    except exceptions.WorkflowAlreadyStartedError:
        raise OrderExistsError(
            f"an order {order_id!r} exists already; choose another --workflow-id"
        ) from None
    except NoAnswerError:
        raise NoAnswerError(
            "the Temporal server gave no answer; the order may have started all the same: "
            + command("signals.py", "status", order_id)
        ) from None
    # A handle by ID alone follows the order when somebody resets its workflow.
    return client.get_workflow_handle_for(OrderWorkflow.run, order_id)


async def find(client: Client, order_id: str) -> OrderHandle:
    """Find an order that was started before.

    Raises:
        OrderNotFoundError: when there is none, or the ID is that of another kind of workflow.
    """
    order = client.get_workflow_handle_for(OrderWorkflow.run, order_id)
    description = await _describe(order)
    if description.workflow_type != "OrderWorkflow":
        raise OrderNotFoundError(f"{order_id!r} is not an order, but another kind of workflow")
    return order


async def decide(order: OrderHandle, decision: ApprovalDecision) -> None:
    """Send a decision, and see that it is the one that stands.

    Raises:
        DecisionIgnoredError: when the order has ended, or another decision came first.
        UnansweredError: when no worker can tell yet; the server keeps the decision.
    """
    try:
        async with server_errors():
            await order.signal(OrderWorkflow.approve_order, decision)
    except NoAnswerError as error:
        raise NoAnswerError(
            f"{error}; the decision may have arrived all the same: "
            + command("signals.py", "approval-message", order.id)
        ) from None
    except NotFoundError:
        standing = f"closed already ({await status(order)})"
    else:
        message = await approval_message(order)
        if message == decision.message:
            return
        standing = message or await status(order)
    raise DecisionIgnoredError(f"the decision changes nothing: order {order.id!r} is {standing}")


async def pending(
    client: Client,
    task_queue: str = TASK_QUEUE,
    report: Callable[[str], object] = lambda news: None,
) -> AsyncIterator[PendingOrder]:
    """The orders that wait for a decision, oldest first.

    Args:
        client: The client.
        task_queue: Where the orders were started.
        report: Called with a line about orders that could not be asked.

    Raises:
        UnansweredError: when none of the first orders could be asked.
    """
    running = sorted(await _running(client, task_queue), key=lambda order: order.start_time)
    answered = False
    for first in range(0, len(running), SIDE_BY_SIDE):
        group = running[first : first + SIDE_BY_SIDE]
        answers = await asyncio.gather(
            *(_query(client.get_workflow_handle(order.id), "status") for order in group),
            return_exceptions=True,
        )
        unanswered = [error for error in answers if isinstance(error, UnansweredError)]
        answered = answered or len(unanswered) < len(group)
        if not answered:
            raise unanswered[0]
        if unanswered:
            report(f"{len(unanswered)} orders could not be asked, the first: {unanswered[0]}")
        for order, answer in zip(group, answers, strict=True):
            if answer == OrderStatus.AWAITING_APPROVAL:
                yield PendingOrder(
                    order.id,
                    str(await order.memo_value("customer", "?")),
                    str(await order.memo_value("total", "?")),
                    order.start_time,
                )
            elif isinstance(answer, BaseException) and not isinstance(
                # It is an order of another program, or was deleted meanwhile.
                answer,
                OrderError | NotFoundError,
            ):
                raise answer


async def status(order: OrderHandle, report: Callable[[str], object] = lambda news: None) -> str:
    """Where the order stands: an OrderStatus, or TERMINATED or TIMED_OUT by the server.

    Args:
        order: The order.
        report: Called with the last failed attempt of a step that is being retried, in words.

    Raises:
        UnansweredError: when no worker answers, or the workflow task fails.
    """
    description = await _describe(order)
    for failed in _failed_attempts(description):
        report(failed)
    match description.status:
        case WorkflowExecutionStatus.RUNNING:
            return str(await _query(order, "status"))
        case WorkflowExecutionStatus.COMPLETED:
            return (await _result(order)).status
    # The workflow itself was not told if the server closed it.
    return description.status.name if description.status else ""


async def approval_message(order: OrderHandle) -> str | None:
    """The decision in words; None while there is none.

    Raises:
        UnansweredError: when no worker answers, or the workflow task fails.
    """
    message = await _query(order, "approval_message")
    return None if message is None else str(message)


async def result(
    order: OrderHandle, report: Callable[[str], object] = lambda news: None
) -> OrderResult:
    """Wait until the order ends.

    Args:
        order: The order.
        report: Called with each new status, failed attempt and obstacle, in words.

    Raises:
        OrderFailedError: when there is no result.
    """
    reported = set[str]()
    async for news in _news(order):
        if news not in reported:
            reported.add(news)
            report(news)
    result = await _ended(order)
    report(f"status: {result.status}")
    return result


async def results(
    client: Client, order_ids: Iterable[str], task_queue: str = TASK_QUEUE
) -> AsyncIterator[tuple[str, OrderResult | OrderFailedError]]:
    """Wait for many orders to end, and yield the status and the result of each as it ends.

    It asks for the list of running workflows, and not for each order: once a second, whatever
    their number.
    """

    async def end(order_id: str) -> tuple[str, str, OrderResult | OrderFailedError] | None:
        order = client.get_workflow_handle_for(OrderWorkflow.run, order_id)
        try:
            description = await _describe(order)
        except OrderNotFoundError as error:
            return order_id, "DELETED", OrderFailedError(str(error))
        # The list may lag behind, and not have an order yet that was just started.
        if description.status in (WorkflowExecutionStatus.RUNNING, None):
            return None
        try:
            result = await _ended(order)
        except OrderFailedError as error:
            return order_id, description.status.name, error
        return order_id, result.status, result

    waiting = set(order_ids)
    while waiting:
        with suppress(NoAnswerError):  # The server may be restarting.
            gone = waiting - {order.id for order in await _running(client, task_queue)}
            for group in batched(sorted(gone), SIDE_BY_SIDE):
                for ended in await asyncio.gather(*map(end, group)):
                    if ended:
                        waiting.remove(ended[0])
                        yield ended[1:]
        if waiting:
            await asyncio.sleep(1)


async def _news(order: OrderHandle) -> AsyncIterator[str]:
    """What the server, which needs no worker for it, tells of an order until it ends."""
    seen: object = None
    run_id = None
    since = 0.0
    pause = 0.1
    while True:
        try:
            description = await _describe(order)
            if run_id not in (None, description.run_id):
                yield f"the workflow was reset; the order goes on in run {description.run_id}"
            run_id = description.run_id
            if description.status != WorkflowExecutionStatus.RUNNING:
                return
            for news in _progress(description):
                yield news
            pending = description.raw_description
            scheduled = PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
            waits_for_worker = pending.HasField("pending_workflow_task") or any(
                step.state == scheduled for step in pending.pending_activities
            )
            now = description.history_length, [step.attempt for step in pending.pending_activities]
            if now != seen or not waits_for_worker:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > STALLED_SECONDS:
                yield f"still waiting: {await _obstacle(order)}"
        except NoAnswerError as error:
            yield f"still waiting: {error}"
        await asyncio.sleep(pause)
        pause = min(1.1 * pause, 1)


def _progress(description: WorkflowExecutionDescription) -> Iterator[str]:
    pending = description.raw_description
    for step in pending.pending_activities:
        if step.activity_type.name in STEPS:
            yield f"status: {STEPS[step.activity_type.name]}"
    yield from _failed_attempts(description)
    if not pending.pending_activities and not pending.HasField("pending_workflow_task"):
        yield f"status: {OrderStatus.AWAITING_APPROVAL}"


def _failed_attempts(description: WorkflowExecutionDescription) -> Iterator[str]:
    for step in description.raw_description.pending_activities:
        if step.HasField("last_failure"):
            failure = _in_words(step.last_failure)
            yield f"{step.activity_type.name}, attempt {step.attempt - 1} failed: {failure}"


async def _running(client: Client, task_queue: str) -> list[WorkflowExecution]:
    quoted = task_queue.replace("\\", r"\\").replace("'", r"\'")
    async with server_errors(QUERY_SECONDS):
        return [
            order
            async for order in client.list_workflows(
                f"TaskQueue = '{quoted}' AND WorkflowType = 'OrderWorkflow' "
                "AND ExecutionStatus = 'Running'"
            )
        ]


async def _ended(order: OrderHandle) -> OrderResult:
    try:
        return await _result(order)
    except WorkflowFailureError as error:
        raise OrderFailedError(f"order {order.id!r} {_how_it_ended(error.cause)}") from None


async def _result(order: OrderHandle) -> OrderResult:
    try:
        async with server_errors():
            return await order.result()
    except (TypeError, ValueError) as error:  # It is no OrderResult.
        raise _foreign(order, error) from None


async def _describe(order: OrderHandle) -> WorkflowExecutionDescription:
    try:
        async with server_errors():
            return await order.describe()
    except NotFoundError:
        raise OrderNotFoundError(
            f"there is no order {order.id!r}; start one with: {command('starter.py')}"
        ) from None


async def _query(order: OrderHandle, query: str) -> object:
    try:
        async with server_errors(QUERY_SECONDS):
            return await order.query(query)
    except WorkflowQueryFailedError as error:
        if str(error).startswith("Query handler for"):
            raise _foreign(order, error) from None
        # To answer, a worker may have to replay the order, which fails when workflow.py does.
        raise UnansweredError(_failing(order, str(error))) from None
    except NoAnswerError:
        raise UnansweredError(await _obstacle(order)) from None


async def _obstacle(order: OrderHandle) -> str:
    """Why the order does not go on."""
    failure = None
    async with server_errors():
        async for event in order.fetch_history_events():
            if event.HasField("workflow_task_failed_event_attributes"):
                failure = event.workflow_task_failed_event_attributes.failure
            elif event.HasField("workflow_task_completed_event_attributes"):
                failure = None
    # The server's own reasons, such as a restart in between, have no message.
    if failure and failure.message:
        return _failing(order, _in_words(failure))
    return f"no worker answers; start one with: {command('worker.py')}"


def _failing(order: OrderHandle, reason: str) -> str:
    return (
        f"the workflow task of order {order.id!r} fails: {reason}; it goes on by itself once "
        f"workflow.py is fixed and the worker restarted: {command('worker.py')}"
    )


def _foreign(order: OrderHandle, error: Exception) -> OrderError:
    return OrderError(f"{order.id!r} is an order of another program: {error}")


def _in_words(failure: Failure) -> str:
    kind = failure.application_failure_info.type
    return f"{kind}: {failure.message}" if kind else failure.message


def _how_it_ended(cause: BaseException) -> str:
    match cause:
        case exceptions.ActivityError(
            activity_type=step, cause=exceptions.ApplicationError(type=kind, message=message)
        ):
            return f"failed at {step}: {kind}: {message}; to try again, start a new order"
        case exceptions.CancelledError():
            return "was canceled before its delivery; nothing was charged or shipped"
        case exceptions.TerminatedError():
            return f"was terminated: {cause.message}; nobody finishes it"
        case exceptions.TimeoutError():
            return "was timed out by the server; nobody finishes it"
    return f"failed: {cause}"
