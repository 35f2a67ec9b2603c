"""Lets a worker finish what it has begun before it shuts down."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, override

from temporalio.worker import Worker

DRAIN_SECONDS = 4.0
TICK_SECONDS = 0.01
# An order's workflow tasks are less than this apart, unless an activity takes its time.
QUIET_TICKS = 25


class DrainingWorker(Worker):
    """A worker that waits for a quiet moment before it shuts down.

    The SDK drops the workflow tasks that are on their way to it when it shuts down, and
    Temporal hands each out again only after the workflow task timeout of ten seconds.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Takes what `Worker` takes, except for the executor of workflow tasks."""
        # As many threads as the SDK runs workflow tasks at a time.
        self._executor = _WorkflowTaskExecutor(100)
        super().__init__(*arguments, workflow_task_executor=self._executor, **options)

    @override
    async def shutdown(self) -> None:
        """Wait until no workflow task has come for a while, and shut down.

        Waits `DRAIN_SECONDS` at most, so that orders without end cannot keep the worker.
        """
        quiet_ticks = 0
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    # Ticks, because a busy machine may stop the whole process for a while.
                    while quiet_ticks < QUIET_TICKS:
                        self._executor.had_task = False
                        await asyncio.sleep(TICK_SECONDS)
                        quiet_ticks = 0 if self._executor.had_task else quiet_ticks + 1
        finally:
            await super().shutdown()


class _WorkflowTaskExecutor(ThreadPoolExecutor):
    """Sees every workflow task: the SDK hands each one here, outside the sandbox."""

    had_task = False

    @override
    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.had_task = True
        return super().submit(fn, *args, **kwargs)
