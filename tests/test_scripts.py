"""The real scripts, as a user runs them, on a real server."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from uuid import uuid4

import pytest
from temporalio.client import Client

from order_fulfillment.shared import OrderStatus
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop, one_line
from tests.history import APPROVED, place, until_status
from tests.page import type_command
from tests.script import wait_until


def test_the_starter_prints_the_order_id_and_a_hint_for_people(open_shop: Shop) -> None:
    started = open_shop.run("starter.py", "Ada Lovelace")
    terminal = ("-c", "import pty, sys; pty.spawn(sys.argv[1:])", sys.executable)
    seen = subprocess.run(
        [sys.executable, *terminal, open_shop.scripts / "starter.py"],
        env=open_shop.environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert (started.returncode, started.stderr) == (0, "")
    assert re.fullmatch(r"order-[0-9a-f]{8}\n", started.stdout)
    order_id, hint = seen.stdout.splitlines()
    assert hint.endswith(f"signals.py status {order_id}")


async def test_an_id_that_was_used_before_is_refused(open_shop: Shop, dev_server: Client) -> None:
    order = await place(dev_server, open_shop.task_queue, approval_timeout=0.1)
    await order.result()  # Temporal's default would be to use the ID again.

    refused = open_shop.run("starter.py", "--workflow-id", order.id)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert "exists already; choose another ID" in one_line(refused.stderr)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("starter.py --card-expiry 13/27", "card.expiry: '13/27' is not of the form MM/YY"),
        ("starter.py --approval-timeout 0.09", "approval_timeout: 0.09 is not from 0.1 to"),
        ("starter.py --approval-timeout soon", "invalid float value: 'soon'"),
        ("starter.py --approval-above inf", "cannot convert float infinity"),
        ("starter.py --inventory-recovers-after 4", "invalid choice: 4"),
        ("starter.py Ada Lovelace", "unrecognized arguments: Lovelace"),
        (
            "starter.py --file - --workflow-id x",
            "argument --workflow-id: not allowed with argument --file",
        ),
        ("signals.py", "required: VERB"),
        ("signals.py apporve order-1", "invalid choice: 'apporve'"),
        ("signals.py approve", "required: ID"),
        ("signals.py status order-1 --note x", "unrecognized arguments: --note x"),
        ("worker.py --pid-file", "expected one argument"),
        ("worker.py --build-id=", "--build-id is empty"),
        ("demo.py --scenario happy", "invalid choice: 'happy'"),
    ],
    ids=lambda value: value[:40],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line(
    shop: Shop, arguments: str, reason: str
) -> None:
    script, *others = arguments.split()

    refused = shop.run(script, *others)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert reason in one_line(refused.stderr)
    assert f"; see {script}" in refused.stderr


async def test_orders_that_end_without_a_result_have_the_servers_word(
    open_shop: Shop, dev_server: Client
) -> None:
    canceled, terminated = [
        await place(dev_server, open_shop.task_queue, listed=True) for _ in range(2)
    ]
    waiting = open_shop.start("signals.py", "result", canceled.id, terminated.id)
    waiting.until_prints("waits for a decision")
    await canceled.cancel()
    await terminated.terminate(reason="out of stock")
    await asyncio.to_thread(waiting.wait)

    status = open_shop.run("signals.py", "status", canceled.id, terminated.id)

    assert (waiting.returncode, waiting.stdout) == (1, "")
    assert re.search(f"error: {canceled.id}: .* was canceled before", waiting.stderr)
    assert re.search(f"error: {terminated.id}: .* was closed .*: out of stock", waiting.stderr)
    assert status.returncode == 0
    assert set(status.stdout.splitlines()) == {
        f"{canceled.id}\tCANCELED",
        f"{terminated.id}\tTERMINATED",
    }


async def test_what_is_no_open_order_is_not_decided_about(
    open_shop: Shop, dev_server: Client
) -> None:
    expired = await place(dev_server, open_shop.task_queue, approval_timeout=0.1)
    await expired.result()
    stranger = await dev_server.start_workflow(
        "StrangeWorkflow", id=f"strange-{uuid4()}", task_queue="strange"
    )
    ids = [stranger.id, "order-unknown", ""]

    refused = open_shop.run("signals.py", "reject", *ids, expired.id)
    unknown = open_shop.run("signals.py", "status", *ids)
    await stranger.terminate()

    assert (refused.returncode, refused.stdout) == (1, "")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    for run in refused, unknown:
        assert f"workflow '{stranger.id}' is not an order" in run.stderr
        assert "there is no order 'order-unknown'" in run.stderr
        assert "error: : the Temporal server refuses: WorkflowId is not set" in run.stderr
    assert f"order '{expired.id}' is closed already (EXPIRED)" in refused.stderr
    assert (refused.stderr.count("\n"), unknown.stderr.count("\n")) == (4, 3)


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
        others = [shop.run(*good, "--by", "bob"), shop.run("signals.py", "reject", order_id)]

    for run in first, same:
        assert (run.returncode, run.stdout) == (0, "approved: Good\n")
    assert shop.log.count("the first decision stands") == 3
    for other in others:
        assert (other.returncode, other.stdout) == (1, "")
        assert f"order '{order_id}' is approved: Good (by ada)" in one_line(other.stderr)


@pytest.mark.parametrize("arguments", [["starter.py", "--wait-result"], ["signals.py", "result"]])
async def test_interrupted_waiting_leaves_the_order_alone(
    open_shop: Shop, dev_server: Client, arguments: list[str]
) -> None:
    if arguments[0] == "starter.py":
        waiting = open_shop.start(*arguments)
        order_id = wait_until(lambda: waiting.stdout, "its ID").strip()
    else:
        order_id = (await place(dev_server, open_shop.task_queue, listed=True)).id
        waiting = open_shop.start(*arguments, order_id)
        waiting.until_prints("waits for a decision")

    waiting.send(signal.SIGINT)

    assert waiting.wait(10) == 130
    last = waiting.stderr.splitlines()[-1]
    assert "interrupted: " in last
    assert re.search("go(es)? on", last)
    assert order_id in last
    order = dev_server.get_workflow_handle_for(OrderWorkflow.run, order_id)
    await until_status(order, OrderStatus.AWAITING_APPROVAL)


async def test_a_waiting_script_follows_a_reset(open_shop: Shop, dev_server: Client) -> None:
    order = await place(dev_server, open_shop.task_queue, listed=True)
    waiting = open_shop.start("signals.py", "result", order.id)
    waiting.until_prints("waits for a decision")

    type_command(open_shop, "reset --workflow-id", order_id=order.id)
    again = dev_server.get_workflow_handle_for(OrderWorkflow.run, order.id)
    await again.signal(OrderWorkflow.approve_order, APPROVED)

    assert await asyncio.to_thread(waiting.wait) == 0
    assert json.loads(waiting.stdout)["status"] == "FULFILLED"


async def test_an_order_that_is_retried_for_ever_says_why(shop: Shop) -> None:
    # The server cuts a failure of more than 4 kB, such as one with the traceback of an HTTP client.
    error = "raise KeyError('rate') from ValueError(5000 * 'x')"
    place = "            if amount_cents < 1:"
    broken = shop.with_change("services.py", place, f"            {error}\n{place}")
    with broken.worker():
        waiting = shop.start("starter.py", "--wait-result")
        waiting.until_prints("\nprocess_payment, attempt 1 failed: KeyError: 'rate'\n")
        order_id = waiting.stdout.strip()
        status = shop.run("signals.py", "status", order_id)
        wait_until(lambda: order_id in type_command(shop, "OrderStatus IN"), "it to be listed")
        waiting.kill()

    assert status.stdout == "PROCESSING_PAYMENT\n"
    assert re.fullmatch(r"process_payment, attempt \d+ failed: KeyError: 'rate'\n", status.stderr)


def test_the_interpreter_never_shuts_down(shop: Shop) -> None:
    # While it does, the SDK sometimes crashes; functions registered with atexit run then.
    (shop.folder / "sitecustomize.py").write_text("import atexit; atexit.register(print, 'down')")
    observed = shop.with_environment(PYTHONPATH=str(shop.folder))

    assert observed.pipe("signals.py status order-unknown").stdout == ""
    assert observed.pipe("signals.py").stdout == "down\n"  # Without the SDK nothing is to avoid.
