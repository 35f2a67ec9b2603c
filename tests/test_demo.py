"""The demo, played as a user would: all of it, parts of it, interrupted, and where it cannot play."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from temporalio.client import Client

from order_fulfillment.shared import OrderStatus
from tests.conftest import (
    SCRIPTS,
    Shop,
    address_of,
    clean_environment,
    copy_of_the_scripts,
    free_port,
    listens,
    wait_until,
)
from tests.history import place, until_status


@dataclass
class RunningDemo:
    """A demo with a folder of its own for temporary files, and what it has printed."""

    process: subprocess.Popen[bytes]
    address: str
    temporary: Path
    output_file: Path

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    def wait_for_output(self, text: str) -> None:
        wait_until(
            lambda: text in self.output or self.process.poll() is not None,
            f"the demo to say {text}",
        )
        assert text in self.output

    def end(self) -> int:
        return self.process.wait(timeout=90)

    def processes(self) -> list[psutil.Process]:
        """The processes that have this demo's environment."""
        return [
            process
            for process in psutil.process_iter(["environ"])
            if (process.info["environ"] or {}).get("TMPDIR") == str(self.temporary)
        ]

    def has_left_nothing(self) -> bool:
        return (
            not self.processes()
            and not list(self.temporary.iterdir())
            and not any(listens(port) for port in self._ports())
        )

    def _ports(self) -> tuple[int, int]:
        port = int(self.address.rpartition(":")[2])
        return port, port + 1000


@contextmanager
def demo_running(
    folder: Path,
    *arguments: str,
    address: str | None = None,
    script: Path = SCRIPTS / "demo.py",
    **environment: str,
) -> Iterator[RunningDemo]:
    """Start the demo, by default for a free port, and kill it with its children at the end."""
    temporary = folder / "temporary files"
    temporary.mkdir()
    output = folder / "output"
    address = address or f"localhost:{free_port()}"
    with output.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, script, *arguments],
            cwd=folder,
            env=clean_environment()
            | {"TEMPORAL_ADDRESS": address, "TMPDIR": str(temporary), "HOME": str(temporary)}
            | environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    demo = RunningDemo(process, address, temporary, output)
    try:
        yield demo
    finally:
        process.terminate()
        process.wait(timeout=30)
        for left_behind in demo.processes():
            left_behind.kill()


@pytest.fixture(scope="module", autouse=True)
def whole_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    """All of the demo, from an odd place: it plays while the other tests run.

    It is started through a link, from a copy that is read-only and has a space in its path.
    """
    folder = tmp_path_factory.mktemp("whole")
    root = folder / "a copy"
    package = copy_of_the_scripts(root)
    for path in package.rglob("*"):
        path.chmod(path.stat().st_mode & ~0o222)
    link = folder / "play.py"
    link.symlink_to(package / "demo.py")
    with demo_running(folder, script=link, PYTHONPATH=str(root)) as demo:
        yield demo


def interrupt_until_the_end(demo: RunningDemo) -> None:
    """Press Ctrl-C again and again, as impatient people do, and see that nothing is left."""

    def ended_after_one_more() -> bool:
        demo.process.send_signal(signal.SIGINT)
        return demo.process.poll() is not None

    wait_until(ended_after_one_more, "the demo to end")

    assert demo.end() == 130, demo.output
    assert demo.has_left_nothing()


def test_ctrl_c_leaves_no_process_no_port_and_no_file(tmp_path: Path) -> None:
    with demo_running(tmp_path, "--scenario", "invalid-payment") as demo:
        demo.wait_for_output("Temporal server: ")

        interrupt_until_the_end(demo)


def test_keep_holds_server_and_worker_until_ctrl_c(tmp_path: Path) -> None:
    with demo_running(tmp_path, "--scenario", "invalid-payment", "--keep") as demo:
        demo.wait_for_output("until you press Ctrl-C")
        link = re.findall("^http://.*/workflows/order-.*$", demo.output, re.MULTILINE)
        with urlopen(link[0]) as page:
            assert page.status == 200
        task_queue = re.findall(r"TEMPORAL_TASK_QUEUE=(\S+)", demo.output)[0]
        environment = clean_environment() | {
            "TEMPORAL_ADDRESS": demo.address,
            "TEMPORAL_TASK_QUEUE": task_queue,
        }
        order = Shop(tmp_path, environment).run(
            "starter.py", "--approval-timeout", "0.1", "--wait-result"
        )
        assert '"EXPIRED"' in order.stdout, order.stderr

        interrupt_until_the_end(demo)


async def test_an_interrupted_demo_leaves_a_running_server_as_it_was(
    open_shop: Shop, dev_server: Client, tmp_path: Path
) -> None:
    mine = await place(dev_server, open_shop.task_queue)
    with demo_running(
        tmp_path,
        *("--scenario", "happy-path"),
        address=address_of(dev_server),
        TEMPORAL_TASK_QUEUE=open_shop.task_queue,
    ) as demo:
        demo.wait_for_output("see where it stands")
        theirs = re.findall("^order-[0-9a-f]{8}$", demo.output, re.MULTILINE)[0]

        demo.process.send_signal(signal.SIGINT)

        assert demo.end() == 130, demo.output
        assert demo.output.splitlines()[-1].startswith("interrupted: ")

    description = await dev_server.get_workflow_handle(theirs).describe()
    assert description.close_time
    assert description.task_queue != open_shop.task_queue
    await until_status(mine, OrderStatus.AWAITING_APPROVAL)


async def test_a_demo_without_the_temporal_command_says_so_at_once(
    dev_server: Client, tmp_path: Path
) -> None:
    with demo_running(tmp_path, address=address_of(dev_server), PATH="/usr/bin:/bin") as demo:
        assert demo.end() == 1, demo.output

    assert demo.output == "error: the demo needs the command `temporal`; start it with uv run\n"


def test_a_demo_whose_output_cannot_be_written_says_so_in_one_line(
    open_shop: Shop, tmp_path: Path
) -> None:
    with Path("/dev/full").open("w") as full:
        demo = subprocess.run(
            [sys.executable, SCRIPTS / "demo.py"],
            env=open_shop.environment | {"TMPDIR": str(tmp_path)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )

    assert (demo.returncode, demo.stderr.count("\n")) == (1, 1)
    assert demo.stderr.startswith("error: cannot write the output: ")
    assert not list(tmp_path.iterdir())


def test_without_the_development_dependencies_the_demo_says_so(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError('no', name='rich')")

    with demo_running(tmp_path, PYTHONPATH=str(tmp_path)) as demo:
        assert demo.end() == 1, demo.output

    assert demo.output == (
        "error: the demo needs the development dependencies (rich); get them with: uv sync\n"
    )


def test_a_port_taken_by_something_else_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        with demo_running(tmp_path, address=address) as demo:
            assert demo.end() == 1, demo.output
    assert demo.output.count("\n") == 1
    assert "address already in use; set TEMPORAL_ADDRESS to a free port" in demo.output


def test_an_unexpected_outcome_ends_with_exit_code_1_and_keeps_the_log(
    dev_server: Client, tmp_path: Path
) -> None:
    # A package in which the wrong error fails the payment.
    package = copy_of_the_scripts(tmp_path)
    services = package / "services.py"
    services.write_text(services.read_text().replace("PaymentValidationError", "Strike"))

    with demo_running(
        tmp_path,
        *("--scenario", "invalid-payment", "--keep"),
        address=address_of(dev_server),
        PYTHONPATH=str(tmp_path),
    ) as demo:
        assert demo.end() == 1, demo.output

    assert re.search("\ninvalid-payment +PaymentValidationError +Strike ", demo.output)
    assert "0 of 1 ended as expected" in demo.output
    [folder] = re.findall("the logs are in (.*)", demo.output)
    assert Path(folder, "worker.log").exists()


def test_of_two_demos_that_start_at_once_one_uses_the_server_of_the_other(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    play = ("--scenario", "auto-expiry")
    with (
        demo_running(tmp_path / "one", *play) as one,
        demo_running(tmp_path / "two", *play, address=one.address) as two,
    ):
        for demo in (one, two):
            demo.wait_for_output("status: AWAITING_APPROVAL")
        host, guest = (one, two) if "started by this demo" in one.output else (two, one)
        host.process.send_signal(signal.SIGINT)
        assert host.end() == 130, host.output
        assert guest.end() == 1, guest.output
        assert host.has_left_nothing()

    assert "started by this demo" not in guest.output
    assert f"error: no Temporal server at {one.address}" in guest.output.splitlines()[-1]
    assert "1 of 1" not in guest.output


def test_the_demo_plays_eight_scenarios_to_their_expected_ends(whole_demo: RunningDemo) -> None:
    assert whole_demo.end() == 0, whole_demo.output

    summary = re.findall(
        r"^([a-z-]+)  +([\w, ]+?)  +([\w, ]+?)  +[0-9.]+ *$", whole_demo.output, re.MULTILINE
    )
    assert summary == [
        (name, ending, ending)
        for name, ending in {
            "happy-path": "FULFILLED",
            "api-downtime": "InventoryUnavailableError",
            "invalid-payment": "PaymentValidationError",
            "human-in-the-loop": "REJECTED",
            "auto-expiry": "EXPIRED",
            "workflow-bug": "FULFILLED, 3 rows",
            "invalid-orders": "10 FULFILLED, 10 rows",
            "worker-crash": "FULFILLED, 3 rows",
        }.items()
    ]
    assert "\x1b" not in whole_demo.output
    assert whole_demo.has_left_nothing()
