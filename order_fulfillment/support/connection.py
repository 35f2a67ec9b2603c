"""Connects to the Temporal server, and says in one line what goes wrong with it."""

import asyncio
import os
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

from order_fulfillment.support.command_line import CommandError

DEFAULT_ADDRESS = "localhost:7233"
ANSWER_SECONDS = 3


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


class NotFoundError(CommandError):
    """The server knows no such workflow, or none that is still running."""


class NoAnswerError(CommandError):
    """The server, or a worker that was to answer a query, gave no answer in time."""


@asynccontextmanager
async def server_errors(seconds: float = ANSWER_SECONDS) -> AsyncIterator[None]:
    """Give calls to the server a deadline, and say in one line what went wrong with them.

    Raises:
        NotFoundError: when the server knows no such workflow, or none that is running.
        NoAnswerError: when no answer comes in time. The call may have taken effect all the same.
        CommandError: when the server refuses for another reason.
    """
    try:
        # Around the whole call: the SDK's `rpc_timeout` would bound each of its retries.
        async with asyncio.timeout(seconds):
            yield
    except (RPCError, TimeoutError) as error:
        status = error.status if isinstance(error, RPCError) else RPCStatusCode.DEADLINE_EXCEEDED
        match status:
            case RPCStatusCode.NOT_FOUND:
                raise NotFoundError(str(error)) from None
            case (
                RPCStatusCode.UNAVAILABLE
                | RPCStatusCode.DEADLINE_EXCEEDED
                # A query that no worker answers ends with these, too.
                | RPCStatusCode.CANCELLED
                | RPCStatusCode.FAILED_PRECONDITION
            ):
                raise NoAnswerError("the Temporal server gave no answer") from None
        raise CommandError(f"the Temporal server refuses: {_one_line(error)}") from None


def task_queue(default: str) -> str:
    """The task queue on which clients and workers meet: TEMPORAL_TASK_QUEUE, or the default."""
    return os.environ.get("TEMPORAL_TASK_QUEUE") or default


async def check_task_queue(client: Client, name: str) -> None:
    """See that the server takes a task queue of this name: a worker would never hear of it.

    Raises:
        CommandError: when it does not.
    """
    request = DescribeTaskQueueRequest(namespace=client.namespace, task_queue=TaskQueue(name=name))
    async with server_errors():
        await client.workflow_service.describe_task_queue(request)


async def connect(runtime: Runtime | None = None) -> Client:
    """Connect to the server and namespace of Temporal's environment configuration.

    Raises:
        NoServerError: when no Temporal server answers in time.
        CommandError: when the configuration cannot be read, or the server refuses or has no
            such namespace.
    """
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
            "fix it, or unset the TEMPORAL_* variable that leads to it"
        ) from None
    address = config.setdefault("target_host", DEFAULT_ADDRESS)
    if not re.fullmatch(r"[^/\s]+:[0-9]+", address):
        raise CommandError(f"{address!r} is not of the form host:port; fix TEMPORAL_ADDRESS")
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
                f"uv run temporal operator namespace create --namespace {shlex.quote(namespace)}"
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
