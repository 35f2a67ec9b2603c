"""Connects to the Temporal server, and puts its errors into words."""

import asyncio
import re
from functools import cache

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

ANSWER_SECONDS = 3
UNANSWERED = {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}
"""The SDK reports one of these after several attempts that got no answer."""


def explain_call(error: Exception) -> str:
    """An error of a call in words."""
    if not isinstance(error, RPCError):
        return str(error)
    if error.status in UNANSWERED:
        return "the Temporal server gave no answer"
    return f"the Temporal server refuses: {error}"


async def connect(runtime: Runtime | None = None) -> Client:
    """Connect as Temporal's environment configuration says.

    ConnectionError when no server answers in time. OSError when the configuration cannot be read,
    or the server refuses it.
    """
    try:
        config = ClientConfig.load_client_connect_config()
    except Exception as error:  # noqa: BLE001 (the SDK's ConfigError is not public)
        raise OSError(f"Temporal's environment configuration is broken: {error}") from None
    address = config.setdefault("target_host", "localhost:7233")
    try:
        # The SDK waits for ever for a listener that accepts a connection and says nothing.
        async with asyncio.timeout(ANSWER_SECONDS):
            client = await Client.connect(**config, runtime=runtime or _quiet_runtime())
            request = DescribeNamespaceRequest(namespace=client.namespace)
            await client.workflow_service.describe_namespace(request)
            return client
    except RPCError as error:  # The namespace is unknown, or an API key is missing or wrong.
        raise OSError(explain_call(error)) from None
    except TimeoutError:
        cause = f"no answer in {ANSWER_SECONDS} seconds"
    except (RuntimeError, ValueError) as error:
        # The SDK's message is long. The words in the last quotation marks tell the cause.
        cause = re.sub(r'.*"([^"]+)".*', r"\1", str(error))
    start = "start one with: uv run temporal server start-dev, or check TEMPORAL_ADDRESS"
    raise ConnectionError(f"no Temporal server at {address}: {cause}; {start}")


@cache
def _quiet_runtime() -> Runtime:
    # By default the SDK's Rust core logs to stdout, which is for results.
    return Runtime(telemetry=TelemetryConfig(logging=None))
