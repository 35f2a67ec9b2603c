"""What the sandbox keeps apart, and what it shares between orders."""

from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import SandboxImportNotificationPolicy

from order_fulfillment.shared import ApprovalDecision, OrderStatus
from order_fulfillment.workflow import OrderWorkflow
from tests.history import ORDER, worker_with


async def test_an_order_loads_nothing_into_the_sandbox_by_accident(
    dev_server: Client, recwarn: pytest.WarningsRecorder
) -> None:
    strict = SandboxRestrictions.default.with_import_notification_policy(
        SandboxImportNotificationPolicy.WARN_ON_UNINTENTIONAL_PASSTHROUGH
        | SandboxImportNotificationPolicy.WARN_ON_DYNAMIC_IMPORT
    )
    async with worker_with(dev_server, "strict-sandbox", runner=SandboxedWorkflowRunner(strict)):
        result = await dev_server.execute_workflow(
            OrderWorkflow.run,
            ORDER,
            id=f"order-{uuid4().hex[:8]}",
            task_queue="strict-sandbox",
            start_signal="approve_order",
            start_signal_args=[ApprovalDecision(approved=True)],
        )

    # What other tests in this process leave to the garbage collector is not the sandbox's.
    assert [
        str(warning.message) for warning in recwarn if warning.category is not ResourceWarning
    ] == []
    assert result.status == OrderStatus.FULFILLED
