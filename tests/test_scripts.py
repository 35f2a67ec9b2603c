"""The real scripts, as a user runs them, on a real server."""

import asyncio
import json
import re
import signal
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from order_fulfillment.shared import ApprovalDecision, Order
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop, wait_until


def one_line(stderr: str) -> str:
    """The only line of stderr."""
    [line] = stderr.splitlines()
    return line


def test_the_starter_prints_the_order_id_and_nothing_else(open_shop: Shop) -> None:
    started = open_shop.run("starter.py", "Ada Lovelace")

    assert started.returncode == 0
    assert re.fullmatch(r"order-[0-9a-f]{8,}\n", started.stdout)
    assert f"signals.py approve {started.stdout.strip()}" in started.stderr


def test_an_order_is_followed_approved_and_fulfilled(open_shop: Shop) -> None:
    order_id = open_shop.start_order("Ada Lovelace")
    open_shop.wait_for_status(order_id, "AWAITING_APPROVAL")
    pending = open_shop.run("signals.py", "approval-message", order_id)

    approved = open_shop.run("signals.py", "approve", order_id, "--note", "Cleared by fraud team")

    result = open_shop.run("signals.py", "result", order_id)
    status = open_shop.run("signals.py", "status", order_id)
    message = open_shop.run("signals.py", "approval-message", order_id)
    assert (pending.returncode, pending.stdout) == (0, "None\n")
    assert (approved.returncode, approved.stdout) == (0, "approved: Cleared by fraud team\n")
    assert (approved.stderr, result.returncode) == ("", 0)
    assert (
        json.loads(one_line(result.stdout)).items()
        >= {
            "order_id": order_id,
            "status": "FULFILLED",
            "message": "approved: Cleared by fraud team",
        }.items()
    )
    assert (status.returncode, status.stdout) == (0, "FULFILLED\n")
    assert message.stdout == "approved: Cleared by fraud team\n"


def test_an_order_nobody_approves_expires_while_the_starter_waits(open_shop: Shop) -> None:
    waited = open_shop.run("starter.py", "Slow", "--approval-timeout", "0.5", "--wait-result")

    order_id, result = waited.stdout.splitlines()
    changes = waited.stderr.splitlines()
    assert waited.returncode == 0
    assert json.loads(result).items() >= {"order_id": order_id, "status": "EXPIRED"}.items()
    assert changes[-2:] == ["status: AWAITING_APPROVAL", "status: EXPIRED"]
    assert len(set(changes)) == len(changes)


def test_a_lasting_outage_fails_the_order_within_the_promised_time(open_shop: Shop) -> None:
    began = time.monotonic()
    failed = open_shop.run("starter.py", "--simulate-inventory-downtime", "--wait-result")

    assert failed.returncode == 1
    *news, error = failed.stderr.splitlines()
    assert "reserve_inventory: InventoryUnavailableError: the inventory service is down" in error
    for attempt in (1, 2, 3):
        assert (
            f"reserve_inventory, attempt {attempt} failed: "
            "InventoryUnavailableError: the inventory service is down"
        ) in news
    assert time.monotonic() - began < 8


def test_an_outage_that_heals_is_only_seen_in_the_log(shop: Shop) -> None:
    with shop.worker() as worker:
        waited = shop.run(
            "starter.py", "--inventory-recovers-after=1", "--approval-timeout=0.1", "--wait-result"
        )

        assert (waited.returncode, json.loads(waited.stdout.splitlines()[1])["status"]) == (
            0,
            "EXPIRED",
        )
        order_id = waited.stdout.splitlines()[0]
        assert worker.log.count(f"{order_id}: reserve_inventory failed: Inventory") == 1
        assert worker.log.count(f"{order_id}: Reserving inventory") == 2
        assert "Traceback" not in worker.log


def test_the_default_card_is_valid_for_months(open_shop: Shop) -> None:
    shown = open_shop.run("starter.py", "--help").stdout

    default = re.search(r"default:\s+(\d\d/\d\d)\)", shown)
    assert default
    expiry = datetime.strptime(default[1], "%m/%y").replace(tzinfo=UTC)
    assert expiry > datetime.now(UTC) + timedelta(days=90)


@pytest.mark.parametrize("open_order", [True, False])
def test_an_id_that_was_used_before_is_refused(open_shop: Shop, open_order: bool) -> None:
    order_id = open_shop.start_order("--approval-timeout", "20" if open_order else "0.1")
    if not open_order:
        open_shop.wait_for_status(order_id, "EXPIRED")

    refused = open_shop.run("starter.py", "--workflow-id", order_id)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert "exists already; choose another --workflow-id" in one_line(refused.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ["starter.py", "--card-expiry", "13/27"],
        ["starter.py", "--card-expiry", "12/2027"],
        ["starter.py", "--approval-timeout", "0.09"],
        ["starter.py", "--approval-timeout", "2592001"],
        ["starter.py", "--approval-timeout", "nan"],
        ["starter.py", "--approval-timeout", "soon"],
        ["starter.py", "--approval-timeout", "-5"],
        ["starter.py", "--inventory-recovers-after", "0"],
        ["starter.py", "--inventory-recovers-after", "4"],
        ["starter.py", "--inventory-recovers-after", "1", "--simulate-inventory-downtime"],
        ["starter.py", "--workflow-id", ""],
        ["starter.py", "--workflow-id", "x" * 256],
        ["starter.py", "--workflow-id=-x"],
        ["starter.py", "--workflow-id", "order\n1"],
        ["starter.py", "x" * 64_001],
        ["starter.py", "Ada", "Lovelace"],
        ["signals.py"],
        ["signals.py", "apporve", "order-1"],
        ["signals.py", "approve"],
        ["signals.py", "approve", ""],
        ["signals.py", "approve", "--", "-x"],
        ["signals.py", "approve", "order-1", "--note", "x" * 64_001],
        ["signals.py", "status", "order-1", "--note", "x"],
        ["worker.py", "--pid-file"],
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)
def test_bad_arguments_are_refused_before_any_connection(shop: Shop, arguments: list[str]) -> None:
    shop.environment["TEMPORAL_ADDRESS"] = "localhost:1"

    refused = shop.run(*arguments)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert arguments[0] in one_line(refused.stderr)


@pytest.mark.parametrize("verb", ["approve", "reject", "status", "approval-message", "result"])
def test_an_unknown_order_is_said_to_be_unknown(open_shop: Shop, verb: str) -> None:
    unknown = open_shop.run("signals.py", verb, "order-unknown")

    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "there is no order 'order-unknown'" in one_line(unknown.stderr)


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_a_decision_on_a_closed_order_is_refused(open_shop: Shop, verb: str) -> None:
    order_id = open_shop.start_order("--approval-timeout", "0.1")
    open_shop.wait_for_status(order_id, "EXPIRED")

    refused = open_shop.run("signals.py", verb, order_id)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"order '{order_id}' is closed already (EXPIRED)" in one_line(refused.stderr)


async def test_a_terminated_order_has_the_servers_word(open_shop: Shop, dev_server: Client) -> None:
    order_id = open_shop.start_order()
    open_shop.wait_for_status(order_id, "AWAITING_APPROVAL")
    waiting = open_shop.start("signals.py", "result", order_id)
    await dev_server.get_workflow_handle(order_id).terminate(reason="out of stock")

    status = open_shop.run("signals.py", "status", order_id)
    approved = open_shop.run("signals.py", "approve", order_id)
    stdout, stderr = waiting.communicate(timeout=30)

    assert (status.returncode, status.stdout) == (0, "TERMINATED\n")
    assert approved.returncode == 1
    assert "is closed already (TERMINATED)" in one_line(approved.stderr)
    assert (waiting.returncode, stdout) == (1, "")
    assert "was terminated: out of stock" in stderr.splitlines()[-1]


async def test_a_timed_out_order_has_the_servers_word(open_shop: Shop, dev_server: Client) -> None:
    order = await dev_server.start_workflow(
        OrderWorkflow.run,
        Order("Ada", "tok", "12/99"),
        id=f"order-{uuid4()}",
        task_queue=open_shop.environment["TEMPORAL_TASK_QUEUE"],
        execution_timeout=timedelta(seconds=1),
    )

    waited = await asyncio.to_thread(open_shop.run, "signals.py", "result", order.id)

    status = open_shop.run("signals.py", "status", order.id)
    assert (status.returncode, status.stdout) == (0, "TIMED_OUT\n")
    assert waited.returncode == 1
    assert "was timed out by the server" in waited.stderr.splitlines()[-1]


async def test_a_canceled_order_is_an_error_for_who_waits(
    open_shop: Shop, dev_server: Client
) -> None:
    order_id = open_shop.start_order()
    open_shop.wait_for_status(order_id, "AWAITING_APPROVAL")
    await dev_server.get_workflow_handle(order_id).cancel()

    waited = open_shop.run("signals.py", "result", order_id)

    assert (waited.returncode, waited.stdout) == (1, "")
    assert "was canceled before its delivery" in waited.stderr.splitlines()[-1]
    assert open_shop.run("signals.py", "status", order_id).stdout == "CANCELED\n"


def test_another_decision_than_the_one_that_stands_is_an_error(shop: Shop) -> None:
    order_id = shop.start_order()
    # An activity that no worker has keeps the order open after its decision.
    with shop.with_change(
        "workflow.py", "            process_payment,\n", '            "payment_of_tomorrow",\n'
    ).worker():
        first = shop.run("signals.py", "approve", order_id, "--note", "Good")
        same = shop.run("signals.py", "approve", order_id, "--note", "Good")
        other_note = shop.run("signals.py", "approve", order_id, "--note", "Very good")
        other_verdict = shop.run("signals.py", "reject", order_id)

    assert (first.returncode, first.stdout) == (0, "approved: Good\n")
    assert (same.returncode, same.stdout) == (0, "approved: Good\n")
    assert (other_note.returncode, other_verdict.returncode) == (1, 1)
    assert f"order '{order_id}' is approved: Good" in one_line(other_verdict.stderr)


def test_without_a_worker_nothing_is_lost_and_everyone_is_told(shop: Shop) -> None:
    order_id = shop.start_order()
    began = time.monotonic()
    asking = shop.start("signals.py", "status", order_id)
    approving = shop.start("signals.py", "approve", order_id, "--note", "Nobody home")
    waiting = shop.start("signals.py", "result", order_id)

    asked = asking.communicate(timeout=30)
    assert time.monotonic() - began < 10
    approved = approving.communicate(timeout=30)
    assert waiting.poll() is None
    with shop.worker():
        stdout, stderr = waiting.communicate(timeout=30)

    assert (asking.returncode, asked[0]) == (1, "")
    assert "no worker answers; start one with: uv run " in one_line(asked[1])
    assert (approving.returncode, approved[0]) == (0, "")
    assert "the decision is safe on the server" in one_line(approved[1])
    assert waiting.returncode == 0
    assert json.loads(stdout)["message"] == "approved: Nobody home"
    assert stderr.count("no worker answers") == 1


async def test_a_workflow_bug_is_told_and_recovered_from(shop: Shop, dev_server: Client) -> None:
    with shop.with_workflow_bug().worker() as buggy_worker:
        waiting = shop.start("starter.py", "Bug", "--approval-timeout", "60", "--wait-result")
        assert waiting.stdout is not None
        order_id = waiting.stdout.readline().strip()
        wait_until(lambda: "workflow bug!" in buggy_worker.log, "the workflow task to fail")
        asked = shop.run("signals.py", "status", order_id)
    with shop.worker():
        approved = shop.run("signals.py", "approve", order_id)
        stdout, stderr = waiting.communicate(timeout=30)

    assert (asked.returncode, asked.stdout) == (1, "")
    assert "the workflow task of order" in one_line(asked.stderr)
    assert "RuntimeError: workflow bug!" in one_line(asked.stderr)
    assert "Traceback" in buggy_worker.log
    assert max(map(len, buggy_worker.log.splitlines())) < 500
    assert approved.returncode == 0
    assert (waiting.returncode, json.loads(stdout)["status"]) == (0, "FULFILLED")
    assert stderr.count("fails: RuntimeError: workflow bug!") == 1
    history = await dev_server.get_workflow_handle(order_id).fetch_history()
    events = [event.event_type for event in history.events]
    assert events.count(EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED) >= 1
    assert events.count(EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED) == 3


def test_a_workflow_bug_is_told_of_an_order_that_was_at_rest(shop: Shop) -> None:
    with shop.worker():
        order_id = shop.start_order("--approval-timeout", "60")
        shop.wait_for_status(order_id, "AWAITING_APPROVAL")
    with shop.with_workflow_bug().worker():
        asked = shop.run("signals.py", "status", order_id)

    assert (asked.returncode, asked.stdout) == (1, "")
    assert f"workflow task of order '{order_id}' fails: workflow bug!" in one_line(asked.stderr)


def test_who_waits_is_told_when_the_worker_dies_between_two_attempts(shop: Shop) -> None:
    with shop.worker() as worker:
        waiting = shop.start("starter.py", "--inventory-recovers-after", "3", "--wait-result")
        wait_until(lambda: "reserve_inventory failed" in worker.log, "the first attempt to fail")
        worker.process.kill()
    assert waiting.stderr is not None
    assert any("still waiting: no worker answers" in line for line in waiting.stderr)
    waiting.kill()


@pytest.mark.parametrize("arguments", [["starter.py", "--wait-result"], ["signals.py", "result"]])
def test_interrupted_waiting_leaves_the_order_alone(open_shop: Shop, arguments: list[str]) -> None:
    if arguments[0] == "starter.py":
        waiting = open_shop.start(*arguments, "--approval-timeout", "60")
        assert waiting.stdout is not None
        order_id = waiting.stdout.readline().strip()
    else:
        order_id = open_shop.start_order("--approval-timeout", "60")
        waiting = open_shop.start(*arguments, order_id)
        assert waiting.stderr is not None
        assert "status: " in waiting.stderr.readline()

    waiting.send_signal(signal.SIGINT)
    _, stderr = waiting.communicate(timeout=10)

    assert waiting.returncode == 130
    assert "interrupted: " in stderr.splitlines()[-1]
    assert "goes on" in stderr.splitlines()[-1]
    assert order_id in stderr.splitlines()[-1]
    assert open_shop.run("signals.py", "approve", order_id).returncode == 0


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_worker_says_goodbye_in_order(shop: Shop, stop: signal.Signals) -> None:
    pid_file = shop.folder / "worker.pid"
    with shop.worker() as worker:
        assert pid_file.read_text() == f"{worker.process.pid}\n"

        worker.process.send_signal(stop)
        assert worker.process.wait(timeout=10) == 0

    assert not pid_file.exists()
    assert "Traceback" not in worker.log


def test_nohup_keeps_a_worker_whose_terminal_closes(shop: Shop) -> None:
    ignoring = "import runpy, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    nohup = shop.folder / "nohup.py"
    nohup.write_text(
        f"{ignoring}runpy.run_path({str(shop.scripts / 'worker.py')!r}, {{}}, '__main__')"
    )
    with shop.worker(script=nohup) as worker:
        worker.process.send_signal(signal.SIGHUP)

        order_id = shop.start_order("--approval-timeout", "0.1")
        shop.wait_for_status(order_id, "EXPIRED")
        assert worker.process.poll() is None


def test_a_second_worker_in_the_same_folder_is_refused(shop: Shop) -> None:
    with shop.worker() as worker:
        second = shop.run("worker.py")

        assert (second.returncode, second.stdout) == (1, "")
        assert f"'worker.pid' is held by worker {worker.process.pid}" in one_line(second.stderr)
        with shop.worker("--pid-file", "another.pid"):
            assert (shop.folder / "another.pid").exists()


async def test_after_a_crash_the_next_worker_serves_the_order_soon(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker() as worker:
        order_id = shop.start_order("--approval-timeout", "600")
        shop.wait_for_status(order_id, "AWAITING_APPROVAL")
        worker.process.kill()
        worker.process.wait()
    with shop.worker():
        order = dev_server.get_workflow_handle_for(OrderWorkflow.run, order_id)
        began = time.monotonic()
        status = await order.query(OrderWorkflow.status)
        answered = time.monotonic()
        await order.signal(OrderWorkflow.approve_order, ApprovalDecision(approved=True))
        result = await order.result()

        # With the SDK's default it would take ten seconds.
        assert answered - began < 3
        assert time.monotonic() - answered < 3
        assert (status, result.status) == ("AWAITING_APPROVAL", "FULFILLED")


async def test_another_kind_of_workflow_is_not_taken_for_an_order(
    open_shop: Shop, dev_server: Client
) -> None:
    stranger = await dev_server.start_workflow(
        "StrangeWorkflow", id=f"strange-{uuid4()}", task_queue="strange"
    )

    for verb in ("approve", "status", "approval-message", "result"):
        refused = open_shop.run("signals.py", verb, stranger.id)

        assert (refused.returncode, refused.stdout) == (1, "")
        assert "is no order, but another kind of workflow" in one_line(refused.stderr)
    history = await stranger.fetch_history()
    assert not any(
        event.HasField("workflow_execution_signaled_event_attributes") for event in history.events
    )
    await stranger.terminate()
