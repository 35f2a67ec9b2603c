"""What one can do with an order from outside: start it, decide about it, ask how it stands.

For the scripts, the tests, and any other program:

    order = await orders.start(client, "order-1", Order("Ada", items, card))
    await orders.decide(order, ApprovalDecision(approved=True))
    result = await orders.result(order)

What goes wrong is a TemporalError of `support.connection`; its text is for people.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import batched

from temporalio import exceptions
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.common import WorkflowIDReusePolicy

from order_fulfillment import progress
from order_fulfillment.shared import TASK_QUEUE, ApprovalDecision, Order, OrderResult, amount
from order_fulfillment.support import connection
from order_fulfillment.workflow import OrderWorkflow

type OrderHandle = WorkflowHandle[OrderWorkflow, OrderResult]
type Report = Callable[[str], object]

QUERY_SECONDS = 8
"""How long to wait for the answer to a query: longer than the server waits for a dead worker."""


class OrderExistsError(connection.TemporalError):
    """The ID was used before, for an order that may have ended since."""


class DecisionIgnoredError(connection.TemporalError):
    """The order has ended, or another decision came first."""


class OrderFailedError(connection.TemporalError):
    """The order failed or was canceled, or the server closed it: there is no result."""


@dataclass(frozen=True)
class PendingOrder:
    """An order that waits for a decision, as its starter described it."""

    order_id: str
    customer: str
    total: str
    started: datetime


async def start(
    client: Client, order_id: str, order: Order, task_queue: str = TASK_QUEUE, seconds: float = 3
) -> OrderHandle:
    """Start an order. The server has this many seconds to answer.

    Raises:
        ValueError: when the order is not within its limits.
        OrderExistsError: when the ID was used before.
    """
    order.check()
    try:
        async with connection.server_errors(seconds):
            await client.start_workflow(
                OrderWorkflow.run,
                order,
                id=order_id,
                task_queue=task_queue,
                # By default Temporal would reuse the ID of an order that has ended.
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                # What a workflow task waits that a stopped worker has lost; by default ten seconds.
                task_timeout=timedelta(seconds=5),
                # The server takes at most 400 bytes; one character is at most 12 as JSON.
                static_summary=f"Order of {order.customer_name[:30]}",
                # A list of workflows has it at hand, without asking any worker.
                memo=_memo(order),
            )
    except exceptions.WorkflowAlreadyStartedError:
        raise OrderExistsError(f"order {order_id!r} exists already; choose another ID") from None
    # A handle by ID alone follows the order when somebody resets its workflow.
    return client.get_workflow_handle_for(OrderWorkflow.run, order_id)


async def find(client: Client, order_id: str) -> OrderHandle:
    """Find an order that was started before.

    Raises:
        NotFoundError: when there is none, or the ID is that of another kind of workflow.
    """
    order = client.get_workflow_handle_for(OrderWorkflow.run, order_id)
    if (await _describe(order)).workflow_type != "OrderWorkflow":
        raise connection.NotFoundError(f"workflow {order_id!r} is not an order")
    return order


async def decide(order: OrderHandle, decision: ApprovalDecision) -> None:
    """Send a decision, and see that the one that stands has the same words.

    Raises:
        DecisionIgnoredError: when the order has ended, or a different decision came first.
        NoWorkerError, WorkflowTaskError: the server keeps the decision, but no worker can tell.
    """
    try:
        async with connection.server_errors():
            await order.signal(OrderWorkflow.approve_order, decision)
    except connection.NotFoundError:
        standing = f"closed already ({await status(order)})"
    else:
        message = await approval_message(order)
        if message == decision.message:
            return
        standing = message or await status(order)
    raise DecisionIgnoredError(f"the decision changes nothing: order {order.id!r} is {standing}")


async def pending(client: Client, task_queue: str = TASK_QUEUE) -> AsyncIterator[PendingOrder]:
    """The orders that wait for a decision, oldest first. It needs no worker."""
    async with connection.server_errors(30):  # A crowd of orders keeps the server busy.
        running = [
            workflow
            async for workflow in client.list_workflows(
                f"TaskQueue = '{task_queue}' AND WorkflowType = 'OrderWorkflow' "
                "AND ExecutionStatus = 'Running'"
            )
        ]
    running.sort(key=lambda workflow: workflow.start_time)
    for group in batched(running, 200):
        handles = [client.get_workflow_handle(workflow.id) for workflow in group]
        async with connection.server_errors(30):
            descriptions = await asyncio.gather(*(handle.describe() for handle in handles))
        for order in descriptions:
            if progress.waits_for_decision(order):
                memo = await order.memo() or await _memo_of_input(client, order.id)
                yield PendingOrder(order.id, memo["customer"], memo["total"], order.start_time)


async def status(order: OrderHandle, report: Report = lambda news: None) -> str:
    """Where the order stands: an OrderStatus, or TERMINATED or TIMED_OUT by the server.

    `report` is called with the last failed attempt of a step that is being retried, in words.
    """
    description = await _describe(order)
    for failed in progress.failed_attempts(description):
        report(failed)
    match description.status:
        case WorkflowExecutionStatus.RUNNING:
            # While its workflow task fails, the server keeps a query waiting at first.
            if description.raw_description.pending_workflow_task.attempt > 1:
                obstacle = await progress.obstacle(order)
                if isinstance(obstacle, progress.WorkflowTaskError):
                    raise obstacle
            return str(await _query(order, "status"))
        case WorkflowExecutionStatus.COMPLETED:
            return (await result(order)).status
    # The workflow itself was not told if the server closed it.
    return description.status.name if description.status else ""


async def approval_message(order: OrderHandle) -> str | None:
    """The decision in words; None while there is none."""
    message = await _query(order, "approval_message")
    return None if message is None else str(message)


async def result(order: OrderHandle, report: Report = lambda news: None) -> OrderResult:
    """Wait until the order ends, and meanwhile `report` what `progress.follow` tells.

    Raises:
        OrderFailedError: when there is no result.
    """
    told = set[str]()
    async for news in progress.follow(order):
        if news not in told:
            told.add(news)
            report(news)
    try:
        async with connection.server_errors():
            result = await order.result()
    except WorkflowFailureError as error:
        raise OrderFailedError(f"order {order.id!r} {_how_it_ended(error.cause)}") from None
    report(f"status: {result.status}")
    return result


def _memo(order: Order) -> dict[str, str]:
    price = amount(order.total_cents, order.currency)
    return {"customer": order.customer_name[:100], "total": price}


async def _memo_of_input(client: Client, order_id: str) -> dict[str, str]:
    """What `start` would have noted, for an order that another client started."""
    history = client.get_workflow_handle(order_id).fetch_history_events(page_size=1)
    started = (await anext(history)).workflow_execution_started_event_attributes
    [order] = await client.data_converter.decode(started.input.payloads, [Order])
    return _memo(order)


async def _describe(order: OrderHandle) -> WorkflowExecutionDescription:
    try:
        async with connection.server_errors():
            return await order.describe()
    except connection.NotFoundError:
        raise connection.NotFoundError(f"there is no order {order.id!r}") from None


async def _query(order: OrderHandle, query: str) -> object:
    try:
        async with connection.server_errors(QUERY_SECONDS):
            return await order.query(query)
    except WorkflowQueryFailedError as error:
        # To answer, a worker may have to replay the order, which fails when workflow.py does.
        raise progress.WorkflowTaskError(order.id, str(error)) from None
    except connection.NoAnswerError:
        raise await progress.obstacle(order) from None


def _how_it_ended(cause: BaseException) -> str:
    match cause:
        case exceptions.ActivityError(activity_type=step, cause=error):
            return f"failed at {step}: {error}; to try again, start a new order"
        case exceptions.CancelledError():
            return "was canceled before its delivery; nothing was charged or shipped"
        case exceptions.TerminatedError() | exceptions.TimeoutError():
            return f"was closed by the server: {cause}"
    return f"failed: {cause}"
