"""The listings of docs/make-it-yours.md do what the page says."""

import asyncio
import importlib
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import httpx
import pytest
from starlette.testclient import TestClient
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import ActivityEnvironment

from order_fulfillment import orders, shared
from order_fulfillment.orders import OrderHandle
from order_fulfillment.shared import OrderStatus, PaymentRequest
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import SCRIPTS, Shop, copy_of_the_scripts
from tests.history import (
    CARD,
    REJECTED,
    attempts,
    failure_of,
    place,
    steps,
    until,
    until_status,
    worker_with,
)
from tests.script import wait_until

ROOT = SCRIPTS.parent
PAYMENT = PaymentRequest("run-1/payment", 47_00, CARD, 60)
STARTED = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
SECTIONS = re.split("^## ", (ROOT / "docs/make-it-yours.md").read_text(), flags=re.MULTILINE)


def listings(title: str, language: str) -> list[str]:
    """The listings of a section in some language."""
    [section] = [each for each in SECTIONS if each.startswith(title)]
    return re.findall(rf"(?ms)^```{language}\n(.+?)^```", section)


def module(name: str, title: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that a section shows."""
    [code] = listings(title, "python")
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop(name, None)
    return importlib.import_module(name)


class Provider(BaseHTTPRequestHandler):
    """A payment provider that charges once for a key, and answers as it is told to."""

    answers: list[tuple[int, str, str] | str]
    charges: dict[str, object]
    keys: list[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Idempotency-Key"]
        self.keys.append(key)
        answer = self.answers.pop(0) if self.answers else (200, "authorized", "")
        if not isinstance(answer, tuple) or answer[:2] == (200, "authorized"):
            self.charges.setdefault(key, body)
        if answer == "hang up":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif answer == "say nothing":
            self.rfile.read(1)  # Until the client gives up and closes the connection.
        elif isinstance(answer, tuple):
            status, verdict, retry_after = answer
            self.send_response(status)
            self.send_header("Retry-After", retry_after)
            self.end_headers()
            self.wfile.write(json.dumps({"status": verdict, "id": f"auth-{key[-9:]}"}).encode())


@pytest.fixture
def payments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """The activities for real money, with a provider of their own."""
    code = module("payments", "A real service", tmp_path, monkeypatch)
    Provider.answers, Provider.charges, Provider.keys = [], {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield code.PaymentActivities(httpx.AsyncClient(base_url=url), seconds=2)
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "kind", "non_retryable", "pause"),
    [
        ((402, "declined", ""), "PaymentValidationError", True, None),
        ((200, "declined", ""), "PaymentValidationError", True, None),
        ((400, "", ""), "PaymentRequestError", True, None),
        ((409, "", ""), "PaymentError", False, None),
        ((429, "", "7"), "PaymentBusyError", False, timedelta(seconds=7)),
        ((503, "", "Mon, 01 Jan 2029"), "PaymentError", False, None),
    ],
)
async def test_what_the_provider_says_decides_what_becomes_of_the_order(
    payments: Any,
    answer: tuple[int, str, str],
    kind: str,
    non_retryable: bool,
    pause: timedelta | None,
) -> None:
    Provider.answers = [answer]

    with pytest.raises(ApplicationError, match=f"answered {answer[0]}") as failed:
        await ActivityEnvironment().run(payments.process_payment, PAYMENT)

    error = failed.value
    assert (error.type, error.non_retryable, error.next_retry_delay) == (kind, non_retryable, pause)
    assert Provider.charges == {}


async def test_a_provider_that_says_nothing_is_given_up_before_temporal_does(payments: Any) -> None:
    Provider.answers = ["say nothing"]

    with pytest.raises(TimeoutError):
        await ActivityEnvironment().run(payments.process_payment, PAYMENT)


async def test_a_provider_with_a_bad_day_charges_once(
    payments: Any, time_skipping_server: Client
) -> None:
    Provider.answers = ["hang up", (429, "", "7"), "say nothing", (409, "", "")]
    async with worker_with(
        time_skipping_server, "payments", process_payment=payments.process_payment
    ):
        order = await place(time_skipping_server, "payments", approval_timeout=1)
        result = await order.result()

    assert (await attempts(order))[0] == len(Provider.keys) == 5
    [(key, charge)] = Provider.charges.items()
    assert set(Provider.keys) == {key}
    assert charge == {"cents": 4700, "card": "tok"}
    assert result.payment_authorization == f"auth-{key[-9:]}"


def copy_of_the_sample(shop: Shop) -> Shop:
    """The shop, run by a copy of the sample with its tests, which patches may change."""
    copy = shop.with_copy(shop.folder)
    copy_of_the_scripts(shop.folder, ROOT / "tests")
    for file in ("pyproject.toml", "README.md"):
        (shop.folder / file).write_text((ROOT / file).read_text())
    return copy


def type_commands(copy: Shop, commands: str) -> str:
    """Type the commands of a section in a copy of the sample, and return their output."""
    done = copy.with_environment(
        UV_PROJECT_ENVIRONMENT=sys.prefix, UV_NO_SYNC="1", PYTEST_ADDOPTS="-n 0"
    ).bash(f"cd {copy.scripts}\nset -e\n{commands}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def give_back(copy: Shop) -> None:
    """Let orders that end early give back money and goods; without a run of the replay tests."""
    [patch], [commands] = listings("Given back", "diff"), listings("Given back", "bash")
    (copy.folder / "give-back.patch").write_text(patch)
    type_commands(copy, commands.partition("uv run pytest")[0])


def test_steps_and_a_field_are_added_as_shown(shop: Shop) -> None:
    copy = copy_of_the_sample(shop)
    give_back(copy)
    [fraud_check], [field] = listings("A fraud check", "diff"), listings("Another field", "diff")
    (copy.folder / "fraud.patch").write_text(fraud_check + field)
    [commands] = listings("A fraud check", "bash")

    tested = type_commands(copy, commands)

    recorded = len(list((ROOT / "tests/histories").glob("*.json"))) + 1
    assert f" {recorded + 1} passed" in tested
    gift = '{"items": [{"sku": "temporal-mug"}], "gift_message": "Hi!"}'
    (shop.folder / "gifts.jsonl").write_text(gift)
    started = copy.run("starter.py", "--file", "gifts.jsonl")
    assert started.stderr.endswith("1 started, 0 existed already, 0 invalid\n")


async def test_an_order_that_ends_early_gives_back_money_and_goods(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker():  # The code before the change.
        rejected = await place(dev_server, shop.task_queue)
        await until_status(rejected, OrderStatus.AWAITING_APPROVAL)
    copy = copy_of_the_sample(shop)
    give_back(copy)
    for step, seconds in (
        ("reference = self._services.hold(", 2),
        ("self._services.give_back(", 1),
    ):
        slow_step = f"__import__('time').sleep({seconds}); {step}"
        copy = copy.with_change("activities.py", step, slow_step)

    async def until_busy(order: OrderHandle, step: str) -> None:
        async def busy() -> bool:
            tasks = (await order.describe()).raw_description.pending_activities
            return [task.activity_type.name for task in tasks if task.state == STARTED] == [step]

        await until(busy, step)

    with copy.worker():
        canceled = await place(dev_server, shop.task_queue)
        expired = await place(dev_server, shop.task_queue, approval_timeout=0.1)
        await rejected.signal(OrderWorkflow.approve_order, REJECTED)
        await until_busy(canceled, "reserve_inventory")
        await canceled.cancel()
        await until_busy(expired, "give_back")
        await expired.cancel()

        assert (await rejected.result()).status == OrderStatus.REJECTED
        assert (await expired.result()).status == OrderStatus.EXPIRED
        assert isinstance(await failure_of(canceled), CancelledError)
        assert await steps(canceled) == ["process_payment", "reserve_inventory", "give_back"]
        late = f"{canceled.id} reserve_inventory Completing activity as failed: LapsedError: "
        wait_until(lambda: late in copy.log, "the late reservation to be refused")

    for table, number in (("authorizations", 3), ("holds", 4)):
        lapses = shop.query(f"SELECT lapses_at FROM {table}")
        assert len(lapses) == number
        assert max(lapses)[0] < str(datetime.now(UTC))


async def test_two_people_decide_on_the_web_page(
    shop: Shop, dev_server: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("TEMPORAL_")]:
        monkeypatch.delenv(name)
    for name in [name for name in shop.environment if name.startswith("TEMPORAL_")]:
        monkeypatch.setenv(name, shop.environment[name])
    monkeypatch.setattr(orders, "PATIENCE_SECONDS", 1)
    monkeypatch.setattr(shared, "TASK_QUEUE", shop.task_queue)
    app = module("approvals", "Approval on a web page", tmp_path, monkeypatch).app
    early = await place(dev_server, shop.task_queue)
    grace, edsger = ({"X-Forwarded-User": name} for name in ("Grace", "Edsger"))

    def decide() -> None:
        with TestClient(app, follow_redirects=False, raise_server_exceptions=False) as browser:
            # No worker can tell yet whether it counts, but the server keeps it.
            assert browser.post(f"/reject?id={early.id}", headers=grace).status_code == 303

            with shop.worker():
                started = shop.run("starter.py", "<b>Ada</b>", "--approval-timeout", "60")
                page = wait_until(lambda: re.findall("<p>.+", browser.get("/").text), "an order")[0]
                assert page.startswith("<p>&lt;b&gt;Ada&lt;/b&gt;, 47.00 USD ")
                approve, reject = re.findall('formaction="(.+?)"', page)
                assert browser.post(approve).status_code == 500  # Nobody is logged in.

                first = browser.post(approve, headers=grace)
                assert (first.status_code, first.headers["location"]) == (303, "/")
                for late in approve, reject:
                    answer = browser.post(late, headers=edsger)
                    assert answer.status_code == 409
                    assert "approved, by Grace" in answer.text or "already comp" in answer.text
                assert "<p>" not in browser.get("/").text
                ended = shop.run("signals.py", "result", early.id, started.stdout.strip())
        assert ended.stdout.count('"decided_by": "Grace"') == 2
        assert '"REJECTED"' in ended.stdout

    await asyncio.to_thread(decide)


def test_what_may_be_deleted_is_not_missed(shop: Shop) -> None:
    bare = shop.with_copy(shop.folder)
    delete, fulfill = listings("What may be deleted", "bash")
    bare.bash(f"cd {bare.scripts}\n{delete}").check_returncode()
    start_worker, _, commands = fulfill.partition("\n")
    assert start_worker == "uv run worker.py &"
    own = {"uv run ": "", "order-fulfillment": shop.task_queue, "order-1": f"order-{uuid4()}"}
    for old, new in own.items():
        commands = commands.replace(old, new)

    with bare.worker():
        fulfilled = bare.bash(f"set -e\n{commands}")

    assert '"status":"FULFILLED"' in fulfilled.stdout, fulfilled.stderr
    assert sorted(path.name for path in bare.scripts.glob("*.py")) == [
        *("__init__.py", "activities.py", "services.py", "shared.py", "worker.py", "workflow.py")
    ]
