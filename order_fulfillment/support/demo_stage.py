"""What a demo plays on: a dev server if there is none, a folder, a shell, the terminal."""

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Self
from urllib.request import ProxyHandler, build_opener

from rich.console import Console
from rich.table import Table

from order_fulfillment.support.command_line import CommandError, printable
from order_fulfillment.support.connection import NoServerError

PATIENCE_SECONDS = 60


class Stage:
    """The terminal, the demo's processes, and the folder $DEMO that holds their files.

    At the end of the `with` block the processes are stopped and the folder is removed.
    """

    def __init__(self) -> None:
        self.console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.folder_stays = False
        self._background: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="order-demo-")).resolve()
        self.environment = os.environ | {"DEMO": str(self.folder)}
        return self

    def __exit__(self, *_: object) -> None:
        # Nothing is awaited here, so that nobody can interrupt it.
        for process in reversed(self._background):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if not self.folder_stays:
            shutil.rmtree(self.folder)

    def say(self, line: str | Table = "", style: str = "") -> None:
        """Print a line, or a table."""
        try:
            self.console.print(printable(line) if isinstance(line, str) else line, style=style)
        except OSError as error:
            raise CommandError(f"cannot write the output: {error.strerror}") from None

    async def run(self, line: str, fatal: str) -> list[str]:
        """Run a line in the shell, show its output and return it.

        Raises:
            CommandError: when it takes too long, or says what is fatal.
        """
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", line),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout
        output = []
        try:
            with self.console.status("waiting"):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    async for data in process.stdout:
                        output.append(data.decode(errors="replace").rstrip("\n"))
                        self.say(output[-1])
                        if fatal in output[-1]:
                            raise CommandError(fatal)
                    await process.wait()
        except TimeoutError:
            raise CommandError(f"took more than {PATIENCE_SECONDS} seconds: {line}") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return output

    async def start(self, line: str, log: Path, ready: str) -> None:
        """Start a line's program in the background, and wait until it has logged that it is ready.

        Raises:
            CommandError: when it ends before, or takes too long.
        """
        end = log.stat().st_size if log.exists() else 0
        process = self._spawn(line, log)
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self.console.status(f"waiting for the {log.stem}"):
            while ready not in (logged := log.read_bytes()[end:].decode(errors="replace")):
                if process.poll() is not None or time.monotonic() > deadline:
                    last_line = logged.strip().rpartition("\n")[2]
                    raise CommandError(f"the {log.stem} does not start: {last_line}")
                await asyncio.sleep(0.05)

    def _spawn(self, line: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["sh", "-c", f"exec env {line}"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # In a session of its own, so that Ctrl-C reaches the demo alone.
                start_new_session=True,
            )
        self._background.append(process)
        return process

    async def start_dev_server(self, missing: NoServerError) -> None:
        """Start Temporal's dev server where one was missed.

        Raises:
            NoServerError: when the address is not one of this machine.
            CommandError: when the server does not start: the port may be taken.
        """
        host, _, port = missing.address.rpartition(":")
        if host not in ("localhost", "127.0.0.1"):
            raise missing
        # The server remembers its cluster ID in HOME. By default, an idle dev server lets every
        # workflow task wait up to 50 ms.
        line = (
            f'HOME="$DEMO" temporal server start-dev --port {port} --namespace {shlex.quote(missing.namespace)} '
            "--dynamic-config-value history.transferProcessorMaxPollRPS=10000"
        )
        try:
            await self.start(line, self.folder / "server.log", ready="Temporal Server:")
        except CommandError as error:
            raise CommandError(
                f"{error}; set TEMPORAL_ADDRESS to a free port, such as localhost:7300"
            ) from None


def web_ui(address: str) -> str | None:
    """The address of the Web UI beside a dev server; None where none answers."""
    host, _, port = address.rpartition(":")
    url = f"http://{host}:{int(port) + 1000}"
    try:
        # No proxy: it would be asked for this machine's own port.
        build_opener(ProxyHandler({})).open(f"{url}/api/v1/settings", timeout=1).close()
    except (OSError, HTTPException, ValueError):
        return None
    return url


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP cancel the current task, and ignore the next.

    Raises:
        KeyboardInterrupt: at the end of the block, if it was interrupted.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        if not interrupted and task and not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)
        interrupted = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # As under `nohup`.
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        if interrupted:
            raise KeyboardInterrupt
