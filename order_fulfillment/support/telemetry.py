"""The worker's log and metrics."""

import logging
import traceback
from pathlib import Path
from typing import Any, override

from temporalio import activity, runtime, workflow

from order_fulfillment.support.command_line import printable

PACKAGE = Path(__file__).parents[1]
LINE = "{asctime} {levelname} {temporal_workflow[workflow_id]}{temporal_activity[workflow_id]}"
LINE += " {temporal_activity[activity_type]} {message}"
NOTHING = dict.fromkeys(("workflow_id", "activity_type"), "")


def set_up_telemetry(metrics_address: str | None) -> runtime.Runtime:
    """Log to stderr, and return a runtime for the client; OSError for a wrong IP:PORT."""
    handler = logging.StreamHandler()
    defaults = {"temporal_workflow": NOTHING, "temporal_activity": NOTHING}
    handler.setFormatter(_Formatter(LINE, style="{", defaults=defaults))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # By default these append all they know to every line. The format above takes what people need.
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False
    # The SDK's Python part has told of a failing workflow task. Its Rust core repeats that.
    handler.addFilter(lambda record: 'stack_trace: "  File' not in record.getMessage())
    core = runtime.LogForwardingConfig(logger=logging.getLogger("temporalio.core"))
    logs = runtime.LoggingConfig(filter=runtime.LoggingConfig.default.filter, forwarding=core)
    metrics = runtime.PrometheusConfig(metrics_address) if metrics_address else None
    try:
        return runtime.Runtime(telemetry=runtime.TelemetryConfig(logging=logs, metrics=metrics))
    except ValueError as error:
        raise OSError(f"cannot serve metrics at {metrics_address}: {error}") from None


class _Formatter(logging.Formatter):
    """Makes one line of a record: Temporal retries what failed, and the log has each attempt."""

    @override
    def formatException(self, exc_info: Any) -> str:
        """Called for an error. Return it with its cause, and the way to it through our files."""
        error = exc_info[1]
        stack = [(Path(at.filename), at.lineno) for at in traceback.extract_tb(exc_info[2])]
        ours = [f"{file.name}:{line}" for file, line in stack if file.is_relative_to(PACKAGE)]
        cause = f": {error.__cause__}" if error.__cause__ else ""
        return f"{type(error).__name__}: {error}{cause} ({', '.join(ours)})"

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Called for a record, which may quote what a stranger wrote."""
        return printable(super().format(record).replace("\n", ": ", 1))
