"""The tests' own servers, workers and scripts. No setting of the developer's reaches them."""

import asyncio
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import randrange
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.testing import WorkflowEnvironment

from order_fulfillment.orders import CUSTOMER
from order_fulfillment.workflow import ORDER_STATUS
from tests.script import Script

SCRIPTS = Path(__file__).parent.parent / "order_fulfillment"
WORKFLOW_BUG = '# raise RuntimeError("workflow bug!")'


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-size", action="store_true", help="run the endurance tests at their full size"
    )
    parser.addoption(
        "--history",
        metavar="FILE",
        type=Path,
        action="append",
        help="replay this order's history in test_replay.py, and not the recorded ones",
    )


LONGEST = [
    "demo",
    "worker",
    "endurance",
    "versions",
    "no_worker",
    "make_it_yours",
    "pid_file",
    "books",
    "scripts",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest files first: at the end no process is left to wait for another one.
    order = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def clean_environment() -> dict[str, str]:
    """The environment without the developer's own Temporal settings and profile file."""
    environment = {
        name: value
        for name, value in os.environ.items()
        # Python that may not keep compiled modules takes twice as long to start a script.
        if not name.startswith("TEMPORAL_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    # The uv that runs the tests may not be on the path.
    path = f"{os.environ['PATH']}:{Path(os.environ.get('UV', '/usr/bin/uv')).parent}"
    return environment | {"TEMPORAL_CONFIG_FILE": os.devnull, "NO_COLOR": "1", "PATH": path}


def one_line(stderr: str) -> str:
    """The only line of stderr."""
    [line] = stderr.splitlines()
    return line


def free_port() -> int:
    """A port that is free, as is the one of its Web UI.

    Not one that the system gives to connections: a client that tries again and again to reach
    a stopped server there may at last be connected to itself.
    """
    while True:
        port = randrange(10_000, 30_000)
        if not listens(port) and not listens(port + 1000):
            return port


def listens(port: int) -> bool:
    """Whether anything listens on a port of this machine."""
    with socket.socket() as candidate:
        return candidate.connect_ex(("127.0.0.1", port)) == 0


def copy_of_the_scripts(root: Path, scripts: Path = SCRIPTS) -> Path:
    """A copy of the sample's package in another folder."""
    # Python may be writing compiled modules at this moment.
    ignore = shutil.ignore_patterns("__pycache__", "worker.pid", "shop.db*")
    package: Path = shutil.copytree(scripts, root / scripts.name, ignore=ignore)
    return package


@dataclass
class Shop:
    """A folder and a task queue of their own, on some server, to run the real scripts with."""

    folder: Path
    environment: dict[str, str]
    scripts: Path = SCRIPTS

    @property
    def books(self) -> Path:
        """Where the services of this shop's workers keep their books."""
        return self.folder / "shop.db"

    @property
    def task_queue(self) -> str:
        """Where this shop's workers poll."""
        return self.environment["TEMPORAL_TASK_QUEUE"]

    @property
    def log(self) -> str:
        """Everything this shop's workers have logged so far."""
        return "".join(log.read_text() for log in self.folder.glob("worker-*.stderr"))

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Look into the books."""
        with closing(sqlite3.connect(self.books)) as books:
            return books.execute(statement).fetchall()

    def with_environment(self, **settings: str) -> "Shop":
        """The same shop, whose scripts get other settings."""
        return replace(self, environment=self.environment | settings)

    def with_copy(self, root: Path) -> "Shop":
        """The same shop, run by a copy of the code below some folder."""
        package = copy_of_the_scripts(root, self.scripts)
        return replace(self.with_environment(PYTHONPATH=str(root)), scripts=package)

    def with_change(self, file: str, old: str, new: str) -> "Shop":
        """The same shop, run by a copy of the code with a change in it."""
        shop = self.with_copy(self.folder / f"code-{uuid4().hex[:6]}")
        code = (shop.scripts / file).read_text()
        assert code.count(old) == 1
        (shop.scripts / file).write_text(code.replace(old, new))
        return shop

    def with_workflow_bug(self) -> "Shop":
        """The same shop, run by a copy of the code with the sample's bug uncommented."""
        return self.with_change("workflow.py", WORKFLOW_BUG, WORKFLOW_BUG.removeprefix("# "))

    def run(self, script: str, *arguments: str) -> Script:
        """Run a script to its end."""
        running = self.start(script, *arguments)
        assert running.wait() is not None
        return running

    def temporal(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the Temporal CLI to its end."""
        return self._run("temporal", *arguments)

    def bash(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run commands to their end, and return the exit code of the last."""
        return self._run("bash", "-c", commands)

    def pipe(self, pipeline: str) -> subprocess.CompletedProcess[str]:
        """Run a script in a pipeline to its end, and return the script's exit code."""
        script = f"'{sys.executable}' '{self.scripts}'/{pipeline}"
        return self.bash(f"{script}; exit ${{PIPESTATUS[0]}}")

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def start(self, script: str | Path, *arguments: str) -> Script:
        """Start a script and go on."""
        if script == "worker.py" and "--shop-db" not in arguments:
            arguments = (*arguments, "--shop-db", str(self.books))
        return Script(self.scripts / script, arguments, self.folder, self.environment)

    @contextmanager
    def worker(self, *arguments: str, script: str | Path = "worker.py") -> Iterator[Script]:
        """Run the real worker, stopped at the end if it still runs."""
        worker = self.start(script, *arguments)
        try:
            worker.until_prints(" is polling ")
            yield worker
        finally:
            worker.send(signal.SIGTERM)
            if worker.wait(15) is None:
                worker.kill()


async def start_dev_server(*attributes: SearchAttributeKey[Any]) -> WorkflowEnvironment:
    """A real dev server on a free port; its HTTP API is a thousand ports above."""
    port = free_port()
    return await WorkflowEnvironment.start_local(
        port=port,
        # On PATH where the wheel exists; elsewhere None lets the SDK download it.
        dev_server_existing_path=shutil.which("temporal"),
        dev_server_log_level="error",
        search_attributes=attributes,
        dev_server_extra_args=[
            *("--http-port", str(port + 1000)),
            "--output=none",  # Its banner would come between the lines of the benchmark's report.
            # By default an idle dev server takes up to 50 ms to hand out each task.
            "--dynamic-config-value=history.transferProcessorMaxPollRPS=10000",
            # By default it takes minutes until it counts a version without orders as drained.
            '--dynamic-config-value=matching.wv.VersionDrainageStatusVisibilityGracePeriod="5s"',
            '--dynamic-config-value=matching.wv.VersionDrainageStatusRefreshInterval="5s"',
        ],
    )


@pytest.fixture(scope="session")
async def dev_server() -> AsyncIterator[Client]:
    """A client of a real dev server."""
    async with asyncio.timeout(60):
        while True:
            # Another process took a port, or the SDK's five seconds were too few.
            with suppress(RuntimeError):
                environment = await start_dev_server(ORDER_STATUS, CUSTOMER)
                break
    async with environment:
        yield environment.client


def address_of(client: Client) -> str:
    """The address of the server that a client is connected to."""
    return client.service_client.config.target_host


def shop_on(address: str, folder: Path) -> Shop:
    """A shop on a server, with a task queue of its own."""
    shop = Shop(folder, clean_environment())
    queue = f"orders-{uuid4().hex[:8]}"
    return shop.with_environment(TEMPORAL_ADDRESS=address, TEMPORAL_TASK_QUEUE=queue)


@pytest.fixture
def shop(dev_server: Client, tmp_path: Path) -> Shop:
    """A shop of the test's own on the dev server, without a worker."""
    return shop_on(address_of(dev_server), tmp_path)


@pytest.fixture(scope="session")
def open_shop(dev_server: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop with a running worker, shared by tests that leave the worker alone."""
    shop = shop_on(address_of(dev_server), tmp_path_factory.mktemp("shop"))
    with shop.worker():
        yield shop


@pytest.fixture
async def time_skipping_server() -> AsyncIterator[Client]:
    """A client of a server whose clock jumps ahead while a test waits for a result.

    Each test has its own: the clock of one that has served others may have jumped decades.
    """
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=shutil.which("temporal-test-server")
    ) as environment:
        yield environment.client
