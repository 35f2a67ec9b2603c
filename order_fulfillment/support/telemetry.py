"""The worker's log and metrics: a line for what is expected to happen, a traceback for the rest."""

import logging
import traceback
from pathlib import Path

from temporalio import activity, runtime, workflow
from temporalio.exceptions import ApplicationError

from order_fulfillment.support.command_line import printable


def set_up_telemetry(metrics_address: str | None) -> runtime.Runtime:
    """Log to stderr, and return a runtime for the client; OSError for a wrong IP:PORT."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # By default these append all they know to every line. The formatter names the order.
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False
    core_logger = logging.getLogger("temporalio.core")
    core_logger.addFilter(_is_news)
    core = runtime.LogForwardingConfig(logger=core_logger)
    logs = runtime.LoggingConfig(filter=runtime.LoggingConfig.default.filter, forwarding=core)
    metrics = runtime.PrometheusConfig(metrics_address) if metrics_address else None
    try:
        return runtime.Runtime(telemetry=runtime.TelemetryConfig(logging=logs, metrics=metrics))
    except ValueError as error:
        raise OSError(f"cannot serve metrics at {metrics_address}: {error}") from None


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the SDK's Rust core tells more than the SDK's Python part has told."""
    line = record.getMessage()
    return "Failing workflow task" not in line or 'stack_trace: ""' in line


class _Formatter(logging.Formatter):
    """Shows a bug's traceback once: the server tries a failed workflow task again and again."""

    def __init__(self, format: str) -> None:
        super().__init__(format)
        self._shown = set[str]()

    def format(self, record: logging.LogRecord) -> str:
        line = logging.makeLogRecord(record.__dict__)
        line.msg, line.args = record.getMessage(), None
        step: dict[str, object] = record.__dict__.get("temporal_activity", {})
        if error := record.exc_info and record.exc_info[1]:
            what = f"{step['activity_type']} failed" if step else line.msg
            line.msg, line.exc_info = f"{what}: {error}", None
            if not isinstance(error, ApplicationError):
                line.msg = f"{what}: {type(error).__name__}: {error}"
                if error.__cause__:  # For example the field that cannot be decoded.
                    line.msg += f": {error.__cause__}"
                frames = traceback.extract_tb(error.__traceback__)
                own = [frame for frame in frames if "temporalio" not in Path(frame.filename).parts]
                text = "".join(["Traceback:\n", *traceback.format_list(own)]).rstrip()
                line.exc_text = text if own and text not in self._shown else None
                self._shown.add(text)
        if of := step or record.__dict__.get("temporal_workflow"):
            line.msg = f"{of['workflow_id']}: {line.msg}"
        line.msg = printable(line.msg)
        # A traceback has lines of its own, and may quote what a stranger wrote.
        return "\n".join(map(printable, super().format(line).split("\n")))
