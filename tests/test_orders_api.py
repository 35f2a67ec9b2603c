"""What any other program can do with orders through orders.py, and the errors it gets."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest
from temporalio.client import Client

from order_fulfillment import orders
from order_fulfillment.shared import ApprovalDecision, OrderStatus
from order_fulfillment.support.connection import NotFoundError, NoWorkerError
from tests.history import EXPIRED_CARD, ORDER, create_worker, details, until


async def test_an_order_is_started_decided_about_and_waited_for(dev_server: Client) -> None:
    task_queue = order_id = f"order-{uuid4()}"
    news: list[str] = []
    async with create_worker(dev_server, task_queue):
        order = await orders.start(dev_server, order_id, ORDER, task_queue)
        waiting = asyncio.create_task(orders.result(order, report=news.append))

        async def asked() -> bool:
            return "status: AWAITING_APPROVAL" in news

        await until(asked, "the order to ask for approval")
        assert await orders.approval_message(order) is None

        await orders.decide(order, ApprovalDecision(approved=True, note="Good"))

        result = await waiting
        assert (result.order_id, result.status) == (order_id, OrderStatus.FULFILLED)
        assert news[-1] == "status: FULFILLED"
        found = await orders.find(dev_server, order_id)
        assert await orders.status(found) == "FULFILLED"
        assert await orders.approval_message(found) == "approved: Good"
        assert await orders.result(found) == result
        [started] = await details(order, "WORKFLOW_EXECUTION_STARTED")
        assert started.workflow_task_timeout.seconds == 5  # By default ten.


async def test_every_error_has_a_type_of_its_own(
    dev_server: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "QUERY_SECONDS", 1)
    task_queue = order_id = f"order-{uuid4()}"
    approved, rejected = ApprovalDecision(approved=True), ApprovalDecision(approved=False)
    order = await orders.start(dev_server, order_id, ORDER, task_queue)

    with pytest.raises(ValueError, match="number of items: 0 is less than 1"):
        await orders.start(dev_server, "order-empty", replace(ORDER, items=[]), task_queue)
    with pytest.raises(orders.OrderExistsError):
        await orders.start(dev_server, order_id, ORDER, task_queue)
    with pytest.raises(NotFoundError):
        await orders.find(dev_server, "order-unknown")
    with pytest.raises(NoWorkerError, match="no worker answers"):
        await orders.decide(order, rejected)
    async with create_worker(dev_server, task_queue):
        await orders.result(order)
        with pytest.raises(orders.DecisionIgnoredError, match="REJECTED"):
            await orders.decide(order, approved)
        unpaid = replace(ORDER, card=EXPIRED_CARD)
        failing = await orders.start(dev_server, f"{order_id}-2", unpaid, task_queue)
        with pytest.raises(orders.OrderFailedError, match="PaymentValidationError"):
            await orders.result(failing)
    # The server knows how an order ended, also when no worker runs.
    assert await orders.status(order) == "REJECTED"
    assert await orders.status(failing) == "FAILED"


def test_an_article_that_is_named_twice_is_wanted_twice() -> None:
    twice = replace(ORDER, items=[*ORDER.items, *ORDER.items])

    assert twice.quantities == {"temporal-tshirt": 2, "temporal-mug": 4}
    assert twice.total_cents == 2 * ORDER.total_cents
