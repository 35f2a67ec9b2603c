"""Answers that take several calls of the SDK: which orders wait, why one has not ended, results."""

import asyncio
import os
import re
import shlex
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import batched
from pathlib import Path

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.enums.v1.workflow_pb2 import PENDING_ACTIVITY_STATE_SCHEDULED
from temporalio.api.failure.v1 import Failure
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ActivityError, CancelledError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from order_fulfillment.shared import Order, OrderResult, OrderStatus, dollars
from order_fulfillment.support.connection import answer_within, explain_call
from order_fulfillment.workflow import ORDER_STATUS, OrderWorkflow

CUSTOMER = SearchAttributeKey.for_keyword("Customer")

type OrderHandle = WorkflowHandle[OrderWorkflow, OrderResult]
type Report = Callable[[str], object]

# Longer than the sticky timeout in worker.py, after which the server gives up a dead worker.
QUERY_SECONDS = 8
LIST_SECONDS = 30  # Thousands of orders keep the server busy.
OVERDUE = timedelta(seconds=3)
WORKFLOW_TASK = "the workflow task of order"
GOES_ON = "it goes on by itself once workflow.py is fixed and the worker restarted"


class OrderError(Exception):
    """An order does not do what it was asked for. The text says why, for people."""


async def pending(client: Client, task_queue: str) -> AsyncIterator[tuple[str, str, str, str]]:
    """List ID, customer, total and start of the orders that wait for a decision, oldest first.

    It needs no worker.
    """
    query = f"TaskQueue = '{task_queue}' AND WorkflowType = 'OrderWorkflow'"
    async with answer_within(LIST_SECONDS):
        workflows = client.list_workflows(f"{query} AND ExecutionStatus = 'Running'")
        running = sorted([each async for each in workflows], key=lambda each: each.start_time)
    for group in batched(running, 200):
        handles = [client.get_workflow_handle(workflow.id) for workflow in group]
        async with answer_within(LIST_SECONDS):
            descriptions = await asyncio.gather(*(handle.describe() for handle in handles))
        for order in filter(waits_for_decision, descriptions):
            shown = {
                "customer": "?",
                "total": "?",
                **await order.memo(),
            }  # Memos of others lack them.
            started = f"{order.start_time:%Y-%m-%dT%H:%M:%SZ}"
            yield order.id, str(shown["customer"]), str(shown["total"]), started


def memo(order: Order) -> dict[str, str]:
    """Describe an order for lists, which then need no worker."""
    return {"customer": order.customer_name[:100], "total": dollars(order.total_cents)}


def details(order_id: str, order: Order) -> str:
    """Describe an order for whoever opens it in the Web UI, which shows Markdown."""
    items = ", ".join(f"{item.quantity} {item.sku}" for item in order.items)
    decide = command("signals.py", "approve", order_id)
    return f"{items[:1000]}. Total: {dollars(order.total_cents)}. Approve it: `{decide}`"


async def search_attributes(client: Client, order: Order, report: Report) -> TypedSearchAttributes:
    """What Temporal's lists show of an order; nothing where the server does not allow it."""
    # Shielded, since other starts of this client wait for the same answer.
    if not await asyncio.shield(_searchable(client, report)):
        return TypedSearchAttributes.empty
    # A query finds no value with a double quote, a backslash or a tab in it.
    customer = re.sub(r'[\\"\s]+', " ", order.customer_name)[:255]
    return TypedSearchAttributes(
        [SearchAttributePair(ORDER_STATUS, "IN_PROGRESS"), SearchAttributePair(CUSTOMER, customer)]
    )


@cache
def _searchable(client: Client, report: Report) -> asyncio.Future[bool]:
    return asyncio.ensure_future(_create_search_attributes(client, report))


async def _create_search_attributes(client: Client, report: Report) -> bool:
    """Create the search attributes unless the namespace has them; return whether it has them."""
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    try:
        with suppress(RPCError):
            await client.count_workflows(f"{ORDER_STATUS.name} = '' AND {CUSTOMER.name} = ''")
            return True
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=client.namespace,
                search_attributes={ORDER_STATUS.name: keyword, CUSTOMER.name: keyword},
            )
        )
    except RPCError as error:
        create = "temporal operator search-attribute create --type Keyword --name"
        report(
            f"orders start without search attributes: {error}; to have them, type "
            f"{create} {ORDER_STATUS.name} and {create} {CUSTOMER.name}"
        )
        return False
    return True


async def describe(order: OrderHandle) -> WorkflowExecutionDescription:
    """Describe an order, which needs no worker; OrderError when the workflow is not an order."""
    async with answer_within():
        description = await order.describe()
    if description.workflow_type != "OrderWorkflow":
        raise OrderError(f"workflow {order.id!r} is not an order")
    return description


def waits_for_decision(order: WorkflowExecutionDescription) -> bool:
    """Whether an order waits for its decision: it runs, but no worker has anything to do."""
    tasks = order.raw_description
    idle = not tasks.pending_activities and not tasks.HasField("pending_workflow_task")
    return idle and order.status == WorkflowExecutionStatus.RUNNING


def overdue(order: WorkflowExecutionDescription) -> bool:
    """Whether a worker should have gone on with an order: a workflow task takes milliseconds."""
    tasks = order.raw_description
    waiting = [
        step.scheduled_time
        for step in tasks.pending_activities
        if step.state == PENDING_ACTIVITY_STATE_SCHEDULED
        and not step.HasField("next_attempt_schedule_time")
    ]
    if tasks.HasField("pending_workflow_task"):
        waiting.append(tasks.pending_workflow_task.scheduled_time)
    return any(datetime.now(UTC) - since.ToDatetime(UTC) > OVERDUE for since in waiting)


def failed_attempts(order: WorkflowExecutionDescription) -> Iterator[str]:
    """The last failed attempt of each step that is being retried, and each pause, in words."""
    for step in order.raw_description.pending_activities:
        name, due = step.activity_type.name, step.next_attempt_schedule_time.ToDatetime()
        if step.HasField("last_failure"):
            late = due - step.last_attempt_complete_time.ToDatetime() > timedelta(seconds=10)
            when = f"; the next attempt is due at {due:%H:%M:%S} UTC" if late else ""
            failure = _in_words(step.last_failure)
            yield f"{name}, attempt {step.attempt - 1} failed: {failure}{when}"
        if step.paused:
            yield f"{name} is paused; go on with: uv run temporal activity unpause"


async def result(order: OrderHandle, report: Report) -> OrderResult:
    """Wait until an order has ended, and report what it waits for.

    Raises:
        WorkflowFailureError: when the order ended without a result.
    """
    told = set[str]()
    # `order.result()` would wait, too, but fails when the server restarts or the order is reset.
    while True:
        try:
            description = await describe(order)
            if description.status != WorkflowExecutionStatus.RUNNING:
                break
            news = list(failed_attempts(description))
            if waits_for_decision(description):
                approve = command("signals.py", "approve", order.id)
                news += [f"status: {OrderStatus.AWAITING_APPROVAL}", f"approve it: {approve}"]
            if overdue(description):
                news.append(f"still waiting: {await _obstacle(description, order)}")
        except TimeoutError as error:
            news = [f"still waiting: {error}"]
        for line in news:
            # A hint after a semicolon may change.
            if (told_before := line.partition(";")[0]) not in told:
                report(line)
                told.add(told_before)
        await asyncio.sleep(0.5)  # A longer pause would miss the first failed attempt.
    async with answer_within():
        result = await order.result()
    report(f"status: {result.status}")
    return result


@asynccontextmanager
async def worker_answers(order: OrderHandle) -> AsyncIterator[None]:
    """Give a worker `QUERY_SECONDS` to answer a query; OrderError with the reason if none does."""
    description = await describe(order)
    try:
        # While a workflow task fails, the server would keep the query waiting.
        if description.raw_description.pending_workflow_task.attempt > 1:
            raise TimeoutError
        async with answer_within(QUERY_SECONDS):
            yield
    except WorkflowQueryFailedError as error:
        # A worker may have to replay the order to answer, and then meet a bug of workflow.py.
        raise OrderError(f"{WORKFLOW_TASK} {order.id!r} fails: {error}; {GOES_ON}") from None
    except (TimeoutError, RPCError):
        raise OrderError(await _obstacle(description, order)) from None


async def _obstacle(order: WorkflowExecutionDescription, handle: OrderHandle) -> str:
    """Say why no worker goes on: the workflow task fails, or none is there."""
    problem = ""
    async with answer_within():
        async for event in handle.fetch_history_events():
            # The server's own reasons, such as a restart in between, have no message.
            if event.workflow_task_failed_event_attributes.failure.message:
                reason = _in_words(event.workflow_task_failed_event_attributes.failure)
                failed = f"{order.id!r} failed at {event.event_time.ToDatetime():%H:%M:%S} UTC"
                problem = f"{WORKFLOW_TASK} {failed}: {reason}; {GOES_ON}"
                if "argument" in reason:
                    problem += "; if its input is wrong, terminate it and start it anew"
            elif event.HasField("workflow_task_completed_event_attributes"):
                problem = ""
    # The history has the first failure only, and the server waits longer after each one.
    task = order.raw_description.pending_workflow_task
    if problem and task.attempt > 1:
        ago = datetime.now(UTC) - task.started_time.ToDatetime(UTC)
        reset = f"temporal workflow reset -t LastWorkflowTask --reason fixed -w {order.id}"
        problem += (
            f"; attempt {task.attempt} was {ago.seconds} s ago; then hurry it with: uv run {reset}"
        )
    elif not problem:
        version = order.raw_description.workflow_execution_info.versioning_info.deployment_version
        pinned = ["--build-id", version.build_id] if version.build_id else []
        of_version = f" of version {version.build_id}" if pinned else ""
        start = command("worker.py", *pinned)
        problem = f"no worker{of_version} answers; start one with: {start}"
    return problem


def _in_words(failure: Failure) -> str:
    kind = failure.application_failure_info.type
    return f"{kind}: {failure.message}" if kind else failure.message


def explain(order_id: str, error: Exception) -> str:
    """Explain in one line what became of an order, or of a call about it, and what to do."""
    order = f"order {order_id!r}"
    match error:
        case WorkflowAlreadyStartedError():
            return f"{order} exists already; choose another ID"
        case RPCError(status=RPCStatusCode.NOT_FOUND):
            return f"there is no {order}; start one with: {command('starter.py')}"
        case WorkflowFailureError(cause=ActivityError(activity_type=step, cause=cause)):
            return f"{order} failed at {step}: {cause}; to try again, start a new order"
        case WorkflowFailureError(cause=CancelledError()):
            return f"{order} was canceled before its delivery; nothing was charged or shipped"
        case WorkflowFailureError(cause=cause):
            return f"{order} was closed by the server: {cause}"
        case TimeoutError():
            return f"{error}; see what became of it: {command('signals.py', 'status', order_id)}"
    return explain_call(error)


def command(script: str, *arguments: str) -> str:
    """A command for a person to type: one of these scripts, as seen from the current folder."""
    path = Path(__file__).with_name(script)
    shortest = min(str(path), os.path.relpath(path), key=len)
    return shlex.join(["uv", "run", shortest, *arguments])
