"""Keeps malformed signals away from a workflow."""

from temporalio import worker, workflow


class SignalGuard(worker.Interceptor):
    """Drops a signal that has no argument, null, or several, for handlers that take one.

    Otherwise an error in the handler fails the workflow task for ever. A default in the handler
    would not help against several arguments, for which the SDK ignores its type hints.
    """

    def workflow_interceptor_class(
        self, input: worker.WorkflowInterceptorClassInput
    ) -> type[worker.WorkflowInboundInterceptor]:
        """Called by the SDK for every workflow it runs."""
        return _SignalGuardInbound


class _SignalGuardInbound(worker.WorkflowInboundInterceptor):
    async def handle_signal(self, input: worker.HandleSignalInput) -> None:
        if len(input.args) == 1 and input.args[0] is not None:
            await super().handle_signal(input)
        else:
            workflow.logger.warning("Ignored a signal %r: it needs one argument", input.signal)
