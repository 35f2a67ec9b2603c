"""Fails a workflow that was started with an input it does not take.

By default the SDK fails the workflow task again and again, until the code takes such an input. That
is right while the code is wrong. But an input that somebody mistyped stays wrong, and its workflow
could neither end nor be canceled.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import DataConverter, DefaultPayloadConverter
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)


def checking_input(client: Client, input_type: type) -> Client:
    """The same client, for a worker whose workflows take one argument of this type."""
    config = client.config()
    config["data_converter"] = input_converter(input_type, config["data_converter"])
    return Client(**config)


def input_converter(
    input_type: type, converter: DataConverter = DataConverter.default
) -> DataConverter:
    """The same converter, for workflows that take one argument of this type."""

    class InputConverter(DefaultPayloadConverter):
        def from_payloads(
            self, payloads: Sequence[Payload], type_hints: list[type] | None = None
        ) -> list[Any]:
            if type_hints != [input_type]:
                return super().from_payloads(payloads, type_hints)
            try:
                values = super().from_payloads(payloads, type_hints)
            except KeyError:  # An unknown encoding: this worker may lack a codec.
                raise
            except Exception as error:  # noqa: BLE001 (whatever is wrong with it)
                raise _invalid_input(_reasons(error)) from None
            if not isinstance(values[0], input_type):  # The SDK lets null pass.
                raise _invalid_input(f"{values[0]!r:.100} is not of type {input_type.__name__}")
            return values

    return replace(converter, payload_converter_class=InputConverter)


class InputGuard(Interceptor):
    """For workflows that take one argument: fails those that were started with none or several.

    For those the SDK does not look at the type.
    """

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor]:
        """Called by the SDK for every workflow it runs."""
        return _InputGuardInbound


class _InputGuardInbound(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        if len(input.args) != 1:
            raise _invalid_input(f"it takes one input, and not {len(input.args)}")
        return await super().execute_workflow(input)


def _invalid_input(reason: str) -> ApplicationError:
    return ApplicationError(reason, type="InvalidInputError", non_retryable=True)


def _reasons(error: BaseException | None) -> str:
    """What an error says, and what the errors say that caused it."""
    reasons = []
    while error:
        reasons.append(f"{error!s:.200}")
        error = error.__cause__ or error.__context__
    return ": ".join(reasons)
