"""Inputs that only other programs send: every order can end, whatever it was started with."""

import re
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
)
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from order_fulfillment.shared import (
    MAX_CENTS,
    MAX_TEXT_BYTES,
    ApprovalDecision,
    Card,
    OrderItem,
    OrderStatus,
)
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop
from tests.history import ORDER, create_worker, place, replay, until_event, until_status

VALID: dict[str, Any] = asdict(ORDER)
MUG: dict[str, Any] = VALID["items"][1]
LONG = "é" * (MAX_TEXT_BYTES // 2 + 1)


@pytest.fixture(scope="module")
async def task_queue(dev_server: Client) -> AsyncIterator[str]:
    """A task queue that a worker in this process serves."""
    queue = f"input-{uuid4().hex[:8]}"
    async with create_worker(dev_server, queue):
        yield queue


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "it takes one input, and not 0"),
        ([VALID, VALID], "it takes one input, and not 2"),
        ([None], "None is not of type Order"),
        (["Ada"], "Ada|str"),
        ([b"\x00"], "is not of type Order"),
        ([{}], "missing 3 required positional arguments"),
        ([VALID | {"approval_timeout": "30s"}], "approval_timeout.*float"),
        ([VALID | {"approval_timeout": float("nan")}], "the approval timeout is nan"),
        ([VALID | {"approval_timeout": float("inf")}], "the approval timeout is inf"),
        ([VALID | {"approval_timeout": -1}], "the approval timeout is -1"),
        ([VALID | {"items": []}], "the number of items is 0"),
        ([VALID | {"items": [MUG] * 101}], "the number of items is 101"),
        ([VALID | {"items": [MUG | {"quantity": -1}]}], "the quantity is -1"),
        ([VALID | {"items": [MUG | {"unit_price_cents": 10**400}]}], "the price is 1000"),
        ([VALID | {"items": [MUG | {"sku": "x" * 101}]}], "the SKU is 101 bytes long"),
        ([VALID | {"card": {"token": "\ud800", "expiry": "12/99"}}], "surrogates not allowed"),
        ([VALID | {"customer_name": LONG}], "the customer name is 64002 bytes long"),
        ([VALID | {"currency": "x" * 101}], "the currency is 101 bytes long"),
        ([VALID | {"approval_above_cents": MAX_CENTS + 1}], "the approval limit is"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_input_that_is_no_order_fails_at_once(
    dev_server: Client, task_queue: str, arguments: list[Any], reason: str
) -> None:
    order = await dev_server.start_workflow(
        "OrderWorkflow", args=arguments, id=f"order-{uuid4()}", task_queue=task_queue
    )

    with pytest.raises(WorkflowFailureError) as failed:
        await order.result()

    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "InvalidInputError"
    assert re.search(reason, failed.value.cause.message)
    assert len(failed.value.cause.message) < 1000
    await replay(await order.fetch_history())


async def test_an_input_in_an_unknown_encoding_waits_for_a_worker_that_knows_it(
    dev_server: Client, task_queue: str
) -> None:
    encrypted = Payload(metadata={"encoding": b"binary/encrypted"}, data=b"?")
    order_id = f"order-{uuid4()}"
    await dev_server.start_workflow(
        "OrderWorkflow", RawValue(encrypted), id=order_id, task_queue=task_queue
    )
    order = dev_server.get_workflow_handle_for(OrderWorkflow.run, order_id)

    await until_event(order, "WORKFLOW_TASK_FAILED")

    assert (await order.describe()).status == WorkflowExecutionStatus.RUNNING
    await order.terminate()


def test_the_waiting_script_says_what_is_wrong_with_the_input(open_shop: Shop) -> None:
    order_id = f"order-{uuid4()}"
    started = open_shop.temporal(
        "workflow",
        "start",
        "--type=OrderWorkflow",
        f"--task-queue={open_shop.environment['TEMPORAL_TASK_QUEUE']}",
        f"--workflow-id={order_id}",
        "--input={}",
    )
    assert started.returncode == 0, started.stderr

    failed = open_shop.run("signals.py", "result", order_id)

    assert (failed.returncode, failed.stdout) == (1, "")
    assert f"order '{order_id}' failed: InvalidInputError: " in failed.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "decision",
    [
        {"approved": True, "note": LONG},
        {"approved": True, "by": LONG},
        {"approved": True, "note": "x" * 1_900_000},
        {"approved": True, "note": "\ud800"},
    ],
    ids=["note", "name", "a note of almost 2 MB", "surrogate"],
)
async def test_an_oversized_decision_is_no_decision(
    dev_server: Client, task_queue: str, decision: dict[str, Any]
) -> None:
    order = await place(dev_server, task_queue)
    await until_status(order, OrderStatus.AWAITING_APPROVAL)

    await order.signal("approve_order", decision)
    await order.signal(OrderWorkflow.approve_order, ApprovalDecision(False, "Too long"))
    result = await order.result()

    assert (result.status, result.message) == (OrderStatus.REJECTED, "rejected: Too long")
    await replay(await order.fetch_history())


async def test_decisions_of_any_length_cost_a_short_log_line_each(
    open_shop: Shop, dev_server: Client
) -> None:
    largest = "é" * (MAX_TEXT_BYTES // 2)
    order = await place(dev_server, open_shop.task_queue)
    await order.signal("approve_order", {"approved": True, "note": LONG})
    await order.signal(OrderWorkflow.approve_order, ApprovalDecision(True, largest, largest))
    await order.signal(OrderWorkflow.approve_order, ApprovalDecision(False, largest))

    result = await order.result()

    assert result.status == OrderStatus.FULFILLED
    assert (result.message, result.decided_by) == (f"approved: {largest}", largest)
    lines = [line for line in open_shop.log.splitlines() if order.id in line]
    [too_long] = [line for line in lines if "Ignored an unreadable" in line]
    assert too_long.endswith("the note is 64002 bytes long, at most 64000 are allowed")
    assert len([line for line in lines if "the first decision stands" in line]) == 1
    assert max(map(len, lines)) < 400
    await replay(await order.fetch_history())


async def test_the_largest_order_is_fulfilled(dev_server: Client, task_queue: str) -> None:
    largest = replace(
        ORDER,
        customer_name="\x1b" * MAX_TEXT_BYTES,
        items=[OrderItem("temporal-mug", 1, MAX_CENTS)] * 100,
        card=Card("é" * 50, "12/99"),
    )
    order = await dev_server.start_workflow(
        OrderWorkflow.run, largest, id=f"order-{uuid4()}", task_queue=task_queue
    )
    await order.signal(
        OrderWorkflow.approve_order,
        ApprovalDecision(True, "\x1b" * MAX_TEXT_BYTES, "\x1b" * MAX_TEXT_BYTES),
    )

    result = await order.result()

    assert (result.status, result.total_cents) == (OrderStatus.FULFILLED, 100 * MAX_CENTS)
    await replay(await order.fetch_history())
