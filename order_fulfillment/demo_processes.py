"""What the demo plays on: a dev server if there is none, a worker, scripts, the terminal."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from order_fulfillment.cli import CommandError, NoServerError

PATIENCE_SECONDS = 20
"""How much longer than usual a wait may take."""

LONG_SECONDS = 3
"""From here on, a wait is announced where it cannot be shown."""


class Screen:
    """The demo's output: on a terminal with colour, and with a line that shows what it waits for."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._has_colour = self._is_terminal and not os.environ.get("NO_COLOR")

    def say(self, line: str = "", style: str = "") -> None:
        """Print a line; the style is a number of ANSI's "select graphic rendition"."""
        self.clear_status()
        print(f"\x1b[{style}m{line}\x1b[0m" if style and self._has_colour else line, flush=True)

    def command(self, line: str) -> None:
        """Show a command as the user would type it."""
        self.say(f"$ {line}", style="36")

    def announce(self, what: str, seconds: float) -> None:
        """Where there is no status line, say that a wait begins."""
        if not self._is_terminal:
            self.say(f"(waiting for {what}: about {seconds:g} seconds)")

    def show_status(self, what: str, seconds_left: float) -> None:
        """Write the line that shows life; the next output replaces it."""
        if self._is_terminal:
            left = f"{seconds_left:.0f} s left" if seconds_left > 0.5 else "any moment now"
            line = f"... waiting for {what}: {left}"
            columns = shutil.get_terminal_size().columns
            print(f"\r\x1b[K{line[: columns - 1]}", end="", flush=True)

    def clear_status(self) -> None:
        """Remove the line that shows life."""
        if self._is_terminal:
            print("\r\x1b[K", end="", flush=True)


class Processes:
    """The demo's child processes, and the folder that holds their files.

    At the end of the `with` block the processes are stopped and the folder is removed, unless
    they are told to stay.
    """

    def __init__(self, screen: Screen) -> None:
        self.stay = False
        self.folder_stays = False
        self._screen = screen
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="order-demo-")).resolve()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A demo that was interrupted leaves nothing, whatever it was to leave.
        interrupted = kind is not None and not issubclass(kind, Exception)
        if interrupted or not self.stay:
            for child in reversed(self._children):
                self.stop(child)
        if interrupted or not (self.stay or self.folder_stays):
            shutil.rmtree(self.folder)

    def start(self, log: Path, *command: str | Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a child process that appends its output to the log."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # In a session of its own, so that Ctrl-C reaches the demo alone.
                start_new_session=True,
            )
        self._children.append(child)
        return child

    def stop(self, child: subprocess.Popen[bytes]) -> None:
        """Stop a child process and wait for its end."""
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    async def start_dev_server(self, missing: NoServerError) -> subprocess.Popen[bytes]:
        """Start Temporal's dev server where one was missed.

        Raises:
            NoServerError: when the address is not the one of this machine.
            CommandError: when the port is taken, or the server does not start.
        """
        host, _, port = missing.address.rpartition(":")
        if host not in ("localhost", "127.0.0.1") or not port.isdecimal():
            raise missing
        if _listens(host, int(port)):
            raise CommandError(
                f"something listens at {missing.address}, but it is no Temporal server "
                f"({missing.cause}); stop it, or set TEMPORAL_ADDRESS to a free port, such as "
                "localhost:7300"
            )
        temporal = shutil.which("temporal")
        if temporal is None:
            raise CommandError(
                f"there is no Temporal server at {missing.address} and no command `temporal` to "
                "start one; get it with: uv sync, then start the demo with uv run"
            )
        log = self.folder / "server.log"
        server = self.start(
            log,
            temporal,
            *("server", "start-dev", "--port", port, "--namespace", missing.namespace),
            # As delivered, an idle dev server lets every workflow task wait up to 50 ms.
            *("--dynamic-config-value", "history.transferProcessorMaxPollRPS=10000"),
            HOME=str(self.folder),  # Where it remembers its cluster ID.
        )
        await self.wait_for_log(server, log, "Temporal Server:", "the dev server to start")
        return server

    async def wait_for_log(
        self, child: subprocess.Popen[bytes], log: Path, text: str, what: str
    ) -> None:
        """Wait until a child process has logged the text.

        Raises:
            CommandError: when it ended before.
        """

        async def logged() -> bool:
            has_ended = child.poll() is not None
            output = log.read_text(errors="replace")
            if has_ended:
                last_line = output.strip().rpartition("\n")[2]
                raise CommandError(f"waited in vain for {what}: {last_line}")
            return text in output

        await self.wait(logged, what, seconds=2)

    async def wait[T](self, condition: Callable[[], Awaitable[T]], what: str, seconds: float) -> T:
        """Wait until the condition is true, and return what it returned.

        Args:
            condition: Asked again and again.
            what: What it is, to complete "waiting for ...".
            seconds: How long it usually takes.

        Raises:
            CommandError: when it takes much longer.
        """
        usual_end = time.monotonic() + seconds
        if seconds >= LONG_SECONDS:
            self._screen.announce(what, seconds)
        try:
            while not (result := await condition()):
                left = usual_end - time.monotonic()
                if left < -PATIENCE_SECONDS:
                    raise CommandError(f"waited in vain for {what}")
                self._screen.show_status(what, left)
                await asyncio.sleep(0.05)
        finally:
            self._screen.clear_status()
        return result

    async def run(
        self, *command: str | Path, what: str, seconds: float, **environment: str
    ) -> tuple[int, list[str]]:
        """Run a command to its end, showing its output, and return its exit code and output.

        Raises:
            CommandError: when it takes much longer than `seconds`.
        """
        output = self.folder / "output"
        output.unlink(missing_ok=True)
        child = self.start(output, *command, **environment)
        lines = list[str]()
        with output.open(errors="replace") as reader:

            async def ended() -> bool:
                has_ended = child.poll() is not None
                while line := reader.readline():
                    lines.append(line.rstrip("\n"))
                    self._screen.say(lines[-1])
                return has_ended

            try:
                await self.wait(ended, what, seconds)
            finally:
                self.stop(child)
        return child.returncode, lines


def web_ui(address: str) -> str | None:
    """The address of the Web UI beside a dev server; None where none answers."""
    from http.client import HTTPException
    from urllib.request import ProxyHandler, build_opener

    host, _, port = address.rpartition(":")
    try:
        url = f"http://{host}:{int(port) + 1000}"
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
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        if interrupted:
            raise KeyboardInterrupt


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
