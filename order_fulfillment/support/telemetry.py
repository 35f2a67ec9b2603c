"""The worker's log and metrics: a line for what is expected to happen, a traceback for the rest."""

import logging
import re
import traceback

from temporalio import activity, runtime, workflow
from temporalio.exceptions import ApplicationError

from order_fulfillment.support.command_line import printable


def set_up_telemetry(metrics_address: str | None) -> runtime.Runtime:
    """Log to stderr, and return a runtime for the client; OSError for a wrong IP:PORT."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # By default these append all they know to every line. The formatter names the workflow.
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False
    # The SDK's Python part has told of a failing workflow task. Its Rust core repeats that.
    repeated = re.compile(r'Failing workflow task.*stack_trace: "[^"]')
    handler.addFilter(lambda record: not repeated.search(record.getMessage()))
    core = runtime.LogForwardingConfig(logger=logging.getLogger("temporalio.core"))
    logs = runtime.LoggingConfig(filter=runtime.LoggingConfig.default.filter, forwarding=core)
    metrics = runtime.PrometheusConfig(metrics_address) if metrics_address else None
    try:
        return runtime.Runtime(telemetry=runtime.TelemetryConfig(logging=logs, metrics=metrics))
    except ValueError as error:
        raise OSError(f"cannot serve metrics at {metrics_address}: {error}") from None


class _Formatter(logging.Formatter):
    """Names the workflow in each line, and shows a traceback once: Temporal retries what failed."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = set[str]()

    def format(self, record: logging.LogRecord) -> str:
        step: dict[str, str] = record.__dict__.get("temporal_activity", {})
        info: dict[str, str] = step or record.__dict__.get("temporal_workflow", {})
        where = f"{info['workflow_id']}: " if info else ""
        line = f"{self.formatTime(record)} {record.levelname} {where}{record.getMessage()}"
        if step:
            line = line.replace("Completing activity as failed", f"{step['activity_type']} failed")
        error, frames = record.exc_info and record.exc_info[1], ""
        if isinstance(error, ApplicationError):
            line += f": {error}"
        elif error:
            # The cause is, for example, the field that cannot be decoded.
            cause = f": {error.__cause__}" if error.__cause__ else ""
            line += f": {type(error).__name__}: {error}{cause}"
            stack = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in stack if "/site-packages/temporalio/" not in frame.filename]
            frames = "".join(traceback.format_list(own)).rstrip()
        lines = [line, *frames.split("\n")] if frames and frames not in self._shown else [line]
        self._shown.add(frames)
        # A line may quote what a stranger wrote.
        return "\n".join(map(printable, lines))
