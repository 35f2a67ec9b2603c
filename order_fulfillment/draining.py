"""Lets a worker finish what it has begun before it shuts down."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, override

from temporalio.worker import (
    CustomSlotSupplier,
    FixedSizeSlotSupplier,
    SlotMarkUsedContext,
    SlotPermit,
    SlotReleaseContext,
    SlotReserveContext,
    Worker,
    WorkerTuner,
)

# As many tasks at a time as the SDK allows by default.
SLOTS = 100
# An order's workflow tasks are less than this apart, unless an activity takes its time.
IDLE_SECONDS = 0.25
DRAIN_SECONDS = 2


class DrainingWorker(Worker):
    """A worker that finishes the workflow tasks at hand before it shuts down.

    The SDK drops the workflow tasks that are on their way to it when it shuts down, and
    Temporal hands each out again only after the workflow task timeout of ten seconds.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Takes what `Worker` takes, except for limits on concurrent tasks."""
        self._workflow_task_slots = _WorkflowTaskSlots()
        super().__init__(
            *arguments,
            tuner=WorkerTuner.create_composite(
                workflow_supplier=self._workflow_task_slots,
                activity_supplier=FixedSizeSlotSupplier(SLOTS),
                local_activity_supplier=FixedSizeSlotSupplier(SLOTS),
                nexus_supplier=FixedSizeSlotSupplier(SLOTS),
            ),
            # With a tuner the SDK would start up to 500 threads, of which Python runs one.
            workflow_task_executor=ThreadPoolExecutor(16),
            **options,
        )

    @override
    async def shutdown(self) -> None:
        """Take no new orders, serve the others until there is nothing to do, and shut down."""
        await self._workflow_task_slots.drain()
        await super().shutdown()


class _WorkflowTaskSlots(CustomSlotSupplier):
    """Slots for workflow tasks: a poll takes one, and keeps it for the task that it brings.

    The SDK calls all but `reserve_slot` from threads of its own.
    """

    def __init__(self) -> None:
        self._draining = False
        self._reserved = set[SlotPermit]()
        self._used = set[SlotPermit]()
        self._last_used = 0.0

    async def drain(self) -> None:
        """Wait until no task is on its way, or for `DRAIN_SECONDS`."""
        self._draining = True
        started = monotonic()
        while (now := monotonic()) < started + DRAIN_SECONDS:
            busy = now if self._used else max(started, self._last_used)
            if now >= busy + IDLE_SECONDS:
                break
            await asyncio.sleep(0.01)

    @override
    async def reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit:
        # A sticky poll serves the orders in this worker's cache, any other poll new ones, which
        # other workers can take.
        while (self._draining and not ctx.is_sticky) or len(self._reserved) >= SLOTS:
            await asyncio.sleep(0.01)
        permit = SlotPermit()
        self._reserved.add(permit)
        return permit

    @override
    def try_reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit | None:
        return None  # The SDK asks only where a worker starts workflows itself.

    @override
    def mark_slot_used(self, ctx: SlotMarkUsedContext) -> None:
        self._used.add(ctx.permit)

    @override
    def release_slot(self, ctx: SlotReleaseContext) -> None:
        self._reserved.remove(ctx.permit)
        if ctx.permit in self._used:
            self._last_used = monotonic()
            self._used.remove(ctx.permit)
