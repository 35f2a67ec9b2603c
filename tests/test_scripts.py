"""The real scripts, as a user runs them, on a real server."""

import asyncio
import json
import re
import signal
import sys
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from uuid import uuid4

import pytest
from temporalio.client import Client

from order_fulfillment import orders
from order_fulfillment.shared import CATALOGUE, ApprovalDecision, OrderStatus
from order_fulfillment.support import command_line as cli
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop, one_line
from tests.history import ORDER, OUTAGE, place, until, until_event, until_status
from tests.script import wait_until


def test_the_starter_prints_the_order_id_and_nothing_else(open_shop: Shop) -> None:
    started = open_shop.run("starter.py", "Ada Lovelace")

    assert started.returncode == 0
    assert re.fullmatch(r"order-[0-9a-f]{8,}\n", started.stdout)
    assert f"signals.py approve {started.stdout.strip()}" in started.stderr


def test_an_order_has_the_items_and_the_total_that_were_asked_for(open_shop: Shop) -> None:
    catalogue = open_shop.run("starter.py", "--help").stdout
    ordered = open_shop.run(
        *("starter.py", "--approval-timeout", "0.1", "--wait-result"),
        *("--item", "temporal-mug=3", "--item", "temporal-socks"),
    )

    # In a narrow terminal, argparse breaks lines at hyphens.
    assert all(sku in re.sub(r"\n", "", catalogue) for sku in CATALOGUE)
    result = json.loads(ordered.stdout.splitlines()[1])
    assert result["total_cents"] == 3 * 12_00 + 8_00


@pytest.mark.parametrize("open_order", [True, False])
async def test_an_id_that_was_used_before_is_refused(
    open_shop: Shop, dev_server: Client, open_order: bool
) -> None:
    order = await place(
        dev_server, open_shop.task_queue, approval_timeout=20 if open_order else 0.1
    )
    if not open_order:
        await order.result()

    refused = open_shop.run("starter.py", "--workflow-id", order.id)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert "exists already; choose another ID" in one_line(refused.stderr)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["starter.py", "--card-expiry", "13/27"], "card.expiry: '13/27' is not of the form MM/YY"),
        (["starter.py", "--approval-timeout", "0.09"], "approval_timeout: 0.09 is not from 0.1 to"),
        (["starter.py", "--approval-timeout", "nan"], "approval_timeout: nan is not from 0.1 to"),
        (["starter.py", "--approval-timeout", "soon"], "invalid float value: 'soon'"),
        (["starter.py", "--inventory-recovers-after", "4"], "invalid choice: 4"),
        (["starter.py", "Ada", "Lovelace"], "unrecognized arguments: Lovelace"),
        (["starter.py", "--item", "temporal-mugs"], "temporal-cap, temporal-hoodie, temporal-mug,"),
        (["starter.py", "--item", "temporal-mug=0"], "items.0.quantity: 0 is not from 1 to 1000"),
        (["starter.py", "--item", "temporal-mug=1001"], "items.0.quantity: 1001 is not from 1"),
        (["starter.py", "--item", "temporal-mug=1.5"], "invalid item value"),
        (["starter.py", "--approval-above", "-1"], "approval_above_cents: -100 is not from 0"),
        (["starter.py", "--approval-above", "inf"], "cannot convert float infinity"),
        (["signals.py"], "required: VERB"),
        (["signals.py", "apporve", "order-1"], "invalid choice: 'apporve'"),
        (["signals.py", "approve"], "required: ID"),
        (
            ["signals.py", "approve", "order-1", "--by", "x" * 10_001],
            "argument --by: longer than 10000",
        ),
        (["signals.py", "status", "order-1", "--note", "x"], "unrecognized arguments: --note x"),
        (["signals.py", "pending", "order-1"], "unrecognized arguments: order-1"),
        (["worker.py", "--pid-file"], "expected one argument"),
        (["worker.py", "--build-id", ""], "--build-id is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_are_refused_before_any_connection(
    arguments: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = import_module(f"order_fulfillment.{arguments[0].removesuffix('.py')}")
    monkeypatch.setattr(sys, "argv", arguments)
    accepted = lambda *_, **__: pytest.fail("they are accepted")
    monkeypatch.setattr(cli, "run", accepted)

    with pytest.raises(SystemExit) as refused:
        script.main()

    assert refused.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert reason in one_line(printed.err)


@pytest.mark.parametrize("script", ["starter.py", "signals.py", "worker.py", "demo.py"])
def test_a_mistake_on_the_command_line_ends_a_script_with_exit_code_2(
    shop: Shop, script: str
) -> None:
    refused = shop.run(script, "--no-such-option")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"; see {script} --help" in one_line(refused.stderr)


async def test_orders_that_end_without_a_result_have_the_servers_word(
    open_shop: Shop, dev_server: Client
) -> None:
    canceled, terminated = [await place(dev_server, open_shop.task_queue) for _ in range(2)]
    timed_out = await dev_server.start_workflow(
        OrderWorkflow.run,
        ORDER,
        id=f"order-{uuid4()}",
        task_queue=open_shop.task_queue,
        execution_timeout=timedelta(seconds=4),
    )
    ids = [canceled.id, terminated.id, timed_out.id]
    waiting = open_shop.start("signals.py", "result", *ids)
    waiting.until_prints("status: ")
    await canceled.cancel()
    await terminated.terminate(reason="out of stock")
    await asyncio.to_thread(waiting.wait)

    status = open_shop.run("signals.py", "status", *ids)

    assert (waiting.returncode, waiting.stdout) == (1, "")
    ends = (
        "was canceled before",
        "was closed by the server: out of stock",
        "was closed by the server",
    )
    for order_id, end in zip(ids, ends, strict=True):
        assert re.search(f"^error: {order_id}: .* {end}", waiting.stderr, re.MULTILINE), (
            waiting.stderr
        )
    assert (status.returncode, sorted(status.stdout.splitlines())) == (
        0,
        sorted(map("\t".join, zip(ids, ("CANCELED", "TERMINATED", "TIMED_OUT"), strict=True))),
    )


async def test_what_is_no_open_order_is_not_decided_about(
    open_shop: Shop, dev_server: Client
) -> None:
    expired = await place(dev_server, open_shop.task_queue, approval_timeout=0.1)
    await expired.result()
    terminated = await place(dev_server, open_shop.task_queue)
    await terminated.terminate()
    stranger = await dev_server.start_workflow(
        "StrangeWorkflow", id=f"strange-{uuid4()}", task_queue="strange"
    )

    refused = open_shop.run(
        *("signals.py", "reject", expired.id, terminated.id, stranger.id, "order-unknown", "")
    )
    unknown = open_shop.run("signals.py", "status", stranger.id, "order-unknown", "")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    no_orders = [f"workflow '{stranger.id}' is not an order", "there is no order 'order-unknown'"]
    no_orders.append("error: : the Temporal server refuses: WorkflowId is not set")
    closed = [
        f"order '{expired.id}' is closed already (EXPIRED)",
        f"order '{terminated.id}' is closed already (TERMINATED)",
    ]
    for stderr, errors in ((refused.stderr, no_orders + closed), (unknown.stderr, no_orders)):
        assert stderr.count("\n") == len(errors)
        assert all(error in stderr for error in errors), stderr
    history = await stranger.fetch_history()
    assert not any(
        event.HasField("workflow_execution_signaled_event_attributes") for event in history.events
    )
    await stranger.terminate()


async def test_another_decision_than_the_one_that_stands_is_an_error(
    shop: Shop, dev_server: Client
) -> None:
    order_id = (await place(dev_server, shop.task_queue)).id
    # An activity that no worker has keeps the order open after its decision.
    with shop.with_change(
        "workflow.py",
        "            OrderActivities.process_payment,\n",
        '            "payment_of_tomorrow",\n',
    ).worker():
        good = ("signals.py", "approve", order_id, "--note", "Good", "--by", "ada")
        first, same = shop.run(*good), shop.run(*good)
        others = [
            shop.run("signals.py", verb, order_id, "--note", note, "--by", who)
            for verb, note, who in (
                ("approve", "Very good", "ada"),
                ("approve", "Good", "bob"),
                ("reject", "Good", "ada"),
            )
        ]

    assert (first.returncode, first.stdout) == (0, "approved: Good\n")
    assert (same.returncode, same.stdout) == (0, "approved: Good\n")
    for other in others:
        assert (other.returncode, other.stdout) == (1, "")
        assert f"order '{order_id}' is approved: Good (by ada)" in one_line(other.stderr)


async def test_an_approval_that_meets_a_cancel_request_is_told_what_became_of_the_order(
    shop: Shop, dev_server: Client
) -> None:
    order = await place(dev_server, shop.task_queue)
    await order.cancel()
    approving = shop.start("signals.py", "approve", order.id)
    await until_event(order, "WORKFLOW_EXECUTION_SIGNALED")

    with shop.worker():
        assert await asyncio.to_thread(approving.wait) == 1

    assert approving.stdout == ""
    assert f"order '{order.id}' is CANCELED" in one_line(approving.stderr)


@pytest.mark.parametrize("arguments", [["starter.py", "--wait-result"], ["signals.py", "result"]])
async def test_interrupted_waiting_leaves_the_order_alone(
    open_shop: Shop, dev_server: Client, arguments: list[str]
) -> None:
    if arguments[0] == "starter.py":
        waiting = open_shop.start(*arguments)
        order_id = wait_until(lambda: waiting.stdout, "its ID").strip()
    else:
        order_id = (await place(dev_server, open_shop.task_queue)).id
        waiting = open_shop.start(*arguments, order_id)
        waiting.until_prints("status: ")

    waiting.send(signal.SIGINT)

    assert waiting.wait(10) == 130
    last = waiting.stderr.splitlines()[-1]
    assert "interrupted: " in last
    assert re.search("go(es)? on", last)
    assert order_id in last
    order = dev_server.get_workflow_handle_for(OrderWorkflow.run, order_id)
    await until_status(order, OrderStatus.AWAITING_APPROVAL)


async def test_a_waiting_script_follows_a_reset(open_shop: Shop, dev_server: Client) -> None:
    order = await place(dev_server, open_shop.task_queue)
    await until_status(order, OrderStatus.AWAITING_APPROVAL)
    waiting = open_shop.start("signals.py", "result", order.id)
    waiting.until_prints("AWAITING_APPROVAL")

    reset = open_shop.temporal(
        *("workflow", "reset", "--workflow-id", order.id, "--event-id", "4", "--reason", "test")
    )
    again = dev_server.get_workflow_handle_for(OrderWorkflow.run, order.id)
    await again.signal(OrderWorkflow.approve_order, ApprovalDecision(approved=True))

    assert await asyncio.to_thread(waiting.wait) == 0
    assert reset.returncode == 0, reset.stderr
    assert json.loads(waiting.stdout)["status"] == "FULFILLED"


async def test_an_order_that_is_retried_for_ever_says_why(shop: Shop) -> None:
    broken = shop.with_change(
        "services.py",
        "            if amount_cents < 1:",
        "            raise KeyError('rate')\n            if amount_cents < 1:",
    )
    error = "process_payment, attempt 1 failed: KeyError: 'rate'"
    with broken.worker():
        waiting = shop.start("starter.py", "--wait-result")
        order_id = wait_until(lambda: waiting.stdout, "its ID").strip()
        waiting.until_prints(f"\n{error}\n")
        status = shop.run("signals.py", "status", order_id)
        canceled = shop.temporal("workflow", "cancel", "--workflow-id", order_id)
        assert waiting.wait() == 1
        after = shop.run("signals.py", "status", order_id)

    assert status.stdout == "PROCESSING_PAYMENT\n"
    assert re.fullmatch(r"process_payment, attempt \d+ failed: KeyError: 'rate'\n", status.stderr)
    assert canceled.returncode == 0
    assert after.stdout == "CANCELED\n"


async def test_a_long_pause_before_a_retry_is_not_taken_for_a_missing_worker(
    shop: Shop, dev_server: Client
) -> None:
    order = await place(dev_server, shop.task_queue, simulation=OUTAGE)
    patient = shop.with_change(
        "activities.py",
        'type="InventoryUnavailableError",',
        'type="InventoryUnavailableError", next_retry_delay=timedelta(minutes=1),',
    )

    async def backs_off() -> bool:
        return any(True for _ in orders.failed_attempts(await order.describe()))

    with patient.worker():
        await until(backs_off, "an attempt to fail")
        assert not orders.waits_for_worker(await order.describe())
        status = shop.run("signals.py", "status", order.id)
        paused = shop.temporal(
            *("activity", "pause", "--workflow-id", order.id, "--activity-id", "2"),
        )
        assert paused.returncode == 0, paused.stderr
        after = shop.run("signals.py", "status", order.id)
        assert not orders.waits_for_worker(await order.describe())
    await order.terminate()

    assert re.search(r"down; the next attempt is due at \d\d:\d\d:\d\d UTC\n", status.stderr)
    assert "reserve_inventory is paused; go on with: temporal activity unpause" in after.stderr


def test_the_interpreter_never_shuts_down(open_shop: Shop) -> None:
    # While it does, the SDK sometimes crashes; functions registered with atexit run then.
    site = open_shop.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import atexit; atexit.register(print, 'shut down')")
    observed = replace(open_shop, environment=open_shop.environment | {"PYTHONPATH": str(site)})

    unknown = observed.pipe("signals.py status order-unknown")
    refused = observed.pipe("signals.py")

    assert unknown.stdout == ""
    assert refused.stdout == "shut down\n"  # Without the SDK there is nothing to avoid.
