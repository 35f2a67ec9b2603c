"""Connects to the Temporal server, and bounds the calls of it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

ANSWER_SECONDS = 3
UNANSWERED = {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}


class ConfigurationError(Exception):
    """Temporal's environment configuration is wrong."""


@asynccontextmanager
async def answer_within(seconds: float = ANSWER_SECONDS) -> AsyncIterator[None]:
    """Bound calls of the server; TimeoutError when no answer comes in time."""
    try:
        # The SDK's `rpc_timeout` bounds each attempt of a call, and the SDK makes several.
        async with asyncio.timeout(seconds):
            yield
    except (RPCError, TimeoutError) as error:
        if isinstance(error, RPCError) and error.status not in UNANSWERED:
            raise
        raise TimeoutError("the Temporal server gave no answer") from None


def explain_call(error: Exception) -> str:
    """An error of a call in words."""
    return f"the Temporal server refuses: {error}" if isinstance(error, RPCError) else str(error)


async def connect(runtime: Runtime | None = None) -> Client:
    """Connect as Temporal's environment configuration says.

    Raises:
        ConfigurationError: when it cannot be read, or names an unknown namespace.
        ConnectionError: when no Temporal server answers in time.
    """
    try:
        config = ClientConfig.load_client_connect_config()
    except Exception as error:  # noqa: BLE001 (the SDK's ConfigError is not public)
        message = f"Temporal's environment configuration is broken: {error}"
        raise ConfigurationError(message) from None
    address = config.setdefault("target_host", "localhost:7233")
    namespace = config.setdefault("namespace", "default")
    # By default the SDK's Rust core logs to stdout, which is for results.
    runtime = runtime or Runtime(telemetry=TelemetryConfig(logging=None))
    try:
        # The SDK waits for ever for a listener that accepts a connection and says nothing.
        async with answer_within():
            client = await Client.connect(**config, runtime=runtime)
            request = DescribeNamespaceRequest(namespace=namespace)
            await client.workflow_service.describe_namespace(request)
            return client
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        message = f"there is no namespace {namespace!r} at {address}"
        raise ConfigurationError(message) from None
    except TimeoutError:
        cause = f"no answer in {ANSWER_SECONDS} seconds"
    except (RuntimeError, ValueError) as error:
        # Of the one long string of the SDK's Rust core, the words in the last quotation marks.
        cause = re.sub(r'.*"([^"]+)".*', r"\1", str(error))
    start = "start one with: uv run temporal server start-dev, or check TEMPORAL_ADDRESS"
    raise ConnectionError(f"no Temporal server at {address}: {cause}; {start}")
