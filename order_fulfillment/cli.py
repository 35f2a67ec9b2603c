"""What the scripts share: arguments, the way to the server, error messages and exit codes.

The SDK takes most of a second to import, so it is imported where it is needed: `--help` and
mistakes on the command line are answered without it.
"""

import argparse
import asyncio
import os
import re
import shlex
import sys
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never, NoReturn

from order_fulfillment.shared import TASK_QUEUE

if TYPE_CHECKING:
    from temporalio.client import Client
    from temporalio.runtime import Runtime

DEFAULT_ADDRESS = "localhost:7233"
ANSWER_SECONDS = 3
MAX_TEXT_BYTES = 64_000


class CommandError(Exception):
    """Ends a script with exit code 1: one line that says what happened and what to do."""


class NoServerError(CommandError):
    """No Temporal server answers at the configured address."""

    def __init__(self, address: str, namespace: str, cause: str) -> None:
        advice = "check TEMPORAL_ADDRESS and TEMPORAL_TLS*, or your profile"
        host, _, port = address.rpartition(":")
        if cause == "Connection refused" and host in ("localhost", "127.0.0.1"):
            flags = "" if port == "7233" else f" --port {port}"
            advice = (
                f"start one with: uv run temporal server start-dev{flags}, or set TEMPORAL_ADDRESS"
            )
        super().__init__(f"no Temporal server at {address}: {cause}; {advice}")
        self.address = address
        self.namespace = namespace
        self.cause = cause


class ArgumentParser(argparse.ArgumentParser):
    """Reports a mistake in one line, with exit code 2."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Called by argparse with its last words."""
        self._print_message(message or "", sys.stderr)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            try:
                stream.flush()
            except OSError:  # Nobody listens. Python would try again, and end with status 120.
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(status)

    def error(self, message: str) -> NoReturn:
        """Called by argparse with what is wrong."""
        self.exit(2, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def limited_text(argument: str) -> str:
    """An argument type: text of at most 64 kB that Temporal can keep."""
    try:
        size = len(argument.encode())
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("not valid UTF-8") from None
    if size > MAX_TEXT_BYTES:
        raise argparse.ArgumentTypeError(f"{size} bytes long, at most {MAX_TEXT_BYTES} are allowed")
    return argument


def order_id(argument: str) -> str:
    """An argument type: the ID of an order, which is the ID of its workflow."""
    if not argument:
        raise argparse.ArgumentTypeError("an order ID cannot be empty")
    return limited_text(argument)


def printable(text: str) -> str:
    """Show control characters instead of letting the terminal obey them."""
    if text.isprintable():  # Every line of the worker's log comes here, and few need more.
        return text
    # The two joiners print nothing, and emoji and several scripts are spelled with them.
    return "".join(
        character if character.isprintable() or character in "\u200c\u200d" else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    escape = character.encode("unicode_escape", "surrogatepass").decode()
    # The shell takes \x85 for a byte, which is not what UTF-8 has for this character.
    return escape.replace(r"\x", r"\u00") if character > "\x7f" else escape


def command(script: str, *verb_and_id: str) -> str:
    """A command for the user to type: one of these scripts, quoted for the shell."""
    words = [str(Path(sys.argv[0]).with_name(script)), *verb_and_id]
    if words[-1].startswith("-"):
        words.insert(-1, "--")
    return " ".join(["uv run", *map(_quote, words)])


def _quote(word: str) -> str:
    if word == printable(word):
        return shlex.quote(word)
    escaped = re.sub(r"['\\]", r"\\\g<0>", word)
    return f"$'{printable(escaped)}'"


def hint(line: str) -> None:
    """Tell a person something, on stderr: stdout is for programs."""
    with suppress(OSError):  # Nobody may listen.
        print(printable(line), file=sys.stderr, flush=True)


def task_queue() -> str:
    """The task queue on which starter and worker meet."""
    return os.environ.get("TEMPORAL_TASK_QUEUE") or TASK_QUEUE


async def connect(runtime: "Runtime | None" = None) -> "Client":
    """Connect to the server and namespace of Temporal's environment configuration.

    Raises:
        NoServerError: when no Temporal server answers in time.
        CommandError: when the configuration cannot be read, or the server refuses or has no
            such namespace.
    """
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
    from temporalio.client import Client
    from temporalio.envconfig import ClientConfig
    from temporalio.runtime import Runtime, TelemetryConfig
    from temporalio.service import RPCError, RPCStatusCode

    try:
        config = ClientConfig.load_client_connect_config(
            # Given all of the environment, the SDK panics at a byte that is not UTF-8.
            override_env_vars={
                name: value for name, value in os.environ.items() if name.startswith("TEMPORAL_")
            }
        )
    except Exception as error:  # noqa: BLE001 (the SDK's ConfigError is not public)
        raise CommandError(
            f"Temporal's environment configuration is broken: {_one_line(error)}; "
            "mend it, or unset the TEMPORAL_* variable that leads to it"
        ) from None
    address = config.setdefault("target_host", DEFAULT_ADDRESS)
    if not re.fullmatch(r"[^/\s]+:[0-9]+", address):
        raise CommandError(f"{address!r} is not of the form host:port; mend TEMPORAL_ADDRESS")
    namespace = config["namespace"] = config.get("namespace") or "default"
    # The SDK's Rust core would log to stdout, which is for results.
    runtime = runtime or Runtime(telemetry=TelemetryConfig(logging=None))
    try:
        # The SDK waits for ever for a listener that accepts a connection and says nothing.
        async with asyncio.timeout(ANSWER_SECONDS):
            client = await Client.connect(**config, runtime=runtime)
            await client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=namespace)
            )
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            raise CommandError(
                f"there is no namespace {namespace!r} on {address}; create it with: "
                f"uv run temporal operator namespace create {_quote(namespace)}"
            ) from None
        raise CommandError(f"the Temporal server at {address} refuses: {error.message}") from None
    except TimeoutError:
        raise NoServerError(address, namespace, f"no answer in {ANSWER_SECONDS} seconds") from None
    except (RuntimeError, ValueError) as error:
        raise NoServerError(address, namespace, _connect_cause(str(error))) from None
    return client


def _connect_cause(error: str) -> str:
    """The gist of an error of the SDK's Rust core, which arrives as one long string."""
    if "InvalidContentType" in error:
        return "it does not speak TLS"
    if certificate := re.search(r"InvalidCertificate\((\w+)", error):
        return f"its certificate is not to be trusted ({certificate[1]})"
    if alert := re.search(r"(?:AlertReceived\(|fatal alert: )(\w+)", error):
        return f"it refuses the TLS connection ({alert[1]})"
    if "PrivateKeyParseError" in error:
        return "the client certificate's key cannot be read"
    if refusal := re.search(r'code: (?:Unauth|Permission)\w+, message: "([^"]*)"', error):
        return refusal[1]
    if "get_system_info" in error:  # the first call, after the connection was made
        return "it does not speak gRPC, or wants other TLS settings"
    quoted = re.findall(r'"([^"]+)"', error)
    return quoted[-1] if quoted else error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def run(main: Coroutine[Any, Any, None], *, interrupted: str) -> Never:
    """Run a script to its end and leave with the right exit code.

    Args:
        main: The script; raises CommandError to end with exit code 1.
        interrupted: What Ctrl-C means for the order.
    """
    status = _run(main, interrupted)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    # The threads of the SDK's Rust core outlive the interpreter, which sometimes crashes
    # while it shuts down (temporalio/sdk-python issue 300): so it does not shut down.
    os._exit(status)


def _run(main: Coroutine[Any, Any, None], interrupted: str) -> int:
    # Python has None for a stream that was closed, and prints what is meant for it elsewhere.
    sys.stdout = sys.stdout or StringIO()
    sys.stderr = sys.stderr or StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        asyncio.run(_explained(main))
    except CommandError as error:
        hint(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        hint(f"interrupted: {interrupted}")
        return 130
    except BrokenPipeError:
        return 0  # The reader, such as `head -1`, has all it wants.
    except OSError as error:
        hint(f"error: cannot write the output: {error.strerror}")
        return 1
    except Exception:  # noqa: BLE001 (a bug of ours: the only thing that shows a traceback)
        traceback.print_exc()
        return 1
    return 0


async def _explained(main: Coroutine[Any, Any, None]) -> None:
    """Put what the server may answer to any call into one line."""
    try:
        await main
    except TimeoutError:
        raise CommandError(
            f"the Temporal server gave no answer in {ANSWER_SECONDS} seconds; "
            "it may have acted all the same"
        ) from None
    except Exception as error:
        from temporalio.service import RPCError, RPCStatusCode

        if not isinstance(error, RPCError):
            raise
        if error.status == RPCStatusCode.UNAVAILABLE:
            raise CommandError("the Temporal server went away; try again once it is back") from None
        raise CommandError(f"the Temporal server refuses: {_one_line(error)}") from None
