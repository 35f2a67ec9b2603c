"""Whatever people type, and wherever the output goes: no traceback, no obeyed control characters."""

import json
import os
import re
import subprocess
import sys
from argparse import ArgumentTypeError
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.client import Client

from order_fulfillment.shared import (
    MAX_APPROVAL_SECONDS,
    MAX_TEXT_BYTES,
    MIN_APPROVAL_SECONDS,
)
from order_fulfillment.starter import MAX_ORDERS, create_parser
from order_fulfillment.support.command_line import (
    MAX_ID_CHARACTERS,
    limited_text,
    printable,
    workflow_id,
)
from tests.conftest import SCRIPTS, Shop, wait_until
from tests.history import details

HOSTILE = (
    "'\"`$(id);&|*?~!\\ \r\n\t\x07\x1b]0;title\x07\x1b[2J\x9b31m\x85\u2028"
    "\u202eabc עברית العربية \U0001f469\u200d\U0001f469\u200d\U0001f467 \xa0é☃"
)
ODD_ID = 'it\'s "a" $(id) & é☃\U0001f469 '
# A busy machine fails no test, and the tests leave nothing behind.
UNHURRIED = settings(deadline=None, database=None)

NOT_UTF8 = os.fsdecode(b"caf\xe9")


def assert_harmless(output: str) -> None:
    for line in output.split("\n"):
        assert line == printable(line)


async def test_hostile_text_arrives_unchanged_and_is_shown_escaped(
    open_shop: Shop, dev_server: Client
) -> None:
    order_id = f"{ODD_ID}{uuid4()}"
    started = open_shop.run("starter.py", HOSTILE, "--workflow-id", order_id)
    approved = open_shop.run("signals.py", "approve", order_id, "--note", HOSTILE)
    ignored = open_shop.run("signals.py", "approve", order_id, "--note", HOSTILE)
    result = open_shop.run("signals.py", "result", order_id)

    for run in (started, approved, ignored, result):
        assert_harmless(run.stdout + run.stderr)
    assert (started.returncode, approved.returncode, result.returncode) == (0, 0, 0)
    assert_harmless(open_shop.log)
    assert f"{order_id}: Authorized payment" in open_shop.log
    assert started.stdout == f"{order_id}\n"
    assert approved.stdout == f"approved: {printable(HOSTILE)}\n"
    assert json.loads(result.stdout)["message"] == f"approved: {HOSTILE}"
    order = dev_server.get_workflow_handle(order_id)
    [began] = await details(order, "WORKFLOW_EXECUTION_STARTED")
    [signaled] = await details(order, "WORKFLOW_EXECUTION_SIGNALED")
    assert json.loads(began.input.payloads[0].data)["customer_name"] == HOSTILE
    assert json.loads(signaled.input.payloads[0].data)["note"] == HOSTILE


async def test_a_strangers_workflow_cannot_write_to_the_terminal_through_the_log(
    open_shop: Shop, dev_server: Client
) -> None:
    handle = await dev_server.start_workflow(
        "\x1b[31mtype", id=f"stranger-{uuid4()}", task_queue=open_shop.task_queue
    )
    wait_until(lambda: "is not registered" in open_shop.log, "the worker to complain")
    await handle.terminate()

    assert_harmless(open_shop.log)
    assert r"\x1b[31mtype is not registered" in open_shop.log


def test_a_hint_can_be_pasted_into_the_shell(open_shop: Shop, tmp_path: Path) -> None:
    started = open_shop.run("starter.py", "--workflow-id", f"{ODD_ID}{tmp_path.name}")
    see = started.stderr.splitlines()[1].removeprefix("see where it stands: ")

    pasted = subprocess.run(
        ["bash", "-c", f'uv() {{ shift; "$PYTHON" "$@"; }}; {see}'],
        env=open_shop.environment | {"PYTHON": sys.executable, "LC_ALL": "C.UTF-8"},
        cwd=open_shop.folder,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (pasted.returncode, pasted.stderr) == (0, "")


def test_text_of_just_the_largest_size_is_accepted(open_shop: Shop) -> None:
    # Control characters grow sixfold as JSON.
    largest = "\x1b" * MAX_TEXT_BYTES
    started = open_shop.run("starter.py", largest)

    approved = open_shop.run("signals.py", "approve", started.stdout.strip(), "--note", largest)

    assert (approved.returncode, approved.stderr) == (0, "")
    assert approved.stdout == f"approved: {printable(largest)}\n"


@pytest.mark.parametrize("too_large", ["x" * (MAX_TEXT_BYTES + 1), "☃" * (MAX_TEXT_BYTES // 3 + 1)])
def test_larger_text_is_refused(too_large: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r" bytes long, at most 64000 are allowed"):
        limited_text(MAX_TEXT_BYTES)(too_large)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("starter.py",), "not valid UTF-8"),
        (("starter.py", "--workflow-id"), "cannot be printed"),
        (("starter.py", "--card-expiry"), "not an expiry date"),
        (("starter.py", "--approval-timeout"), "not a time"),
        (("signals.py", "status"), "cannot be printed"),
        (("signals.py", "approve", "order-1", "--note"), "not valid UTF-8"),
        (("signals.py",), "invalid choice"),
    ],
)
def test_bytes_that_are_not_utf8_are_refused(
    shop: Shop, arguments: tuple[str, ...], reason: str
) -> None:
    refused = shop.run(*arguments, NOT_UTF8)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert re.fullmatch(rf"\w+\.py.*{reason}.*; see \w+\.py.* --help\n", refused.stderr)


def test_an_environment_that_is_not_utf8_is_ignored_or_named(shop: Shop) -> None:
    ignored = replace(shop, environment=shop.environment | {"SOME": NOT_UTF8}).run("starter.py")
    named = replace(shop, environment=shop.environment | {"TEMPORAL_TASK_QUEUE": NOT_UTF8}).run(
        "starter.py"
    )

    assert ignored.returncode == 0
    assert (named.returncode, named.stdout) == (1, "")
    assert re.fullmatch("error: Temporal's environment configuration .*\n", named.stderr)


def test_an_id_over_the_servers_length_is_refused_in_one_line(shop: Shop) -> None:
    # 255 characters, but more than 1,000 bytes.
    refused = shop.run("starter.py", "--workflow-id", "\U0001f469" * 255)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert re.fullmatch("error: the Temporal server refuses: .* length .*\n", refused.stderr)


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_a_poor_locale_costs_characters_but_no_traceback(
    shop: Shop, locale: dict[str, str]
) -> None:
    asked = replace(shop, environment=shop.environment | locale).run("signals.py", "status", "é☃")

    assert asked.returncode in (1, 2)
    assert re.fullmatch(
        "(error: there is no order|signals.py status: .* cannot be printed).*\n", asked.stderr
    )


HINTS = 2


@pytest.mark.parametrize(
    ("arguments", "redirection", "status", "stdout", "stderr"),
    [
        (["starter.py"], "| head -1", 0, 1, HINTS),
        (["starter.py"], "2>&1 | true", 0, 0, 0),
        (["starter.py"], ">&-", 0, 0, HINTS),
        (["starter.py"], "2>&-", 0, 1, 0),
        (["starter.py"], "<&- >&- 2>&-", 0, 0, 0),
        (["starter.py"], ">/dev/full", 1, 0, 1),
        (["starter.py"], "2>/dev/full", 0, 1, 0),
        (["starter.py", "--help"], "| true", 0, 0, 0),
        (["starter.py", "--help"], ">/dev/full", 0, 0, 0),
        (["starter.py", "--bogus"], "2>&1 | true", 2, 0, 0),
        (["starter.py", "--bogus"], "2>/dev/full", 2, 0, 0),
        (["starter.py", "--bogus"], "2>&-", 2, 0, 0),
    ],
)
def test_output_that_nobody_takes_is_no_reason_for_a_traceback(
    shop: Shop, arguments: list[str], redirection: str, status: int, stdout: int, stderr: int
) -> None:
    environment = {
        # Unbuffered output, a habit of containers, hides what is left in the buffers at exit.
        name: value
        for name, value in shop.environment.items()
        if name != "PYTHONUNBUFFERED"
    }
    script, *rest = arguments
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    run = subprocess.run(
        [
            *["bash", "-c", f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}', "-"],
            *[sys.executable, str(SCRIPTS / script), *rest],
        ],
        cwd=shop.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (run.returncode, run.stdout.count("\n"), run.stderr.count("\n")) == (
        status,
        stdout,
        stderr,
    )
    assert "Traceback" not in run.stderr


# What the kernel can hand to a script: any bytes but NUL.
ARGUMENTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | (
    st.binary().filter(lambda argument: b"\0" not in argument).map(os.fsdecode)
)
OPTIONS = [
    "--workflow-id",
    "--card-expiry",
    "--approval-timeout",
    "--inventory-recovers-after",
    "--approval-above",
    "--orders",
    "--invalid-percentage",
    "--simulate-inventory-downtime",
    "--wait-result",
    "--help",
]


@UNHURRIED
@given(
    option=st.sampled_from(OPTIONS[:7]),
    argument=ARGUMENTS | st.from_regex(r"\A(0[1-9]|1[012])/\d{2}") | st.floats().map(str),
)
def test_an_option_is_in_range_or_refused(option: str, argument: str) -> None:
    assert_in_range_or_refused([f"{option}={argument}"])


@UNHURRIED
@given(st.lists(st.sampled_from(OPTIONS) | ARGUMENTS))
def test_any_command_line_is_in_range_or_refused(arguments: list[str]) -> None:
    assert_in_range_or_refused(arguments)


def assert_in_range_or_refused(arguments: list[str]) -> None:
    stderr = StringIO()
    try:
        with redirect_stdout(StringIO()), redirect_stderr(stderr):
            accepted = create_parser().parse_args(arguments)
    except SystemExit as exit:
        status = exit.code
    else:
        assert limited_text(MAX_TEXT_BYTES)(accepted.name) == accepted.name
        if accepted.workflow_id is not None:  # By default the starter makes one up.
            assert workflow_id(accepted.workflow_id) == accepted.workflow_id
            assert 0 < len(accepted.workflow_id) <= MAX_ID_CHARACTERS
        assert accepted.approval_above >= 0
        assert accepted.orders is None or 1 <= accepted.orders <= MAX_ORDERS
        assert accepted.invalid_percentage in (None, *range(101))
        assert re.fullmatch(r"[01]\d/\d\d", accepted.card_expiry, re.ASCII)
        assert MIN_APPROVAL_SECONDS <= accepted.approval_timeout <= MAX_APPROVAL_SECONDS
        assert accepted.inventory_recovers_after in (None, 0, 1, 2, 3)
        return
    if status == 0:
        assert any(argument.startswith(("-h", "--h")) for argument in arguments)
    else:
        assert status == 2
        assert re.fullmatch(".*; see .* --help\n", stderr.getvalue())
        assert_harmless(stderr.getvalue())
