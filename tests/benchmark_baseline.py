"""The floor: the barest workflow that does the Temporal work of one order, and its worker."""

import asyncio
import os
from datetime import timedelta

from temporalio import activity, workflow


@activity.defn
async def step(number: int) -> int:
    return number


@workflow.defn
class FloorWorkflow:
    def __init__(self) -> None:
        self._approved = False

    @workflow.run
    async def run(self, number: int) -> int:
        await self._step(number)
        await self._step(number)
        await workflow.wait_condition(lambda: self._approved, timeout=30)
        return await self._step(number)

    async def _step(self, number: int) -> int:
        return await workflow.execute_activity(
            step, number, start_to_close_timeout=timedelta(seconds=5)
        )

    @workflow.signal
    def approve_order(self, approved: bool) -> None:
        self._approved = approved


async def work() -> None:
    """Serve with the pollers, the sandbox and the log level of the real worker."""
    from temporalio.worker import PollerBehaviorAutoscaling, Worker

    from order_fulfillment.support.command_line import print_message
    from order_fulfillment.support.connection import connect
    from order_fulfillment.support.telemetry import set_up_telemetry

    async with Worker(
        await connect(set_up_telemetry(None)),
        task_queue=os.environ["TEMPORAL_TASK_QUEUE"],
        workflows=[FloorWorkflow],
        activities=[step],
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
    ):
        print_message("The floor is polling here.")
        await asyncio.Event().wait()


if __name__ == "__main__":
    # The sandbox loads a workflow of `__main__` in a way of its own, unlike the real one.
    from tests import benchmark_baseline  # noqa: PLW0406

    asyncio.run(benchmark_baseline.work())
