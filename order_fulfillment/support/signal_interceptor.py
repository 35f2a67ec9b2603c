"""Keeps signals with a wrong number of arguments away from the workflow."""

from temporalio import workflow
from temporalio.worker import (
    HandleSignalInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)


class SignalGuard(Interceptor):
    """Drops signals that do not carry exactly one argument, which all handlers here take.

    With none or with two the SDK ignores the handler's type hints, and the call that follows
    would fail the workflow task again and again. `null` it gives to any handler. (One argument
    of another wrong type it drops by itself.)
    """

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor]:
        """Called by the SDK for every workflow it runs."""
        return _SignalGuardInbound


class _SignalGuardInbound(WorkflowInboundInterceptor):
    async def handle_signal(self, input: HandleSignalInput) -> None:
        if len(input.args) == 1 and input.args[0] is not None:
            await super().handle_signal(input)
        else:
            workflow.logger.warning(
                "Ignored a malformed signal %r: it takes one argument", input.signal
            )
