"""Whatever people type, and wherever the output goes: no traceback, no obeyed control characters."""

import json
from uuid import uuid4

import pytest
from temporalio.client import Client

from tests.conftest import Shop
from tests.history import details

HOSTILE = (
    "'\"`$(id);&|*?~!\\ \r\n\t\x07\x1b]0;title\x07\x1b[2J\x9b31m\x85\u2028"
    "\u202eabc עברית العربية \U0001f469\u200d\U0001f469\u200d\U0001f467 \xa0é☃"
)
ODD_ID = 'it\'s "a" $(id) & é☃\U0001f469 '


def assert_harmless(output: str) -> None:
    assert all(line.isprintable() for line in output.split("\n"))


async def test_hostile_text_arrives_unchanged_and_is_shown_escaped(
    open_shop: Shop, dev_server: Client
) -> None:
    order_id = f"{ODD_ID}{uuid4()}"
    started = open_shop.run("starter.py", HOSTILE, "--workflow-id", order_id)
    approved = open_shop.run("signals.py", "approve", order_id, "--note", HOSTILE)
    ignored = open_shop.run("signals.py", "approve", order_id, "--note", HOSTILE)
    result = open_shop.run("signals.py", "result", order_id)

    for run in (started, approved, ignored, result):
        assert_harmless(run.output)
    assert (started.returncode, approved.returncode, result.returncode) == (0, 0, 0)
    assert_harmless(open_shop.log)
    assert f"{order_id} process_payment Authorized payment" in open_shop.log
    assert started.stdout == f"{order_id}\n"
    assert approved.stdout.startswith("approved: '\"`$(id);&|*?~!\\ \\r\\n\\t\\x07\\x1b]0;title")
    assert json.loads(result.stdout)["message"] == f"approved: {HOSTILE}"
    order = dev_server.get_workflow_handle(order_id)
    [began] = await details(order, "WORKFLOW_EXECUTION_STARTED")
    signaled, *_ = await details(order, "WORKFLOW_EXECUTION_SIGNALED")
    assert json.loads(began.input.payloads[0].data)["customer_name"] == HOSTILE
    assert json.loads(signaled.input.payloads[0].data)["note"] == HOSTILE


@pytest.mark.parametrize(
    ("arguments", "stdout", "stderr"),
    [
        ("starter.py | head -1", 1, 0),
        ("starter.py 2>&1 | true", 0, 0),
    ],
)
def test_output_that_nobody_reads_is_no_error(
    shop: Shop, arguments: str, stdout: int, stderr: int
) -> None:
    run = shop.pipe(arguments)

    assert run.returncode == 0, run.stderr
    assert (run.stdout.count("\n"), run.stderr.count("\n")) == (stdout, stderr)
