"""Keeps malformed signals away from a workflow."""

from temporalio import workflow
from temporalio.worker import (
    HandleSignalInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)


class SignalGuard(Interceptor):
    """For workflows whose signals all take one argument: drops signals with none or with several.

    For those the SDK ignores the handler's type hints, and the call that follows would fail the
    workflow task again and again. The SDK also passes a lone `null` to a handler, whatever its
    type; it is dropped, too. Other arguments of a wrong type the SDK drops by itself.
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
            workflow.logger.warning("Ignored a signal %r that has not one argument", input.signal)
