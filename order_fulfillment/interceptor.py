"""Keeps malformed signals away from the order."""

from temporalio import workflow
from temporalio.worker import (
    HandleSignalInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from order_fulfillment.shared import ApprovalDecision


class SignalGuard(Interceptor):
    """Drops signals that do not carry exactly one decision.

    With no argument or with two the SDK ignores the handler's type hints, and the call that
    follows would fail the workflow task for ever.
    """

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor]:
        """Called by the SDK for every workflow it runs."""
        return _SignalGuardInbound


class _SignalGuardInbound(WorkflowInboundInterceptor):
    async def handle_signal(self, input: HandleSignalInput) -> None:
        if [type(argument) for argument in input.args] == [ApprovalDecision]:
            await super().handle_signal(input)
        else:
            workflow.logger.warning(
                "Ignored a malformed signal %r: it takes one ApprovalDecision", input.signal
            )
