"""Plays the whole sample, with nothing to set up: `uv run order_fulfillment/demo.py`."""

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING
from urllib.parse import quote

from order_fulfillment.cli import (
    ArgumentParser,
    CommandError,
    NoServerError,
    connect,
    run,
)
from order_fulfillment.demo_processes import Processes, Screen, interruptible, web_ui

if TYPE_CHECKING:
    from temporalio.api.history.v1 import HistoryEvent
    from temporalio.client import Client

BUG = 'raise RuntimeError("workflow bug!")'


class Demo:
    """A shop to play in, on a task queue of its own, and the commands that its users type."""

    def __init__(self, screen: Screen, processes: Processes, client: "Client") -> None:
        self.screen = screen
        self.processes = processes
        self.folder = processes.folder
        self.client = client
        self.task_queue = f"order-demo-{token_hex(4)}"
        self.worker: subprocess.Popen[bytes] | None = None
        self.log = self.folder / "worker.log"
        self.pid_file = self.folder / "worker.pid"
        self.order = ""

    async def start_worker(self, package: Path | None = None) -> None:
        """Start the worker, if need be from a copy of the package."""
        script = Path(package or _scripts(), "worker.py")
        command = f"uv run {script} --pid-file $DEMO/worker.pid 2>> $DEMO/worker.log &"
        environment = {"TEMPORAL_TASK_QUEUE": self.task_queue}
        if package:
            # Python looks here first, and so finds the copy before the installed package.
            environment["PYTHONPATH"] = str(package.parent)
            command = f"PYTHONPATH={package.parent} {command}".replace(str(self.folder), "$DEMO")
        self.screen.command(command)
        options = ("--pid-file", self.pid_file)
        self.worker = self.processes.start(
            self.log, sys.executable, script, *options, **environment
        )
        await self.processes.wait_for_log(
            self.worker, self.log, f"Worker {self.worker.pid} is polling", "the worker to poll"
        )

    def stop_worker(self) -> None:
        """Let the worker finish what it does and end."""
        if self.worker:
            self.screen.command('kill "$(cat $DEMO/worker.pid)"')
            self.processes.stop(self.worker)
            self.worker = None

    def crash_worker(self) -> None:
        """End the worker's Python process on the spot."""
        assert self.worker
        self.screen.command('kill -9 "$(cat $DEMO/worker.pid)"')
        os.kill(int(self.pid_file.read_text()), signal.SIGKILL)
        self.worker.wait(timeout=10)

    async def start_order(
        self, *arguments: str, exit_code: int = 0, what: str = "the order", seconds: float = 1
    ) -> None:
        """Run starter.py; the order it starts is the one that all else is about."""
        output = await self._script("starter.py", arguments, exit_code, what, seconds)
        self.order = next((line for line in output if re.fullmatch("order-[0-9a-f]{8}", line)), "")
        if not self.order:
            raise CommandError("starter.py printed no order ID")

    async def signals(
        self, verb: str, *arguments: str, what: str = "the answer", seconds: float = 1
    ) -> None:
        """Run signals.py on the order."""
        await self._script("signals.py", (verb, self.order, *arguments), 0, what, seconds)

    async def _script(
        self, name: str, arguments: tuple[str, ...], expected: int, what: str, seconds: float
    ) -> list[str]:
        script = str(_scripts() / name)
        self.screen.command(shlex.join(["uv", "run", script, *arguments]))
        exit_code, output = await self.processes.run(
            *(sys.executable, script, *arguments),
            what=what,
            seconds=seconds,
            TEMPORAL_TASK_QUEUE=self.task_queue,
        )
        if exit_code != expected:
            raise CommandError(f"{name} ended with exit code {exit_code}, not {expected}")
        return output

    async def show_worker_log(self, pattern: str) -> None:
        """Show what the worker's log says of the order."""
        pattern = f"{self.order}.*{pattern}"
        self.screen.command(f"grep {shlex.quote(pattern)} $DEMO/worker.log")
        await self.processes.run("grep", pattern, self.log, what="grep", seconds=0)

    async def ending(self) -> str:
        """How the order ended: its result's status, or the type of the error that failed it."""
        from temporalio.client import WorkflowFailureError
        from temporalio.exceptions import ActivityError, ApplicationError

        from order_fulfillment.workflow import OrderWorkflow

        handle = self.client.get_workflow_handle_for(OrderWorkflow.run, self.order)
        try:
            async with asyncio.timeout(20):
                return (await handle.result()).status
        except TimeoutError:
            return "still open"
        except WorkflowFailureError as error:
            match error.cause:
                case ActivityError(cause=ApplicationError(type=kind)):
                    return str(kind)
            return str(error.cause)

    async def wait_for_event(
        self, wanted: Callable[["HistoryEvent"], bool], what: str, seconds: float
    ) -> "HistoryEvent":
        """Wait for an event in the order's history."""

        async def event() -> "HistoryEvent | None":
            return next((event for event in await self._history() if wanted(event)), None)

        found = await self.processes.wait(event, what, seconds)
        assert found
        return found

    async def completed_activities(self) -> list[str]:
        """The activities that completed, as often as they did, according to the history."""
        history = await self._history()
        names = {
            event.event_id: event.activity_task_scheduled_event_attributes.activity_type.name
            for event in history
        }
        return [
            names[event.activity_task_completed_event_attributes.scheduled_event_id]
            for event in history
            if event.HasField("activity_task_completed_event_attributes")
        ]

    async def _history(self) -> list["HistoryEvent"]:
        handle = self.client.get_workflow_handle(self.order)
        return [event async for event in handle.fetch_history_events()]

    async def close_orders(self) -> None:
        """Terminate the demo's orders that are still open, on a server that is not its own."""
        from temporalio.service import RPCError

        with suppress(RPCError, TimeoutError):
            async with asyncio.timeout(5):
                async for order in self.client.list_workflows(
                    f"TaskQueue = '{self.task_queue}' AND ExecutionStatus = 'Running'"
                ):
                    handle = self.client.get_workflow_handle(order.id)
                    await handle.terminate("the demo that started it has ended")


async def happy_path(demo: Demo) -> str:
    """Pay, reserve, approve, deliver."""
    await demo.start_order("Ada Lovelace")
    await demo.signals("approve", "--note", "Approved instantly")
    await demo.signals("result")
    return await demo.ending()


async def api_downtime(demo: Demo) -> str:
    """Let the inventory service be down for good."""
    await demo.start_order(
        *("Outage Test", "--simulate-inventory-downtime", "--wait-result"),
        exit_code=1,
        what="4 attempts to reserve the inventory",
        seconds=4.5,
    )
    await demo.show_worker_log("reserve_inventory")
    return await demo.ending()


async def invalid_payment(demo: Demo) -> str:
    """Pay with an expired card."""
    await demo.start_order(
        *("Invalid Payment", "--card-expiry", "12/23", "--wait-result"), exit_code=1
    )
    return await demo.ending()


async def human_in_the_loop(demo: Demo) -> str:
    """Ask, and reject."""
    await demo.start_order("Grace Hopper")
    await demo.signals("status")
    await demo.signals("reject", "--note", "The address does not exist")
    await demo.signals("approval-message")
    return await demo.ending()


async def auto_expiry(demo: Demo) -> str:
    """Let the time to decide run out."""
    await demo.start_order(
        *("Timeout Test", "--approval-timeout", "3", "--wait-result"),
        what="the order to expire",
        seconds=4,
    )
    return await demo.ending()


async def workflow_bug(demo: Demo) -> str:
    """Run a worker whose workflow has a bug, then one that has not."""
    demo.stop_worker()
    package = demo.folder / "bug" / "order_fulfillment"
    shutil.copytree(Path(__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    workflow = package / "workflow.py"
    workflow.write_text(workflow.read_text().replace(f"# {BUG}", BUG))
    demo.screen.say(f"In a copy of the package this line is uncommented: {BUG}")
    await demo.start_worker(package)
    await demo.start_order("Bug Hunter")

    failed = await demo.wait_for_event(
        lambda event: event.HasField("workflow_task_failed_event_attributes"),
        "the workflow task to fail",
        seconds=1,
    )
    failure = failed.workflow_task_failed_event_attributes.failure
    where = re.findall(f'File "{re.escape(str(workflow))}", line [0-9]+', failure.stack_trace)
    demo.screen.say(
        f"From the order's history: event {failed.event_id}, WorkflowTaskFailed: {failure.message}"
    )
    if not where:
        raise CommandError("the workflow task did not fail in the copy")
    demo.screen.say(f"  {where[-1]}")
    await demo.signals("approve", "--note", "Cleared", what="somebody to see it", seconds=8)

    demo.stop_worker()
    await demo.start_worker()
    await demo.signals("result", what="Temporal to try the workflow task again", seconds=10)
    payments = (await demo.completed_activities()).count("process_payment")
    return f"{await demo.ending()}, payments: {payments}"


async def worker_crash(demo: Demo) -> str:
    """Kill the worker while an order waits for approval."""
    await demo.start_order("Phoenix")
    await demo.wait_for_event(
        lambda event: event.HasField("timer_started_event_attributes"),
        "the order to ask for approval",
        seconds=1,
    )
    demo.crash_worker()
    await demo.start_worker()
    await demo.signals("approve", "--note", "Survived")
    await demo.signals("result")
    completed = await demo.completed_activities()
    demo.screen.say(f"From the order's history, the completed activities: {', '.join(completed)}")
    once = completed == ["process_payment", "reserve_inventory", "deliver_order"]
    return f"{await demo.ending()}, {'each step once' if once else 'a step repeated'}"


@dataclass(frozen=True)
class Scenario:
    """One thing to see."""

    shows: str
    play: Callable[[Demo], Awaitable[str]]
    expected: str
    notice: str


SCENARIOS = {
    "happy-path": Scenario(
        "A customer orders, a human approves, the goods are delivered.",
        happy_path,
        "FULFILLED",
        "the order waited on the server for its approval, with no process of yours waiting for it.",
    ),
    "api-downtime": Scenario(
        "The inventory service is down and stays down: Temporal retries, then the order fails.",
        api_downtime,
        "InventoryUnavailableError",
        "nobody wrote a retry loop; the activity's retry policy made the attempts.",
    ),
    "invalid-payment": Scenario(
        "The card has expired: there is no point in trying again.",
        invalid_payment,
        "PaymentValidationError",
        "the error is marked as non-retryable, so there was one attempt, and the inventory was "
        "never asked.",
    ),
    "human-in-the-loop": Scenario(
        "A human looks at an order and rejects it.",
        human_in_the_loop,
        "REJECTED",
        "a signal carried the decision into the running workflow, a query read it back, even "
        "after the end.",
    ),
    "auto-expiry": Scenario(
        "Nobody decides within three seconds: the order expires.",
        auto_expiry,
        "EXPIRED",
        "the timer runs on the server; with 30 days it would be the same code.",
    ),
    "workflow-bug": Scenario(
        "The workflow's code has a bug: the order waits for the fix, and goes on where it stood.",
        workflow_bug,
        "FULFILLED, payments: 1",
        "a bug does not fail the order, and the fixed code did not pay again: it replayed the "
        "history.",
    ),
    "worker-crash": Scenario(
        "The worker is killed while an order is under way: the next one takes over.",
        worker_crash,
        "FULFILLED, each step once",
        "what was done before the crash is in the history, and was not done again.",
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What came of a scenario."""

    name: str
    order: str
    happened: str
    seconds: float

    @property
    def expected(self) -> str:
        """What should have come of it."""
        return SCENARIOS[self.name].expected


async def perform(names: list[str], keep: bool) -> None:
    """Set up, play the scenarios, sum up and clean up.

    Raises:
        CommandError: when there is no way to play, or an outcome is not the expected one.
    """
    began = time.monotonic()
    screen = Screen()
    with interruptible(), Processes(screen) as processes:
        server = None
        try:
            client = await connect()
        except NoServerError as error:
            server = await processes.start_dev_server(error)
            client = await connect()
        address = client.service_client.config.target_host
        ui = web_ui(address)
        demo = Demo(screen, processes, client)
        screen.say(
            f"Temporal server: {address}, "
            + ("started by this demo" if server else "found running; left as it is")
        )
        screen.say(f"Web UI: {ui or 'none found'}")
        screen.say(f"The worker's log: {demo.log}")
        screen.command(f"export TEMPORAL_TASK_QUEUE={demo.task_queue} DEMO={demo.folder}")
        try:
            await demo.start_worker()
            outcomes = [await _play(demo, name) for name in names]
        finally:
            if not server:
                await demo.close_orders()
        as_expected = sum(outcome.happened == outcome.expected for outcome in outcomes)
        links = ui and f"{ui}/namespaces/{quote(client.namespace)}/workflows/"
        _sum_up(screen, outcomes, links)
        screen.say(
            f"{as_expected} of {len(outcomes)} ended as expected, in "
            f"{time.monotonic() - began:.0f} seconds.",
            style="1",
        )
        processes.stay = keep
        processes.folder_stays = as_expected < len(outcomes)
        if keep:
            _say_how_to_stop(demo, ui, [child.pid for child in (demo.worker, server) if child])
        elif server:
            screen.say("The server stops now, and the links with it; --keep leaves it running.")
        if not processes.stay and not processes.folder_stays:
            screen.say("The worker's log is removed; --keep leaves that, too.")
        if processes.folder_stays:
            raise CommandError(f"not all ended as expected; the logs are in {demo.folder}")


async def _play(demo: Demo, name: str) -> Outcome:
    scenario = SCENARIOS[name]
    demo.screen.say()
    demo.screen.say(f"{name}: {scenario.shows}", style="1")
    began = time.monotonic()
    demo.order = ""
    try:
        if not demo.worker:
            await demo.start_worker()
        happened = await scenario.play(demo)
    except CommandError as error:
        happened = str(error)
        # It may be the one with the bug, or dead.
        demo.stop_worker()
    if happened == scenario.expected:
        demo.screen.say(f"Notice: {scenario.notice}", style="32")
    else:
        demo.screen.say(f"Expected {scenario.expected}, but: {happened}", style="31")
    return Outcome(name, demo.order, happened, time.monotonic() - began)


def _sum_up(screen: Screen, outcomes: list[Outcome], links: str | None) -> None:
    screen.say()
    row = "{:17}  {:25}  {:25}  {:>7}"
    screen.say(row.format("scenario", "expected", "happened", "seconds"), style="1")
    for outcome in outcomes:
        screen.say(
            row.format(outcome.name, outcome.expected, outcome.happened, f"{outcome.seconds:.1f}"),
            style="32" if outcome.happened == outcome.expected else "31",
        )
        if links and outcome.order:
            screen.say(f"  {links}{outcome.order}")
    screen.say()


def _say_how_to_stop(demo: Demo, ui: str | None, pids: list[int]) -> None:
    screen = demo.screen
    screen.say(f"Still running; look around at {ui}" if ui else "Still running.")
    screen.say("To start orders for this worker, and to stop what the demo started:")
    screen.command(f"export TEMPORAL_TASK_QUEUE={demo.task_queue}")
    kill = f"kill {shlex.join(map(str, pids))}; " if pids else ""
    screen.command(f"{kill}rm -r {shlex.quote(str(demo.folder))}")


def _scripts() -> Path:
    """The folder of the scripts, as the user typed it."""
    return Path(sys.argv[0]).parent


def main() -> None:
    """Read the command line and play."""
    parser = ArgumentParser(
        description="Play the scenarios of this sample: with the Temporal server that is running, "
        "or else with a dev server of its own, and with a worker of its own.",
        epilog="scenarios: " + ", ".join(SCENARIOS),
    )
    parser.add_argument(
        "--scenario",
        metavar="NAME",
        action="append",
        choices=SCENARIOS,
        help="play this one; repeat it for several (default: all)",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="leave the server and the worker running, and say how to stop them",
    )
    arguments = parser.parse_args()
    names = [name for name in SCENARIOS if name in (arguments.scenario or SCENARIOS)]
    run(
        perform(names, arguments.keep),
        interrupted="whatever the demo started is stopped, and its files are removed",
    )


if __name__ == "__main__":
    main()
