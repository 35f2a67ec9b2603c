"""Orders placed straight through the client, and waiting for what they do."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from temporalio.api.enums.v1 import EventType, TimeoutType
from temporalio.client import Client, WorkflowHandle

from order_fulfillment.shared import Order, OrderResult, OrderStatus
from order_fulfillment.workflow import OrderWorkflow

type OrderHandle = WorkflowHandle[OrderWorkflow, OrderResult]


async def place(client: Client, task_queue: str, **changes: Any) -> OrderHandle:
    order = {"customer_name": "Ada", "payment_token": "tok", "card_expiry": "12/99"} | changes
    return await client.start_workflow(
        OrderWorkflow.run, Order(**order), id=f"order-{uuid4()}", task_queue=task_queue
    )


async def until(condition: Callable[[], Any], what: str) -> None:
    try:
        async with asyncio.timeout(20):
            while not await condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited too long for {what}") from None


async def until_status(handle: OrderHandle, status: OrderStatus) -> None:
    async def reached() -> bool:
        return await handle.query(OrderWorkflow.status) == status

    await until(reached, status)


async def events(handle: OrderHandle) -> list[str]:
    """The types of the events in the order's history."""
    history = await handle.fetch_history()
    return [
        EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in history.events
    ]


async def attempts(handle: OrderHandle) -> list[int]:
    """How many attempts each step of the order took."""
    return [
        event.activity_task_started_event_attributes.attempt
        for event in (await handle.fetch_history()).events
        if event.HasField("activity_task_started_event_attributes")
    ]


async def lost_workflow_tasks(handle: OrderHandle) -> int:
    """How many workflow tasks of the order went to a worker that never completed them."""
    return sum(
        event.workflow_task_timed_out_event_attributes.timeout_type
        == TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
        for event in (await handle.fetch_history()).events
        if event.HasField("workflow_task_timed_out_event_attributes")
    )


async def until_event(handle: OrderHandle, name: str) -> None:
    async def happened() -> bool:
        return name in await events(handle)

    await until(happened, name)
