"""Lets a worker finish what it has begun before it stops."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, override

if TYPE_CHECKING:
    from temporalio.worker import Worker

ACTIVITY_SECONDS = 5
"""How long a worker that was told to stop lets its activities run on."""

QUIET_SECONDS = 3
REPORT_SECONDS = 1
TICK_SECONDS = 0.01
# The workflow tasks of one workflow are less than this apart, unless an activity takes its time.
QUIET_TICKS = 25

logger = logging.getLogger(__name__)


class WorkflowTaskExecutor(ThreadPoolExecutor):
    """Runs a worker's workflow tasks, and sees when none comes any more."""

    had_task = False

    @override
    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.had_task = True
        return super().submit(fn, *args, **kwargs)

    async def quiet(self) -> None:
        """Wait until no workflow task has come for a while, `QUIET_SECONDS` at most."""
        quiet_ticks = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_SECONDS):
                # Ticks, because a busy machine may stop the whole process for a while.
                while quiet_ticks < QUIET_TICKS:
                    self.had_task = False
                    await asyncio.sleep(TICK_SECONDS)
                    quiet_ticks = 0 if self.had_task else quiet_ticks + 1


def stop_requested() -> asyncio.Event:
    """An event that is set by SIGTERM, by Ctrl-C and when the terminal closes."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # `nohup` ignores SIGHUP for a worker that is to outlive its terminal.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def serve(worker: "Worker", executor: WorkflowTaskExecutor, stop: asyncio.Event) -> None:
    """Run a worker until the event is set, and stop it within nine seconds.

    Args:
        worker: Uses the executor, and a graceful shutdown timeout of `ACTIVITY_SECONDS`.
        executor: Is shut down at the end.
        stop: Tells when to stop.
    """
    try:
        # With a server that gives no answer, the SDK would take half a minute to shut down.
        async with asyncio.timeout(None) as limit, worker:
            logger.info(
                "Worker %d is polling task queue %r of namespace %r at %s",
                os.getpid(),
                worker.task_queue,
                worker.client.namespace,
                worker.client.service_client.config.target_host,
            )
            await stop.wait()
            seconds = QUIET_SECONDS + ACTIVITY_SECONDS + REPORT_SECONDS
            limit.reschedule(asyncio.get_running_loop().time() + seconds)
            # When it shuts down, the SDK drops the workflow tasks that are on their way to it,
            # and Temporal hands each out again only after ten seconds: so let none be.
            await executor.quiet()
    except TimeoutError:
        if not limit.expired():
            raise
    finally:
        executor.shutdown(wait=False)
