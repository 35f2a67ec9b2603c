"""Connects to the Temporal server, and says in one line what goes wrong with it."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

ANSWER_SECONDS = 3
"""How long a server may take to answer."""


class TemporalError(Exception):
    """What went wrong between a program and Temporal: one line, for people."""


class NoServerError(TemporalError):
    """No Temporal server can be reached at the configured address."""


class NoAnswerError(TemporalError):
    """No answer came in time. What was asked for may be done all the same."""


class NoWorkerError(TemporalError):
    """The server answers, but no worker does."""


class NotFoundError(TemporalError):
    """The server knows no such workflow, or none that is still running."""


@asynccontextmanager
async def server_errors(seconds: float = ANSWER_SECONDS) -> AsyncIterator[None]:
    """Give calls to the server a deadline, and say in one line what went wrong with them.

    Raises:
        NotFoundError: when the server knows no such workflow, or none that is running.
        NoAnswerError: when no answer comes in time.
        TemporalError: when the server refuses for another reason.
    """
    try:
        # Around the whole call: the SDK's `rpc_timeout` would bound each of its retries.
        async with asyncio.timeout(seconds):
            yield
    except (RPCError, TimeoutError) as error:
        match error.status if isinstance(error, RPCError) else RPCStatusCode.DEADLINE_EXCEEDED:
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
        raise TemporalError(f"the Temporal server refuses: {error}") from None


def queue_name(default: str) -> str:
    """The task queue on which clients and workers meet: TEMPORAL_TASK_QUEUE, or the default."""
    return os.environ.get("TEMPORAL_TASK_QUEUE") or default


async def connect(runtime: Runtime | None = None) -> Client:
    """Connect to the server and namespace of Temporal's environment configuration.

    Raises:
        NoServerError: when no Temporal server answers in time.
        TemporalError: when the configuration cannot be read, or there is no such namespace.
    """
    try:
        config = ClientConfig.load_client_connect_config(
            # An empty TEMPORAL_API_KEY, the secret that CI does not have, would switch TLS on.
            override_env_vars={name: value for name, value in os.environ.items() if value}
        )
    except Exception as error:  # noqa: BLE001 (the SDK's ConfigError is not public)
        raise TemporalError(f"Temporal's environment configuration is broken: {error}") from None
    address = config.setdefault("target_host", "localhost:7233")
    namespace = config.setdefault("namespace", "default")
    request = DescribeNamespaceRequest(namespace=namespace)
    # By default the SDK's Rust core logs to stdout, which is for results.
    runtime = runtime or Runtime(telemetry=TelemetryConfig(logging=None))
    try:
        # The SDK waits for ever for a listener that accepts a connection and says nothing.
        async with server_errors():
            client = await Client.connect(**config, runtime=runtime)
            await client.workflow_service.describe_namespace(request)
    except NotFoundError:
        raise TemporalError(f"there is no namespace {namespace!r} at {address}") from None
    except NoAnswerError:
        cause = f"no answer in {ANSWER_SECONDS} seconds"
        raise NoServerError(f"no Temporal server at {address}: {cause}") from None
    except (RuntimeError, ValueError) as error:
        raise NoServerError(f"no Temporal server at {address}: {_gist(str(error))}") from None
    return client


def _gist(error: str) -> str:
    """What counts in an error of the SDK's Rust core, which is one long string."""
    for pattern, gist in {
        "InvalidContentType": "it does not speak TLS",
        r"InvalidCertificate\((\w+)": "its certificate is not to be trusted ({})",
        r"(?:AlertReceived\(|fatal alert: )(\w+)": "it refuses the TLS connection ({})",
        r'code: (?:Unauth|Permission)\w+, message: "([^"]*)"': "{}",
        # The first call, after the connection was made.
        "get_system_info": "it does not speak gRPC, or wants TLS",
        r'.*"([^"]+)"': "{}",
    }.items():
        if found := re.search(pattern, error):
            return gist.format(*found.groups())
    return error
