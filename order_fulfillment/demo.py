"""Plays the scenarios of README.md as they stand there: `uv run order_fulfillment/demo.py`."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from temporalio.service import RPCError

from order_fulfillment.support.command_line import ArgumentParser, printable, run
from order_fulfillment.support.connection import connect

PACKAGE = Path(__file__).resolve().parent
README = PACKAGE.parent / "README.md"
PATIENCE_SECONDS = 60
START_WORKER = "uv run worker.py > worker.log 2>&1 &\n"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


class Scenario(NamedTuple):
    """A section of README: what to type, the lines of output that it shows, what to notice."""

    commands: str
    shown: list[str]
    notice: str


def scenarios() -> dict[str, Scenario]:
    """The scenarios of README by name."""
    found = {}
    for title, text in re.findall(r"(?ms)^### \d\. (.+?)\n(.+?)(?=^##)", README.read_text()):
        commands = "".join(re.findall(r"(?ms)^```bash\n(.+?)^```", text))
        shown = "".join(re.findall(r"(?ms)^```text\n(.+?)^```", text)).splitlines()
        notice = " ".join(text.partition("\nNotice: ")[2].split())
        found[title.lower().replace(" ", "-")] = Scenario(commands, shown, notice)
    return found


def first_missing(shown: list[str], printed: list[str]) -> str | None:
    """The first line that was shown but not printed. IDs and times may differ, and dots stand for anything."""
    rest = iter(printed)
    for line in shown:
        pattern = re.escape(line).replace(r"\.\.\.", ".*")
        pattern = re.sub(r"(order|auth|hold|track)\\-[0-9a-f]{8,}", r"\1-[0-9a-f]{8,}", pattern)
        pattern = re.sub(r"\d\d:\d\d:\d\d", r"..:..:..", pattern)
        if not any(re.fullmatch(pattern, other) for other in rest):
            return line
    return None


class Shell:
    """Runs commands in a copy of the scripts, which they may change, on a task queue of its own."""

    def __init__(self, folder: str) -> None:
        ignore = shutil.ignore_patterns("__pycache__", "worker.pid", "shop.db*")
        self.copy = Path(shutil.copytree(PACKAGE, Path(folder, PACKAGE.name), ignore=ignore))
        self.task_queue = f"demo-{token_hex(4)}"
        self._environment = os.environ | {
            "TEMPORAL_TASK_QUEUE": self.task_queue,
            # The code of the copy, in the environment of this checkout.
            "PYTHONPATH": folder,
            "UV_PROJECT": str(PACKAGE.parent),
            "UV_NO_SYNC": "1",
        }
        self._groups: list[int] = []

    async def type(self, commands: str) -> list[str]:
        """Show commands and their output while they run, and return the output."""
        script = self.copy / "commands.sh"
        script.write_text(commands)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-v", script),
            cwd=self.copy,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the demo, which then ends all processes of this group.
            start_new_session=True,
        )
        self._groups.append(process.pid)
        output = []
        assert process.stdout
        with console.status("waiting"):
            async for data in process.stdout:
                line = printable(data.decode(errors="replace").rstrip("\n"))
                typed = line in commands.splitlines()
                console.print(f"$ {line}" if typed else line, style="cyan" if typed else "")
                output.append("" if typed else line)
        return output

    async def start_server(self) -> None:
        """Start a dev server, unless a server is running."""
        with suppress(ConnectionError):
            await connect()
            return
        host, _, port = os.environ.get("TEMPORAL_ADDRESS", "localhost:7233").rpartition(":")
        if host in ("localhost", "127.0.0.1"):
            # By default an idle dev server takes up to 50 ms to hand out each task.
            tuning = "--dynamic-config-value history.transferProcessorMaxPollRPS=10000"
            command = f"uv run temporal server start-dev --port {port} {tuning}"
            await self.type(f"{command} > server.log 2>&1 &\n")
            for _ in range(100):
                await asyncio.sleep(0.1)
                with suppress(ConnectionError):
                    await connect()
                    console.print(f"Its Web UI is at http://localhost:{int(port) + 1000}")
                    return
            console.print((self.copy / "server.log").read_text(), style="red")
        await connect()

    async def start_anew(self) -> None:
        """End the commands that hang, the worker perhaps among them, and start another worker."""
        console.print((self.copy / "worker.log").read_text()[-2000:], style="red")
        os.killpg(self._groups.pop(), signal.SIGKILL)
        await self.type(START_WORKER)

    async def close(self) -> None:
        """End what was started: orders, in case the server goes on, and processes."""
        try:
            client = await connect()
            running = f"TaskQueue = '{self.task_queue}' AND ExecutionStatus = 'Running'"
            async for order in client.list_workflows(running):
                with suppress(RPCError):  # It may just have ended.
                    await client.get_workflow_handle(order.id).terminate("the demo has ended")
        finally:
            for group in self._groups:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)


async def play(names: list[str], keep: bool) -> int:
    """Play scenarios, sum up and clean up; return the exit code."""
    table = Table("scenario", "README's output", "seconds", box=None, pad_edge=False)
    exit_code = 0
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    with TemporaryDirectory(prefix="order-demo-") as folder:
        shell = Shell(folder)
        try:
            await shell.start_server()
            await shell.type(START_WORKER)
            for name in names:
                console.print(f"\n{name}", style="bold")
                scenario, began = scenarios()[name], time.monotonic()
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        missing = first_missing(scenario.shown, await shell.type(scenario.commands))
                except TimeoutError:
                    missing = f"the end, within {PATIENCE_SECONDS} seconds"
                    await shell.start_anew()
                exit_code = exit_code or int(bool(missing))
                style = "red" if missing else "green"
                news = f"Not seen: {missing}" if missing else f"Notice: {scenario.notice}"
                console.print(news, style=style)
                seconds = f"{time.monotonic() - began:.1f}"
                table.add_row(name, "not seen" if missing else "seen", seconds, style=style)
            console.print("", table)
            if keep:
                console.print(f"TEMPORAL_TASK_QUEUE={shell.task_queue} is served until Ctrl-C.")
                await asyncio.Event().wait()
        finally:
            for number in STOP_SIGNALS:  # Impatient people press Ctrl-C again.
                loop.add_signal_handler(number, lambda: None)
            with suppress(ConnectionError):
                await shell.close()
    return exit_code


def main() -> None:
    """Read the command line and play."""
    names = list(scenarios())
    parser = ArgumentParser(
        description="Play the scenarios of README: with the Temporal server that is running, or "
        "else with a dev server of its own, and with a worker of its own."
    )
    all = f"play this one; repeat it for several (default: all): {', '.join(names)}"
    parser.add_argument("--scenario", metavar="NAME", action="append", choices=names, help=all)
    keep_help = "hold server and worker at the end, until Ctrl-C"
    parser.add_argument("--keep", action="store_true", help=keep_help)
    arguments = parser.parse_args()
    playing = play(arguments.scenario or names, arguments.keep)
    run(playing, interrupted="whatever the demo started is stopped")


if __name__ == "__main__":
    main()
