"""The worker's log and metrics: a line for what is expected to happen, a traceback for the rest."""

import logging
from textwrap import shorten

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
)

from order_fulfillment.support.command_line import CommandError, printable

_CORE = "temporalio.core"

# What the SDK's log says of a signal whose payload it cannot decode, and of a query whose
# asker has gone.
_UNREADABLE_SIGNAL = "Failed deserializing signal input"
_LATE_ANSWER = "Query not found when attempting to respond to it"


def set_up_telemetry(metrics_address: str | None = None) -> Runtime:
    """Log to stderr, and return the runtime that sends the log of the SDK's Rust core there.

    Args:
        metrics_address: IP address and port where the core serves Prometheus metrics.

    Raises:
        CommandError: when nothing can be served there.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    handler.addFilter(_is_news)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # The formatter names the workflow; these would append all they know to every line.
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False
    telemetry = TelemetryConfig(
        logging=LoggingConfig(
            filter=LoggingConfig.default.filter,
            forwarding=LogForwardingConfig(logger=logging.getLogger(_CORE)),
        ),
        metrics=PrometheusConfig(metrics_address) if metrics_address else None,
    )
    try:
        return Runtime(telemetry=telemetry)
    except ValueError as error:
        cause = str(error).rpartition(": ")[2]
        raise CommandError(
            f"cannot serve metrics at {metrics_address}: {cause}; choose another --metrics-address"
        ) from None


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    if message.startswith(_UNREADABLE_SIGNAL) and record.exc_info and record.exc_info[2]:
        # The SDK decodes signals outside the workflow, where its public API cannot say which one
        # it is, and whether it is only replayed. The traceback leads to it.
        run = record.exc_info[2].tb_frame.f_locals.get("self")
        workflow_id = getattr(getattr(run, "_info", None), "workflow_id", "?")
        record.temporal_workflow = {"workflow_id": workflow_id}
        return not getattr(run, "_is_replaying", False)
    return not (record.name.startswith(_CORE) and _LATE_ANSWER in message)


class _Formatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = logging.makeLogRecord(record.__dict__)
        attempt = getattr(record, "temporal_activity", None)
        info = attempt or getattr(record, "temporal_workflow", None)
        error = record.exc_info and record.exc_info[1]
        message = record.getMessage()
        if attempt and isinstance(error, ApplicationError):
            message = f"{attempt['activity_type']} failed: {error}"
            line.exc_info = line.exc_text = None
        elif message.startswith(_UNREADABLE_SIGNAL):
            message = f"Ignored an unreadable signal: {error and error.__cause__}"
            line.levelname = "WARNING"
            line.exc_info = line.exc_text = None
        elif record.name.startswith(_CORE):
            # The core adds all it knows, which can be pages; the error comes first.
            message = shorten(message, width=400, placeholder=" ...")
        line.msg = printable(f"{info['workflow_id']}: {message}" if info else message)
        line.args = None
        # A traceback has lines of its own, and may quote what a stranger wrote.
        return "\n".join(map(printable, super().format(line).split("\n")))
