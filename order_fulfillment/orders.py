"""How to search for orders, why an order has not ended yet, and how to wait for its end."""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import IndexedValueType
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

from order_fulfillment.shared import Order, OrderResult, OrderStatus
from order_fulfillment.support.connection import UNANSWERED, explain_call
from order_fulfillment.workflow import ORDER_STATUS, OrderWorkflow

CUSTOMER = SearchAttributeKey.for_keyword("Customer")

type OrderHandle = WorkflowHandle[OrderWorkflow, OrderResult]
type Report = Callable[[str], object]

# Longer than the sticky timeout in worker.py, after which the server gives up a dead worker.
PATIENCE_SECONDS = 8
NO_WORKER = RPCStatusCode.FAILED_PRECONDITION  # With it the server refuses a query.
WORKFLOW_TASK = "the workflow task of order"
GOES_ON = "the next attempt succeeds if workflow.py is fixed and the worker is restarted"
RESET = "uv run temporal workflow reset -t LastWorkflowTask --reason fixed -w"


class OrderError(Exception):
    """An order does not do what it was asked for. The text says why, for people."""


def search_attributes(order: Order) -> TypedSearchAttributes:
    """Make an order searchable by its customer and its status."""
    # A query finds no value with a double quote, a backslash or a tab in it.
    customer = re.sub(r'[\\"\s]+', " ", order.customer_name)[:255]
    status = SearchAttributePair(ORDER_STATUS, OrderStatus.PROCESSING_PAYMENT)
    return TypedSearchAttributes([status, SearchAttributePair(CUSTOMER, customer)])


async def ensure_search_attributes(client: Client, report: Report) -> bool:
    """Create the search attributes unless the namespace has them; report it if that cannot be."""
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    attributes = {ORDER_STATUS.name: keyword, CUSTOMER.name: keyword}
    request = AddSearchAttributesRequest(namespace=client.namespace, search_attributes=attributes)
    with suppress(RPCError):  # A server refuses to count by an attribute that it lacks.
        await client.count_workflows(" AND ".join(f"{name} = ''" for name in attributes))
        return True
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        create = "temporal operator search-attribute create --type Keyword --name"
        commands = " and ".join(f"{create} {name}" for name in attributes)
        report(f"orders are not searchable: {error}; to change that, type {commands}")
        return False
    return True


async def describe(handle: OrderHandle) -> WorkflowExecutionDescription:
    """Describe an order, which needs no worker; OrderError when the workflow is not an order."""
    description = await handle.describe()
    if description.workflow_type != OrderWorkflow.__name__:
        raise OrderError(f"workflow {handle.id!r} is not an order")
    return description


def failed_attempts(description: WorkflowExecutionDescription) -> Iterator[str]:
    """The last failed attempt of each step that is being retried, in words."""
    for step in description.raw_description.pending_activities:
        if step.HasField("last_failure"):
            failed = f"{step.activity_type.name}, attempt {step.attempt - 1} failed"
            yield f"{failed}: {_in_words(step.last_failure)}"


async def follow(handle: OrderHandle, report: Report) -> None:
    """Report what an order waits for, until it has ended. Then `handle.result()` need not wait.

    Alone, `handle.result()` would fail when the server restarts or the order is reset.
    """
    told, began = set[str](), datetime.now(UTC)

    def tell(news: str) -> None:
        # The hint after the semicolon may change while the news stays the same.
        if (beginning := news.partition(";")[0]) not in told:
            report(news)
            told.add(beginning)

    while True:
        try:
            description = await describe(handle)
            if description.status != WorkflowExecutionStatus.RUNNING:
                return
            for failed in failed_attempts(description):
                tell(failed)
            status = description.typed_search_attributes.get(ORDER_STATUS)
            task = description.raw_description.pending_workflow_task
            if task.attempt:  # A workflow task takes milliseconds, if a worker is there.
                since = max(began, task.scheduled_time.ToDatetime(UTC))
                if datetime.now(UTC) - since > timedelta(seconds=PATIENCE_SECONDS):
                    tell(f"still waiting: {await _obstacle(handle)}")
            elif status == OrderStatus.AWAITING_APPROVAL:
                approve = command("signals.py", "approve", handle.id)
                tell(f"it waits for a decision; approve it: {approve}")
        except RPCError as error:
            if error.status not in UNANSWERED:
                raise
            tell(f"still waiting: {explain_call(error)}")
        await asyncio.sleep(0.5)  # A longer pause would miss the first failed attempt.


@asynccontextmanager
async def worker_answers(handle: OrderHandle) -> AsyncIterator[None]:
    """Give a worker `PATIENCE_SECONDS` to answer a query; OrderError with the reason if none does."""
    description = await describe(handle)
    # While a workflow task fails, the server would keep the query waiting.
    if description.raw_description.pending_workflow_task.attempt > 1:
        raise OrderError(await _obstacle(handle))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield
    except WorkflowQueryFailedError as error:
        # A worker may have to replay the order to answer, and then meet a bug of workflow.py.
        raise OrderError(f"{WORKFLOW_TASK} {handle.id!r} fails: {error}; {GOES_ON}") from None
    except (TimeoutError, RPCError) as error:
        if isinstance(error, RPCError) and error.status not in UNANSWERED | {NO_WORKER}:
            raise
        raise OrderError(await _obstacle(handle)) from None


async def _obstacle(handle: OrderHandle) -> str:
    """Say why no worker goes on: the workflow task fails, or none is there."""
    description = (await handle.describe()).raw_description
    task, history = description.pending_workflow_task, await handle.fetch_history()
    for event in reversed(history.events):
        failed = event.workflow_task_failed_event_attributes
        # The server's own reasons have no message, except a reset, which begins a new run.
        if failed.failure.message and not failed.new_run_id:
            reason = f"{WORKFLOW_TASK} {handle.id!r} fails: {_in_words(failed.failure)}; "
            if task.HasField("started_time"):
                ago = datetime.now(UTC) - task.started_time.ToDatetime(UTC)
                reason += f"attempt {task.attempt} was {ago.total_seconds():.0f} s ago; "
            # The server waits longer and longer: fifteen seconds after the fourth attempt.
            now = f"; to make it now: {RESET} {shlex.quote(handle.id)}" if task.attempt > 3 else ""
            return f"{reason}{GOES_ON}{now}"
        if event.HasField("workflow_task_completed_event_attributes"):
            break
    info = description.workflow_execution_info.versioning_info
    pinned = info.versioning_override.pinned.version  # After `temporal workflow update-options`.
    if version := pinned.build_id or info.deployment_version.build_id:
        start = command("worker.py", "--build-id", version)
        return f"no worker of version {version} answers; start one with: {start}"
    return "no worker answers; start one with: uv run worker.py"


def _in_words(failure: Failure) -> str:
    # The server cuts a failure of more than 4 kB, and wraps it in one of its own.
    if failure.HasField("server_failure_info") and failure.HasField("cause"):
        failure = failure.cause
    kind = failure.application_failure_info.type
    return f"{kind}: {failure.message}" if kind else failure.message


def explain(order_id: str, error: Exception) -> str:
    """Explain in one line what became of an order, or of a call about it, and what to do."""
    order = f"order {order_id!r}"
    match error:
        case WorkflowAlreadyStartedError():
            return f"{order} exists already; choose another ID"
        case RPCError(status=RPCStatusCode.NOT_FOUND):
            return f"there is no {order}; start one with: uv run starter.py"
        case WorkflowFailureError(cause=ActivityError(activity_type=step, cause=cause)):
            return f"{order} failed at {step}: {cause}; to try again, start a new order"
        case WorkflowFailureError(cause=CancelledError()):
            return f"{order} was canceled before its delivery; nothing was charged or shipped"
        case WorkflowFailureError(cause=cause):
            return f"{order} was closed without a result: {cause}"
        case RPCError(status=status) if status in UNANSWERED:
            see = command("signals.py", "status", order_id)
            return f"{explain_call(error)}; see what became of it: {see}"
    return explain_call(error)


def command(script: str, *arguments: str) -> str:
    """A command for a person to type."""
    return shlex.join(["uv", "run", script, *arguments])
