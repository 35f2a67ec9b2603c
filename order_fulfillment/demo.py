"""Plays the scenarios of README.md as they stand there: `uv run demo.py`.

A scenario is a section with a number: perhaps an introduction, blocks of bash with commands, blocks
of text with lines of their output, and at the end a paragraph that begins with "Notice: ". With
--keep the demo plays the end of docs/presenting.md, too.
"""

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from urllib.parse import quote

from rich.console import Console
from rich.table import Table
from rich.text import Text
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError

from order_fulfillment.orders import ensure_search_attributes
from order_fulfillment.support.command_line import ArgumentParser, in_thread, printable, run
from order_fulfillment.support.connection import connect
from order_fulfillment.workflow import ORDER_STATUS

PACKAGE = Path(__file__).resolve().parent
README = PACKAGE.parent / "README.md"
START_SERVER = """\
uv run temporal server start-dev --port PORT > server.log 2>&1 &
 until uv run temporal operator cluster health &> /dev/null || ! kill -0 $!; do sleep 0.1; done; kill -0 $! || cat server.log
"""
START_WORKER = """\
uv run worker.py >> worker.log 2>&1 &
 until [ -s worker.pid ] || ! kill -0 $!; do sleep 0.1; done
"""
DONE = "this command is done"

console = Console(highlight=False, markup=False, emoji=False)


def scenarios() -> dict[str, tuple[str, str]]:
    """The scenarios of README by number and by name, each with its heading and its text."""
    found = {}
    for heading, text in re.findall(r"(?ms)^### (\d\. .+?)\n(.+?)(?=^##)", README.read_text()):
        found[heading[0]] = found[heading[3:].lower().replace(" ", "-")] = heading, text
    return found


def blocks(text: str, language: str) -> str:
    """The lines of the code blocks in one language."""
    return "".join(re.findall(rf"(?ms)^```{language}\n(.+?)^```", text))


def was_printed(shown: str, printed: list[str]) -> bool:
    """Whether a line was printed. IDs may differ, and three dots stand for anything."""
    pattern = re.sub(r"[0-9a-f]{8,}|(\\\.){3}", ".*", re.escape(shown))
    return any(re.fullmatch(pattern, line) for line in printed)


class Shell:
    """Runs commands in a copy of the scripts, which they may change, on a task queue of its own."""

    def __init__(self, folder: str) -> None:
        self.pause = False
        ignore = shutil.ignore_patterns("__pycache__", "worker.pid", "shop.db*")
        self.copy = Path(shutil.copytree(PACKAGE, Path(folder, PACKAGE.name), ignore=ignore))
        shutil.copy(PACKAGE.parent / ".python-version", folder)  # Where uv itself comes from pyenv.
        self.key = token_hex(4)
        self.orders = f'TaskQueue="demo-{self.key}"'
        self.variables = {
            "TEMPORAL_TASK_QUEUE": f"demo-{self.key}",
            # The code of the copy, in the environment of this checkout.
            "PYTHONPATH": folder,
            "UV_PROJECT": str(PACKAGE.parent),
            "UV_NO_SYNC": "1",
        }
        self._groups: list[int] = []

    async def wait_for_enter(self, prompt: str = "") -> None:
        """With --pause, give a person time to speak."""
        if self.pause:
            console.print(prompt, style="dim", end="")
            termios.tcflush(sys.stdin, termios.TCIFLUSH)  # An impatient Enter came before.
            await in_thread(sys.stdin.readline)

    async def type(self, commands: str) -> list[str]:
        """Show each command, unless it begins with a blank, and run it; return the output of all."""
        process = await asyncio.create_subprocess_exec(
            "bash",
            cwd=self.copy,
            env=os.environ | self.variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the demo, which then ends all processes of this group.
            start_new_session=True,
        )
        self._groups.append(process.pid)
        output: list[str] = []
        assert process.stdin
        assert process.stdout
        for command in commands.splitlines():
            end = "" if self.pause else "\n"
            if command[0] != " ":
                console.print(f"$ {command}", style="cyan", soft_wrap=True, end=end)
            await self.wait_for_enter()
            process.stdin.write(f"{command}\necho {DONE}\n".encode())
            await self._show(process.stdout, output, command)
        process.stdin.close()
        await self._show(process.stdout, output, "the commands in the background")
        return output

    async def _show(self, stdout: asyncio.StreamReader, output: list[str], waiting: str) -> None:
        with console.status(Text(f"waiting for: {waiting:.60}")):
            async for data in stdout:
                line = printable(data.decode(errors="replace").rstrip("\n").expandtabs())
                if line == DONE:
                    return
                output.append(line)
                bad, json = re.search("^error: | failed: ", line), line[:1] == "{"
                text = Text(line, "red" if bad else "dim" if json else "")
                text.highlight_regex(r'"status": "\w+", "message": "[^"]+"', "bold not dim")
                console.print(text, no_wrap=json, overflow="ellipsis" if json else "fold")

    async def connect(self) -> Client:
        """Connect to the server that runs, or else to a dev server that this starts."""
        with suppress(ConnectionError):
            return await connect()
        settings = ClientConfig.load_client_connect_config()
        host, _, port = settings.get("target_host", "localhost:7233").rpartition(":")
        if host in ("localhost", "127.0.0.1"):
            await self.type(START_SERVER.replace("PORT", port))
        return await connect()

    async def keep(self, client: Client, link: str) -> None:
        """Leave an order that waits, one that is retried, and one that is stuck, until Ctrl-C."""
        page = (PACKAGE.parent / "docs/presenting.md").read_text().replace("KEY", self.key)
        _, prepare, answer = re.split("^## Orders to .*", page, flags=re.MULTILINE)
        self.pause = False
        await self.type(blocks(prepare, "bash"))
        self.variables["TEMPORAL_ADDRESS"] = client.service_client.config.target_host
        variables = shlex.join(f"{name}={value}" for name, value in self.variables.items())
        own = f"export {variables}\ncd {shlex.quote(str(self.copy))}"
        console.print("\nUntil Ctrl-C they stay as they are. Try in another terminal:\n")
        console.print(own, blocks(answer, "bash"), link, sep="\n", soft_wrap=True)
        await asyncio.Event().wait()

    async def close(self) -> None:
        """End what was started: processes, and orders, in case the server goes on."""
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        with suppress(OSError, ValueError):  # From another terminal, if there is one.
            os.kill(int((self.copy / "worker.pid").read_text()), signal.SIGKILL)
        with suppress(OSError, RPCError):
            client = await connect()
            running = f'{self.orders} AND ExecutionStatus="Running"'
            async for order in client.list_workflows(running):
                with suppress(RPCError):  # It may just have ended.
                    await client.get_workflow_handle(order.id).terminate("the demo has ended")


async def play_scenario(shell: Shell, heading: str, text: str) -> bool:
    """Play a scenario, and return whether each line of output that README shows was printed."""
    console.print(f"\n{heading}\n{text.partition('```')[0]}", style="bold", end="")
    printed = await shell.type(blocks(text, "bash"))
    shown = blocks(text, "text").splitlines()
    if missing := [line for line in shown if not was_printed(line, printed)]:
        console.print("Not seen:", *missing, style="red")
    else:
        console.print("".join(text.rpartition("Notice: ")[1:]), style="bold", end="")
    return not missing


async def play(scenario: list[str] | None, pause: bool, keep: bool) -> int:
    """Play scenarios, sum up and clean up; return the exit code."""
    table = Table("", "scenario", "order", "outcome", box=None, pad_edge=False)
    exit_code, known = 0, set[str]()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Impatient people press Ctrl-C again.
        loop.add_signal_handler(number, lambda: task.cancelling() or task.cancel())
    console.print("--scenario plays one, --pause waits for Enter, --keep leaves orders to look at.")
    with TemporaryDirectory(prefix="order-demo-") as folder:
        shell = Shell(folder)
        try:
            client = await shell.connect()
            await ensure_search_attributes(client, console.print)  # For the list in the Web UI.
            await shell.type(START_WORKER)
            shell.pause = pause
            # The Web UI of a dev server is a thousand ports above.
            host, _, port = client.service_client.config.target_host.rpartition(":")
            web_ui = f"http://{host}:{int(port) + 1000}/namespaces/{client.namespace}/workflows"
            all_orders = f"{web_ui}?query={quote(shell.orders)}"
            console.print("The orders in the Web UI:", all_orders, sep="\n", soft_wrap=True)
            for name in scenario or filter(str.isdecimal, scenarios()):
                heading, text = scenarios()[name]
                await shell.wait_for_enter("Enter goes on. ")
                good = await play_scenario(shell, heading, text)
                exit_code = exit_code if good else 1
                listed = {order.id async for order in client.list_workflows(shell.orders)}
                new = [await client.get_workflow_handle(each).describe() for each in listed - known]
                known = listed
                statuses = {order.typed_search_attributes.get(ORDER_STATUS, "") for order in new}
                label, page, link = f"{len(new)} orders", all_orders, all_orders
                if len(new) == 1:
                    label, page = new[0].id, f"{web_ui}/{new[0].id}"
                    link = f"{page}/{new[0].run_id}/timeline?sort=ascending"
                console.print(Text(page, f"link {link}"), soft_wrap=True)
                mark, style = ("✓", "green") if good else ("✗", "red")
                order = Text(label, f"link {link}")
                table.add_row(mark, heading, order, ", ".join(sorted(statuses)), style=style)
            await shell.wait_for_enter("Enter shows the outcomes. ")
            console.print("", table, "")
            if keep:
                await shell.wait_for_enter("Enter prepares three orders for questions. ")
                await shell.keep(client, all_orders)
        finally:
            await shell.close()
    return exit_code


def main() -> None:
    """Read the command line and play."""
    names = list(scenarios())
    parser = ArgumentParser(description="Play the scenarios of README, with a worker of their own.")
    help = f"play this one; repeat it for several (default: all): {', '.join(names)}"
    parser.add_argument("--scenario", metavar="NAME", action="append", choices=names, help=help)
    parser.add_argument("--pause", action="store_true", help="wait for Enter before each command")
    parser.add_argument("--keep", action="store_true", help="leave three orders until Ctrl-C")
    run(play(**vars(parser.parse_args())), interrupted="whatever the demo started is stopped")


if __name__ == "__main__":
    main()
