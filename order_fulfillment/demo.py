"""Plays the whole sample, with nothing to set up: `uv run order_fulfillment/demo.py`."""

import order_fulfillment.support.early_interrupt  # noqa: F401

# isort: split

import asyncio
import re
import shlex
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING
from urllib.parse import quote

from order_fulfillment.support.command_line import (
    SCRIPTS,
    ArgumentParser,
    CommandError,
    command,
    run,
)

if TYPE_CHECKING:
    from temporalio.client import Client

    from order_fulfillment.support.demo_stage import Stage

START_WORKER = (
    'uv run worker.py --pid-file "$DEMO/worker.pid" --shop-db "$DEMO/shop.db" '
    '2>> "$DEMO/worker.log" &'
)
BOOKS = (
    'uv run python -m sqlite3 "$DEMO/shop.db" '
    "\"SELECT * FROM ledger WHERE idempotency_key LIKE 'ORDER/%'\""
)
STOP_WORKER = (
    'kill "$(cat "$DEMO/worker.pid")"; while [ -e "$DEMO/worker.pid" ]; do sleep 0.1; done'
)


def start_changed_worker(name: str, file: str, edit: str) -> list[str]:
    """Commands that copy the package, change a file of the copy and start a worker of it."""
    return [
        f'mkdir "$DEMO/{name}" && cp -R PACKAGE "$DEMO/{name}" && chmod -R u+w "$DEMO/{name}"',
        f"cd \"$DEMO/{name}/order_fulfillment\" && sed -i.before '{edit}' {file}",
        START_WORKER.replace(
            "uv run worker.py",
            f'PYTHONPATH="$DEMO/{name}" uv run "$DEMO/{name}/order_fulfillment/worker.py"',
        ),
    ]


@dataclass(frozen=True)
class Scenario:
    """One thing to see."""

    shows: str
    commands: list[str]
    """What users type; ORDER is the order that the last starter.py has started."""
    expected: str
    notice: str


SCENARIOS = {
    "happy-path": Scenario(
        "A customer orders, a human approves, the goods are delivered.",
        [
            "uv run starter.py 'Ada Lovelace'",
            "uv run signals.py approve ORDER --note 'Approved instantly'",
            "uv run signals.py result ORDER",
        ],
        "FULFILLED",
        "the order waited on the server for its approval, with no process of yours waiting for it.",
    ),
    "api-downtime": Scenario(
        "The inventory service is down and stays down: Temporal retries, then the order fails.",
        [
            "uv run starter.py 'Outage Test' --simulate-inventory-downtime --wait-result  # 4 s",
            "grep 'ORDER.*reserve_inventory' \"$DEMO/worker.log\"",
        ],
        "InventoryUnavailableError",
        "nobody wrote a retry loop; Temporal made the attempts, as the retry policy says.",
    ),
    "invalid-payment": Scenario(
        "The card has expired: there is no point in trying again.",
        ["uv run starter.py 'Invalid Payment' --card-expiry 12/23 --wait-result"],
        "PaymentValidationError",
        "the error is marked as non-retryable, so there was one attempt, and the warehouse was "
        "never asked.",
    ),
    "human-in-the-loop": Scenario(
        "A human looks at an order and rejects it.",
        [
            "uv run starter.py 'Grace Hopper'",
            "uv run signals.py status ORDER",
            "uv run signals.py reject ORDER --note 'The address does not exist'",
            "uv run signals.py approval-message ORDER",
            "uv run signals.py result ORDER",
        ],
        "REJECTED",
        "a signal carried the decision into the running workflow, a query read it back, even "
        "after the end.",
    ),
    "auto-expiry": Scenario(
        "Nobody decides within three seconds: the order expires.",
        ["uv run starter.py 'Timeout Test' --approval-timeout 3 --wait-result  # 4 s"],
        "EXPIRED",
        "the timer runs on the server; with 30 days it would be the same code.",
    ),
    "workflow-bug": Scenario(
        "The workflow's code has a bug: the order waits for the fix, and goes on where it stood.",
        [
            STOP_WORKER,
            *start_changed_worker("bug", "workflow.py", "s/# raise /raise /"),
            "uv run starter.py 'Bug Hunter'",
            "until HISTORY | grep WorkflowTaskFailed; do sleep 0.1; done",
            'grep -m 1 "in _fulfill" "$DEMO/worker.log"',
            "uv run signals.py approve ORDER --note Cleared  # 6 s, for nobody can read it yet",
            STOP_WORKER,
            START_WORKER,
            "uv run signals.py result ORDER  # 10 s until Temporal tries the workflow task again",
            BOOKS,
        ],
        "FULFILLED, 3 rows",
        "a bug does not fail the order, and the fixed code did not pay again: the worker replayed "
        "the order's history, and the services' books have each step once.",
    ),
    "invalid-orders": Scenario(
        "A bug of the web shop spoils two of ten orders: they wait for a fix, the others do not.",
        [
            (
                "uv run starter.py --orders 10 --invalid-percentage 20 --approval-above 500 "
                '| tee "$DEMO/orders"'
            ),
            (
                'until xargs uv run signals.py status < "$DEMO/orders" 2> "$DEMO/failures" '
                "| cut -f 2 | sort | uniq -c | grep '8 FULFILLED'; do sleep 0.5; done"
            ),
            'head -n 1 "$DEMO/failures"',
            STOP_WORKER,
            *start_changed_worker("fix", "activities.py", "s/# quantities = /quantities = /"),
            (
                'xargs uv run signals.py result < "$DEMO/orders" 2> "$DEMO/news" '
                '| grep -o \'"status": "[A-Z]*"\' | sort | uniq -c'
            ),
            BOOKS.replace("* FROM ledger", "idempotency_key FROM authorizations").replace(
                "/%", "-%"
            ),
        ],
        "10 FULFILLED, 10 rows",
        "the activity was retried until the fix was deployed; nobody started an order again, and "
        "nobody paid twice.",
    ),
    "worker-crash": Scenario(
        "The worker is killed while an order is under way: the next one takes over.",
        [
            "uv run starter.py Phoenix",
            "until HISTORY | grep TimerStarted; do sleep 0.1; done",
            'kill -9 "$(cat "$DEMO/worker.pid")"',
            START_WORKER,
            "uv run signals.py approve ORDER --note Survived",
            "uv run signals.py result ORDER",
            BOOKS,
        ],
        "FULFILLED, 3 rows",
        "what was done before the crash is in the history, and was not done again: the services' "
        "books have each step once.",
    ),
}


class Demo:
    """Types the commands of the scenarios, for a worker on a task queue of its own."""

    def __init__(self, stage: "Stage", client: "Client") -> None:
        self.stage = stage
        self.client = client
        self.task_queue = stage.environment["TEMPORAL_TASK_QUEUE"] = f"order-demo-{token_hex(4)}"
        self.order = ""
        """Its ID, or what the IDs of several orders begin with."""
        self.example = ""

    async def type(self, line: str) -> list[str]:
        """Show a command line, run it and return its output."""
        line = line.replace("HISTORY", "uv run temporal workflow show --workflow-id ORDER")
        line = line.replace("ORDER", self.order).replace("PACKAGE", shlex.quote(str(SCRIPTS)))
        line = re.sub(r"uv run (\w+\.py)", lambda match: command(match[1]), line)
        self.stage.say(f"$ {line}", style="cyan")
        # This demo's Python is the one that `uv run` would take.
        line = line.replace("uv run temporal", "temporal").replace("uv run python", "uv run")
        line = line.replace("uv run ", f"{shlex.quote(sys.executable)} ")
        if line.endswith(" &"):
            await self.stage.start(
                line.removesuffix(" &"), self.stage.folder / "worker.log", ready=" is polling "
            )
            return []
        output = await self.stage.run(line, fatal="the Temporal server gave no answer")
        if "starter.py" in line:
            ids = (re.fullmatch(r"(order-[0-9a-f]{8})(-\d+)?", line) for line in output)
            if first := next(filter(None, ids), None):
                self.example, self.order = first[0], first[1]
        return output

    async def play(self, scenario: Scenario) -> str:
        """Play a scenario, and see from what is printed how its order ended."""
        self.order, self.example, happened = "", "", "no end"
        output: list[str] = []
        try:
            for line in scenario.commands:
                output += await self.type(line)
        except CommandError as error:
            return str(error)
        for line in output:
            if ending := re.search(r'(\d+ )?"status": "(\w+)"', line):
                happened = f"{ending[1] or ''}{ending[2]}"
            elif ending := re.search(r": order .* failed at \w+: (\w+)", line):
                happened = ending[1]
        rows = sum(line.startswith(f"('{self.order}") for line in output)
        return f"{happened}, {rows} rows" if rows else happened

    async def close_orders(self) -> None:
        """Terminate the demo's orders that are still open, on a server that is not its own."""
        running = f"TaskQueue = '{self.task_queue}' AND ExecutionStatus = 'Running'"
        async for order in self.client.list_workflows(running):
            handle = self.client.get_workflow_handle(order.id)
            await handle.terminate("the demo that started it has ended")


async def another_server(failure: CommandError) -> None:
    """Wait for the server of another demo, which was faster to take the port.

    Raises:
        CommandError: the failure, when there is no such server.
    """
    from order_fulfillment.support.connection import NoServerError, connect

    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        with suppress(NoServerError):
            await connect()
            return
        await asyncio.sleep(0.2)
    raise failure


async def perform(names: list[str], keep: bool) -> None:
    """Set up, play the scenarios, sum up and clean up.

    Raises:
        CommandError: when there is no way to play, or an outcome is not the expected one.
    """
    try:
        from rich.table import Table

        from order_fulfillment.support.demo_stage import Stage, interruptible, web_ui
    except ModuleNotFoundError as missing:
        raise CommandError(
            f"the demo needs the development dependencies ({missing.name}); get them with: uv sync"
        ) from None
    if not shutil.which("temporal"):
        raise CommandError("the demo needs the command `temporal`; start it with uv run")
    from order_fulfillment.support.connection import NoServerError, connect, server_errors

    began = time.monotonic()
    table = Table("scenario", "expected", "happened", "seconds", box=None, pad_edge=False)
    links = []
    as_expected = True
    with interruptible(), Stage() as stage:
        try:
            client = await connect()
            origin = "found running; left as it is"
        except NoServerError as error:
            try:
                await stage.start_dev_server(error)
                origin = "started by this demo"
            except NoServerError:
                raise
            except CommandError as failure:
                await another_server(failure)
                origin = "started meanwhile by somebody else"
            client = await connect()
        address = client.service_client.config.target_host
        ui = web_ui(address)
        demo = Demo(stage, client)
        stage.say(f"Temporal server: {address}, {origin}")
        stage.say(f"Web UI: {ui or 'none found'}")
        stage.say(
            f"$ export TEMPORAL_TASK_QUEUE={demo.task_queue} DEMO={shlex.quote(str(stage.folder))}",
            "cyan",
        )
        try:
            await demo.type(START_WORKER)
            for name in names:
                scenario, start = SCENARIOS[name], time.monotonic()
                stage.say()
                stage.say(f"{name}: {scenario.shows}", "bold")
                happened = await demo.play(scenario)
                as_expected = happened == scenario.expected
                style = "green" if as_expected else "red"
                stage.say(
                    f"Notice: {scenario.notice}" if as_expected else f"But: {happened}", style
                )
                seconds = f"{time.monotonic() - start:.1f}"
                table.add_row(name, scenario.expected, happened, seconds, style=style)
                links.append(f"{ui}/namespaces/{quote(client.namespace)}/workflows/{demo.example}")
                if not as_expected:
                    break  # There may be no worker left, or one with the bug.
            stage.say()
            stage.say(table)
            stage.say()
            for link in [*links, ""] if ui else []:
                stage.say(link)
            played = f"{len(links) - (not as_expected)} of {len(names)} ended as expected"
            stage.say(f"{played}, in {time.monotonic() - began:.0f} seconds.", "bold")
            stage.folder_stays = not as_expected
            if keep and as_expected:
                stage.say("Server and worker go on until you press Ctrl-C.")
                await asyncio.Event().wait()
        finally:
            with suppress(CommandError):
                async with server_errors():
                    await demo.close_orders()
        if not as_expected:
            if not origin.endswith("this demo"):
                await connect()  # Its server may have stopped: that is the error, then.
            raise CommandError(f"not all ended as expected; the logs are in {stage.folder}")
        stage.say("All that the demo started stops now; --keep holds it until Ctrl-C.")


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
        help="hold the server and the worker at the end, until you press Ctrl-C",
    )
    arguments = parser.parse_args()
    run(
        perform(
            [name for name in SCENARIOS if name in (arguments.scenario or SCENARIOS)],
            arguments.keep,
        ),
        interrupted="whatever the demo started is stopped",
    )


if __name__ == "__main__":
    main()
