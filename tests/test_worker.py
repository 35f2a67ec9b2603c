"""The real worker: how it stops, and what a bug of its code means for orders."""

import json
import signal

import pytest
from temporalio.client import Client

from order_fulfillment.shared import OrderStatus
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop, one_line
from tests.history import APPROVED, DELIVERED, create_worker, events, place, until, until_status
from tests.script import wait_until


async def test_a_workflow_bug_is_told_and_recovered_from(shop: Shop, dev_server: Client) -> None:
    with shop.with_workflow_bug().worker() as buggy_worker:
        waiting = shop.start("starter.py", "Bug", "--approval-timeout", "60", "--wait-result")
        order_id = wait_until(lambda: waiting.stdout, "its ID").strip()
        wait_until(lambda: "workflow bug!" in buggy_worker.stderr, "the workflow task to fail")
        asked = shop.run("signals.py", "status", order_id)
        waiting.until_prints("still waiting: the workflow task of order")
        waiting.until_prints(" s ago; ")
        order = dev_server.get_workflow_handle_for(OrderWorkflow.run, order_id)

        async def pauses_have_grown() -> bool:
            return (await order.describe()).raw_description.pending_workflow_task.attempt > 3

        await until(pauses_have_grown, "a fourth attempt")
        asked_later = shop.run("signals.py", "status", order_id)
    with shop.worker():
        await order.signal(OrderWorkflow.approve_order, APPROVED)
        assert waiting.wait() == 0

    assert (asked.returncode, asked.stdout) == (1, "")
    assert "the workflow task of order" in one_line(asked.stderr)
    assert "RuntimeError: workflow bug!" in asked.stderr
    assert asked.stderr.endswith("the worker is restarted\n")
    assert "to make it now: uv run temporal workflow reset -t LastWork" in asked_later.stderr
    # The server tries again and again; a line of the log tells each time what failed, and where.
    failures = [line for line in buggy_worker.stderr.splitlines() if "Failed activation" in line]
    assert len(failures) > 1
    assert all("RuntimeError: workflow bug! (workflow.py:" in line for line in failures)
    assert "site-packages" not in buggy_worker.stderr
    assert "sdk_core" not in buggy_worker.stderr
    assert json.loads(waiting.stdout.splitlines()[1])["status"] == "FULFILLED"
    assert waiting.stderr.count(" fails: RuntimeError: workflow bug!") == 1
    happened = await events(order)
    assert "WORKFLOW_TASK_FAILED" in happened
    assert happened.count("ACTIVITY_TASK_COMPLETED") == len(DELIVERED)


async def test_a_workflow_bug_is_told_of_an_order_that_was_at_rest(
    shop: Shop, dev_server: Client
) -> None:
    order = await place(dev_server, shop.task_queue)
    async with create_worker(dev_server, shop.task_queue):
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
    with shop.with_workflow_bug().worker():
        asked = shop.run("signals.py", "status", order.id)

    assert (asked.returncode, asked.stdout) == (1, "")
    assert f"workflow task of order '{order.id}' fails: workflow bug!" in one_line(asked.stderr)


def test_the_servers_own_reason_for_a_failing_workflow_task_is_told(shop: Shop) -> None:
    place = "            authorization ="
    unknown = 'SearchAttributeKey.for_keyword("Unknown").value_set("Ada")'
    upsert = f"            workflow.upsert_search_attributes([{unknown}])"
    with shop.with_change("workflow.py", place, f"{upsert}\n{place}").worker():
        order_id = shop.run("starter.py").stdout.strip()

        def told() -> bool:
            status = shop.run("signals.py", "status", order_id)
            return "no mapping defined for search attribute Unknown" in status.stderr

        wait_until(told, "the reason")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_follows_a_killed_one_at_once_and_says_goodbye_in_order(
    shop: Shop, stop: signal.Signals
) -> None:
    pid_file = shop.folder / "worker.pid"
    pid_file.write_text("4711\n")  # Of the killed one.
    with shop.worker() as worker:
        assert pid_file.read_text() == f"{worker.pid}\n"

        worker.send(stop)
        assert worker.wait(10) == 0

    assert pid_file.read_text() == ""
    assert "waiting for" not in worker.stderr
    assert "Traceback" not in worker.stderr
