"""The worker's log and metrics."""

import logging
import traceback
from typing import Any, override

from temporalio import activity, runtime, workflow

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
    """Keeps a failure short: Temporal retries what failed, and the log has each attempt."""

    @override
    def formatException(self, exc_info: Any) -> str:
        """Called for an error. It shows the place in our code, the error and its causes."""
        error = exc_info[1]
        stack = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in stack if "/site-packages/" not in frame.filename]
        lines = traceback.format_list(own[-1:])
        while error:
            lines += traceback.format_exception_only(error)
            error = error.__cause__
        return "".join(lines).rstrip()
