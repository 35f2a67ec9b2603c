"""What the sandbox keeps apart, and what it shares between orders."""

import pytest
from temporalio.client import Client
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import SandboxImportNotificationPolicy

from tests.history import place, worker_with


async def test_an_order_loads_nothing_into_the_sandbox_by_accident(
    dev_server: Client, recwarn: pytest.WarningsRecorder
) -> None:
    strict = SandboxRestrictions.default.with_import_notification_policy(
        SandboxImportNotificationPolicy.WARN_ON_UNINTENTIONAL_PASSTHROUGH
        | SandboxImportNotificationPolicy.WARN_ON_DYNAMIC_IMPORT
    )
    async with worker_with(dev_server, "strict-sandbox", runner=SandboxedWorkflowRunner(strict)):
        order = await place(dev_server, "strict-sandbox", approval_above_cents=100_00)
        await order.result()

    # What other tests in this process leave to the garbage collector is not the sandbox's.
    imports = [each for each in recwarn if each.category is not ResourceWarning]
    assert [str(each.message) for each in imports] == []
