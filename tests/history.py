"""Orders placed straight through the client, and what their histories say."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError
from temporalio.worker import Replayer, Worker, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from order_fulfillment import orders, worker
from order_fulfillment.activities import OrderActivities
from order_fulfillment.orders import OrderHandle
from order_fulfillment.services import ShopServices
from order_fulfillment.shared import (
    ApprovalDecision,
    Card,
    DeliveryRequest,
    Order,
    OrderItem,
    OrderStatus,
)
from order_fulfillment.support.signal_guard import SignalGuard
from order_fulfillment.workflow import OrderWorkflow

CARD = Card("tok", "12/99")
EXPIRED_CARD = Card("tok", "12/23")
ITEMS = [OrderItem("temporal-tshirt", 1, 23_00), OrderItem("temporal-mug", 2, 12_00)]
ORDER = Order("Ada Lovelace", ITEMS, CARD)
APPROVED = ApprovalDecision(True, "Approved instantly")
REJECTED = ApprovalDecision(False, "Too risky")
# The steps of an order. A new step is named here, and in no other test.
DELIVERED = ["process_payment", "reserve_inventory", "deliver_order"]
UNDELIVERED = ["process_payment", "reserve_inventory"]

FOLDER = TemporaryDirectory()
EXECUTOR = ThreadPoolExecutor(worker.THREADS)


@cache
def services() -> ShopServices:
    """The services of all workers in this process."""
    return ShopServices(Path(FOLDER.name, "shop.db"))


def create_worker(client: Client, task_queue: str) -> Worker:
    """The sample's worker."""
    created = worker.create_worker(client, task_queue, services(), EXECUTOR, None)
    # Temporal would retry an activity for ever that the worker does not have.
    lacking = activities().keys() - {each.__name__ for each in created.config()["activities"]}
    assert not lacking, f"worker.py lacks {lacking}"
    return created


def activities() -> dict[str, Callable[..., Any]]:
    """The sample's activities by name."""
    steps = OrderActivities(services())
    return {name: getattr(steps, name) for name in vars(OrderActivities) if name[0] != "_"}


@activity.defn(dynamic=True)
async def any_other_activity(_: Sequence[RawValue]) -> None:
    """Fail the order at once, for a worker that lacks the activity."""
    name = activity.info().activity_type
    raise ApplicationError(f"the worker lacks {name}", non_retryable=True)


def worker_with(
    client: Client,
    task_queue: str,
    workflow: type = OrderWorkflow,
    runner: WorkflowRunner | None = None,
    **own: Callable[..., Any],
) -> Worker:
    """A worker with activities of the test's own, by name, and the sample's for the others."""
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[workflow],
        activities=[*(activities() | own).values(), any_other_activity],
        activity_executor=EXECUTOR,
        interceptors=[SignalGuard()],
        workflow_runner=runner or SandboxedWorkflowRunner(),
    )


async def place(
    client: Client, task_queue: str, listed: bool = False, **changes: Any
) -> OrderHandle:
    """Start an order, with search attributes or as other clients would."""
    order = replace(ORDER, **changes)
    return await client.start_workflow(
        OrderWorkflow.run,
        order,
        id=f"order-{uuid4()}",
        task_queue=task_queue,
        search_attributes=orders.search_attributes(order) if listed else None,
    )


async def until[T](condition: Callable[[], Awaitable[T]], what: str) -> T:
    try:
        async with asyncio.timeout(20):
            while not (result := await condition()):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"waited too long for {what}") from None
    return result


async def until_status(handle: OrderHandle, status: OrderStatus) -> None:
    async def reached() -> bool:
        return await handle.query(OrderWorkflow.status) == status

    await until(reached, status)


def waiting_in(task_queue: str) -> str:
    """The query for a task queue's orders that wait for a decision."""
    return f"TaskQueue = '{task_queue}' AND OrderStatus = 'AWAITING_APPROVAL'"


async def until_listed(client: Client, query: str, number: int = 1) -> None:
    """Wait until Temporal's lists have a number of orders for a query."""

    async def listed() -> bool:
        return (await client.count_workflows(query)).count == number

    await until(listed, f"{number} of {query}")


async def until_event(handle: OrderHandle, name: str) -> None:
    async def happened() -> bool:
        return name in await events(handle)

    await until(happened, name)


async def failure_of(order: OrderHandle) -> ApplicationError | CancelledError:
    """The error that made an activity, and with it the order, fail; or the cancellation."""
    with pytest.raises(WorkflowFailureError) as failed:
        await asyncio.wait_for(order.result(), 20)
    cause: BaseException | None = failed.value.cause
    if isinstance(cause, ActivityError):
        cause = cause.cause
    assert isinstance(cause, ApplicationError | CancelledError)
    return cause


async def events(handle: OrderHandle) -> list[str]:
    """The types of the events in the order's history."""
    history = await handle.fetch_history()
    return [
        EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in history.events
    ]


async def details(handle: WorkflowHandle[Any, Any], name: str) -> list[Any]:
    """What the history says of all events of this type, such as TIMER_STARTED."""
    field: Any = f"{name.lower()}_event_attributes"
    history = await handle.fetch_history()
    return [getattr(event, field) for event in history.events if event.HasField(field)]


async def steps(handle: OrderHandle) -> list[str]:
    """The activities that the order scheduled."""
    scheduled = await details(handle, "ACTIVITY_TASK_SCHEDULED")
    return [step.activity_type.name for step in scheduled]


async def attempts(handle: OrderHandle) -> list[int]:
    """How many attempts each step of the order took."""
    return [step.attempt for step in await details(handle, "ACTIVITY_TASK_STARTED")]


async def replay(history: WorkflowHistory, workflow: type = OrderWorkflow) -> None:
    """Replay a history as the sample's worker would.

    Raises:
        NondeterminismError: when the workflow does not take the way that the history tells.
    """
    replayer = Replayer(workflows=[workflow], interceptors=[SignalGuard()])
    await replayer.replay_workflow(history)


def recorded(path: Path) -> WorkflowHistory:
    """A history that was saved by `temporal workflow show --output json`."""
    return WorkflowHistory.from_json(path.stem, path.read_text())


class SlowDelivery:
    """A worker whose delivery goes on until it is told to end."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self.began, self.end = asyncio.Event(), asyncio.Event()

        @activity.defn(name="deliver_order")
        async def deliver_slowly(request: DeliveryRequest) -> str:
            self.began.set()
            await self.end.wait()
            return "track-slow"

        self.worker = worker_with(client, task_queue, deliver_order=deliver_slowly)
