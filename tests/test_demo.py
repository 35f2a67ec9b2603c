"""The demo plays README's scenarios: all of them, some, on another server, and interrupted."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any, Self
from uuid import uuid4

import httpx
import psutil
import pytest
from temporalio.client import Client, WorkflowExecutionStatus

from order_fulfillment.shared import ApprovalDecision, OrderStatus
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import (
    SCRIPTS,
    Shop,
    address_of,
    clean_environment,
    copy_of_the_scripts,
    free_port,
)
from tests.history import ORDER, place, until_status
from tests.script import Script, wait_until

README = SCRIPTS.parent / "README.md"
OUTCOMES = {
    "1. Happy path": "FULFILLED",
    "2. API downtime": "FULFILLED",
    "3. Invalid payment": "FAILED",
    "4. Human in the loop": "REJECTED",
    "5. Auto-expiry": "EXPIRED",
    "6. Workflow bug": "FULFILLED",
    "7. Activity bug": "FULFILLED",
    "8. Worker crash": "FULFILLED",
}


class Demo(Script):
    """A demo with a folder of its own for temporary files, by default for a free port."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        address: str | None = None,
        script: Path = SCRIPTS / "demo.py",
        **environment: str,
    ) -> None:
        self.address = address or f"localhost:{free_port()}"
        self.temporary = folder / "temporary files"
        self.temporary.mkdir()
        environment |= {
            "TEMPORAL_ADDRESS": self.address,
            "TMPDIR": str(self.temporary),
            "COLUMNS": "1000",
        }
        super().__init__(script, arguments, folder, clean_environment() | environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.send(signal.SIGTERM)
        self.wait(30)
        for left_behind in self.processes():
            left_behind.kill()

    def processes(self) -> list[psutil.Process]:
        """The processes that the demo has started, which have its environment."""
        return [
            process
            for process in psutil.process_iter(["environ"])
            if (process.info["environ"] or {}).get("TMPDIR") == str(self.temporary)
        ]

    def has_left_nothing(self) -> bool:
        # uv keeps a lock of its own for each project.
        files = [path for path in self.temporary.iterdir() if path.suffix != ".lock"]
        return not files and not self.processes()


@pytest.fixture(scope="module", autouse=True)
def whole_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """All of the demo, which plays while the other tests run.

    Two short tests come after the one that waits for it. While a process of pytest-xdist is at its
    last test, another file waits for it.
    """
    with Demo(tmp_path_factory.mktemp("whole")) as demo:
        yield demo


async def test_an_interrupted_demo_leaves_a_running_server_as_it_was(
    open_shop: Shop, dev_server: Client, tmp_path: Path
) -> None:
    mine = await place(dev_server, open_shop.task_queue, approval_timeout=600)
    with Demo(
        tmp_path,
        *("--scenario", "invalid-payment", "--keep"),
        address=address_of(dev_server),
        TEMPORAL_TASK_QUEUE=open_shop.task_queue,
    ) as demo:
        wait_until(lambda: "signals.py approve tries-" in demo.output, "three orders", seconds=60)

        [key] = re.findall(r"TEMPORAL_TASK_QUEUE=demo-(\S+)", demo.output)
        waits, retried, stuck = (
            dev_server.get_workflow_handle_for(OrderWorkflow.run, f"{state}-{key}")
            for state in ("waits", "tries", "stuck")
        )
        await until_status(waits, OrderStatus.AWAITING_APPROVAL)
        [step] = (await retried.describe()).raw_description.pending_activities
        assert step.last_failure.application_failure_info.type == "UnknownItemError"
        assert (await stuck.describe()).raw_description.pending_workflow_task.attempt > 1
        # The first order fails at the expired card.
        page = r"http:/(/\S+)(/namespaces/default/workflows/order-\w+)"
        [link] = re.findall(page, demo.output)
        async with httpx.AsyncClient() as web_ui:
            answer = (await web_ui.get(f"http:/{link[0]}/api/v1{link[1]}")).json()
        assert answer["workflowExecutionInfo"]["status"] == "WORKFLOW_EXECUTION_STATUS_FAILED"

        # As pasted into another terminal.
        pasted = demo.output[
            demo.output.index("export ") : demo.output.rindex("mv workflow.py.bak")
        ]
        terminal = await asyncio.create_subprocess_shell(pasted, env=clean_environment())
        await terminal.wait()
        assert (await waits.result()).status in (OrderStatus.FULFILLED, OrderStatus.REJECTED)

        def ended_after_one_more(number: signal.Signals) -> bool:
            demo.send(number)
            return demo.returncode is not None

        # A closed terminal, and Ctrl-C again and again, as impatient people do.
        ended_after_one_more(signal.SIGHUP)
        wait_until(lambda: ended_after_one_more(signal.SIGINT), "the demo to end")

        assert demo.wait() == 130, demo.output
        assert demo.output.splitlines()[-1].startswith("interrupted: ")
        wait_until(demo.has_left_nothing, "all to be gone", seconds=5)

    for theirs in retried, stuck:
        assert (await theirs.describe()).status == WorkflowExecutionStatus.TERMINATED
    await until_status(mine, OrderStatus.AWAITING_APPROVAL)


def test_a_demo_that_pauses_waits_for_enter(dev_server: Client, tmp_path: Path) -> None:
    # Runs its arguments in a terminal, whose keyboard is stdin, and whose screen is stdout.
    terminal = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    arguments = ["--pause", "--scenario", "3", "--scenario", "human-in-the-loop"]
    with (tmp_path / "screen").open("w+b") as screen:
        person = subprocess.Popen(
            [sys.executable, "-c", terminal, sys.executable, SCRIPTS / "demo.py", *arguments],
            env=clean_environment() | {"TERM": "xterm", "TEMPORAL_ADDRESS": address_of(dev_server)},
            stdin=subprocess.PIPE,
            stdout=screen,
            bufsize=0,
        )
        assert person.stdin

        def shown() -> str:
            return Path(screen.name).read_text()

        try:
            wait_until(lambda: shown().count("Enter goes on") == 1, "a pause")
            person.stdin.write(b"\n")
            wait_until(lambda: "$ uv run starter.py" in shown(), "the first command")
            assert "3. Invalid payment" in shown()
            assert "order-" not in shown()
            person.stdin.write(b"\n")
            wait_until(lambda: shown().count("Enter goes on") == 2, "another pause")
            assert re.search(r"Notice: this .*/order-", shown(), re.DOTALL)
            assert "4. Human in the loop" not in shown()
            person.stdin.write(b"\x03")  # Ctrl-C.
            assert person.wait(20) == 130
            assert "interrupted: " in shown()
        finally:
            person.kill()  # A demo whose terminal is closed cleans up.


def test_an_output_that_differs_from_the_readme_is_an_error(
    dev_server: Client, tmp_path: Path
) -> None:
    # A package in which another reason fails the payment.
    package = copy_of_the_scripts(tmp_path)
    services = package / "services.py"
    services.write_text(services.read_text().replace("card expired", "bank is on strike"))
    for file in (README, SCRIPTS.parent / "pyproject.toml", SCRIPTS.parent / ".python-version"):
        (tmp_path / file.name).write_text(file.read_text())

    with Demo(
        tmp_path,
        *("--scenario", "invalid-payment"),
        address=address_of(dev_server),
        script=package / "demo.py",
        PYTHONPATH=str(tmp_path),
        UV_PROJECT_ENVIRONMENT=sys.prefix,
    ) as demo:
        assert demo.wait() == 1, demo.output

    assert "Not seen: error: order 'order-a671252a' failed at process_payment: Pay" in demo.output
    assert re.search("\n✗  3. Invalid payment +order-[0-9a-f]+ +FAILED", demo.output)


def test_a_server_that_does_not_start_tells_why(tmp_path: Path) -> None:
    port = free_port()
    with (
        socket.create_server(("localhost", port + 1000)),
        Demo(tmp_path, address=f"localhost:{port}") as demo,
    ):
        assert demo.wait() == 1

    assert f"can't set frontend port {port}" in demo.output or "in use" in demo.output
    assert f"error: no Temporal server at localhost:{port}: " in demo.output.splitlines()[-1]


SPECIFICATION = """\
temporal operator namespace describe default >/dev/null 2>&1 || temporal server start-dev
cd order_fulfillment
uv run worker.py &
while [ ! -s worker.pid ]; do sleep 0.1; done
cat worker.pid
order=$(uv run starter.py "Ada Lovelace")
uv run signals.py approve $order --note "Cleared by fraud team"
uv run signals.py status $order
uv run signals.py approval-message $order
kill "$(cat worker.pid)"; wait "$(cat worker.pid)" 2>/dev/null || true
rm -f worker.pid
"""


def test_the_commands_of_the_specification_work(shop: Shop) -> None:
    shop = shop.with_copy(shop.folder).with_environment(
        UV_PROJECT=str(SCRIPTS.parent), UV_NO_SYNC="1"
    )

    ended = shop.bash(SPECIFICATION)

    assert ended.returncode == 0, ended.stderr
    process_id, *printed = ended.stdout.splitlines()
    assert process_id.isdecimal()
    assert printed[0] == printed[2] == "approved: Cleared by fraud team"
    assert printed[1] in OrderStatus
    assert " is polling " in ended.stderr


def test_the_readme_shows_what_the_demo_prints(whole_demo: Demo) -> None:
    assert whole_demo.wait(100) == 0, whole_demo.output

    row = "(?m)^✓  (.+?)  +(order-[0-9a-f]+|50 orders) +([A-Z]+) *$"
    rows = re.findall(row, whole_demo.output)
    assert {heading: outcome for heading, _, outcome in rows} == OUTCOMES
    host, _, port = whole_demo.address.partition(":")
    list = f"http://{host}:{int(port) + 1000}/namespaces/default/workflows"
    pages = re.findall(rf"(?m)^{list}[/?](?:query=)?(\S+)$", whole_demo.output)
    assert [page.partition("/")[0] for page in pages if page.startswith("order-")] == [
        order for _, order, _ in rows if order != "50 orders"
    ]
    # The introduction comes before the commands, and the notice after them.
    assert re.search(
        r"A web shop sends fifty orders.*\n\$ .*\nNotice: ", whole_demo.output, re.DOTALL
    )
    assert whole_demo.output.count("\nNotice: ") == 8
    assert "Traceback" not in whole_demo.output
    assert "\x1b" not in whole_demo.output
    wait_until(whole_demo.has_left_nothing, "all to be gone", seconds=5)


def test_the_readme_shows_the_code_word_for_word() -> None:
    listing, _ = listings()

    code = re.sub("(?m)^ +", "", (SCRIPTS / "workflow.py").read_text())
    for excerpt in re.split(r"(?m)^ *\.\.\.\n", listing):
        assert re.sub("(?m)^ +", "", excerpt) in code


async def test_the_calls_in_the_readme_see_an_order_through(open_shop: Shop) -> None:
    _, calls = listings()
    calls = calls.replace("localhost:7233", open_shop.environment["TEMPORAL_ADDRESS"])
    names: dict[str, Any] = {
        "ApprovalDecision": ApprovalDecision,
        "Client": Client,
        "OrderWorkflow": OrderWorkflow,
        "TASK_QUEUE": open_shop.task_queue,
        "order": ORDER,
        "order_id": f"order-{uuid4().hex}",
    }

    body = indent(f"{calls}return status, result\n", "    ")
    exec(f"async def make_calls():\n{body}", names)  # noqa: S102
    status, result = await names["make_calls"]()

    assert status in OrderStatus
    assert (result.status, result.decided_by) == (OrderStatus.FULFILLED, "Grace")


def listings() -> list[str]:
    """The Python that README shows: lines of the workflow, and the calls of a client."""
    return re.findall("(?ms)^```python\n(.+?)^```", README.read_text())
