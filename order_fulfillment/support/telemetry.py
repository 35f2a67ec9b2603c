"""The worker's log and metrics: a line for what is expected to happen, a traceback for the rest."""

import logging

from temporalio import activity, runtime, workflow
from temporalio.exceptions import ApplicationError

from order_fulfillment.support.command_line import printable


def set_up_telemetry(metrics_address: str | None) -> runtime.Runtime:
    """Log to stderr, and return a runtime for the client; OSError for a wrong IP:PORT."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # The formatter names the workflow; these would append all they know to every line.
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False
    core = runtime.LogForwardingConfig(logger=logging.getLogger("temporalio.core"))
    logs = runtime.LoggingConfig(filter=runtime.LoggingConfig.default.filter, forwarding=core)
    metrics = runtime.PrometheusConfig(metrics_address) if metrics_address else None
    try:
        return runtime.Runtime(telemetry=runtime.TelemetryConfig(logging=logs, metrics=metrics))
    except ValueError as error:
        raise OSError(f"cannot serve metrics at {metrics_address}: {error}") from None


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = logging.makeLogRecord(record.__dict__)
        line.msg, line.args = record.getMessage(), None
        step: dict[str, object] = record.__dict__.get("temporal_activity", {})
        error = record.exc_info and record.exc_info[1]
        if step and isinstance(error, ApplicationError):
            line.msg, line.exc_info = f"{step['activity_type']} failed: {error}", None
        if of := step or record.__dict__.get("temporal_workflow"):
            line.msg = f"{of['workflow_id']}: {line.msg}"
        line.msg = printable(line.msg)
        # A traceback has lines of its own, and may quote what a stranger wrote.
        return "\n".join(map(printable, super().format(line).split("\n")))
