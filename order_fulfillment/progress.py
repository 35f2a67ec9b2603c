"""Why an order has not ended yet. The server knows it, even while no worker runs."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.failure.v1 import Failure
from temporalio.client import WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowHandle

from order_fulfillment.shared import OrderStatus
from order_fulfillment.support import connection

STALLED_SECONDS = 3
"""How long an order may wait for a worker before this is said; longer than the pauses of retries."""

STARTED = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED


class WorkflowTaskError(connection.TemporalError):
    """The workflow task of an order fails: the code has a bug, or cannot read the order."""

    def __init__(self, order_id: str, reason: str) -> None:
        super().__init__(
            f"the workflow task of order {order_id!r} fails: {reason}; "
            "it goes on by itself once workflow.py is fixed and the worker restarted"
        )


async def follow(order: WorkflowHandle[Any, Any]) -> AsyncIterator[str]:
    """What an order waits for, in words, until it has ended. The same may be said again."""
    seen, since = None, 0.0
    while True:
        try:
            async with connection.server_errors():
                description = await order.describe()
            if description.status != WorkflowExecutionStatus.RUNNING:
                return
            for failed in failed_attempts(description):
                yield failed
            if waits_for_decision(description):
                yield f"status: {OrderStatus.AWAITING_APPROVAL}"
            steps = description.raw_description.pending_activities
            stands = description.history_length, [step.attempt for step in steps]
            at_work = any(step.state == STARTED for step in steps)
            if stands != seen or at_work or waits_for_decision(description):
                seen, since = stands, time.monotonic()
            elif time.monotonic() - since > STALLED_SECONDS:
                yield f"still waiting: {await obstacle(order)}"
        except connection.NoAnswerError as error:
            yield f"still waiting: {error}"
        await asyncio.sleep(0.5)


def waits_for_decision(order: WorkflowExecutionDescription) -> bool:
    """Whether the order waits for its decision: it runs, but no worker has anything to do."""
    tasks = order.raw_description
    idle = not tasks.pending_activities and not tasks.HasField("pending_workflow_task")
    return idle and order.status == WorkflowExecutionStatus.RUNNING


def failed_attempts(order: WorkflowExecutionDescription) -> Iterator[str]:
    """The last failed attempt of each step that is being retried, in words."""
    for step in order.raw_description.pending_activities:
        if step.HasField("last_failure"):
            failure = _in_words(step.last_failure)
            yield f"{step.activity_type.name}, attempt {step.attempt - 1} failed: {failure}"


async def obstacle(order: WorkflowHandle[Any, Any]) -> connection.TemporalError:
    """Why no worker goes on with the order."""
    failure = None
    async with connection.server_errors():
        async for event in order.fetch_history_events():
            if event.HasField("workflow_task_failed_event_attributes"):
                failure = event.workflow_task_failed_event_attributes.failure
            elif event.HasField("workflow_task_completed_event_attributes"):
                failure = None
    # The server's own reasons, such as a restart in between, have no message.
    if failure and failure.message:
        return WorkflowTaskError(order.id, _in_words(failure))
    return connection.NoWorkerError("no worker answers")


def _in_words(failure: Failure) -> str:
    kind = failure.application_failure_info.type
    return f"{kind}: {failure.message}" if kind else failure.message
