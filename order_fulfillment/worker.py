"""Hosts the order workflow and its activities: `uv run worker.py`."""

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import PollerBehaviorAutoscaling, Worker, WorkerDeploymentConfig

from order_fulfillment.activities import OrderActivities
from order_fulfillment.services import ShopServices
from order_fulfillment.shared import TASK_QUEUE
from order_fulfillment.support.command_line import ArgumentParser, run
from order_fulfillment.support.connection import connect, queue_name
from order_fulfillment.support.pid_file import held
from order_fulfillment.support.signal_guard import SignalGuard
from order_fulfillment.support.telemetry import set_up_telemetry
from order_fulfillment.workflow import OrderWorkflow

BOOKS = Path(__file__).with_name("shop.db")
ACTIVITY_SECONDS = 5
logger = logging.getLogger(__name__)


def create_worker(
    client: Client, task_queue: str, services: ShopServices, version: str | None = None
) -> Worker:
    """A worker asks Temporal for tasks, and runs the workflow and the activities they name."""
    steps = OrderActivities(services)
    return Worker(
        client,
        # Starters put orders on this queue; any number of workers take them from it.
        task_queue=task_queue,
        workflows=[OrderWorkflow],
        # They are coroutines, which need no executor; the services have a thread of their own.
        activities=[steps.process_payment, steps.reserve_inventory, steps.deliver_order],
        # Python runs one thread at a time, so a few are enough for the code of all workflows. The
        # default, one for each workflow task at a time, costs six percent more CPU.
        workflow_task_executor=ThreadPoolExecutor(4),
        # Drops a signal without an argument, say from the Web UI, which would stall the order.
        interceptors=[SignalGuard()],
        graceful_shutdown_timeout=timedelta(seconds=ACTIVITY_SECONDS),  # For running activities.
        # An order's next task goes to the worker that has the order in its cache. When that one has
        # died, another is asked after this time (by default ten seconds). Less time costs replays.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=5),
        # With the default of five pollers each, the first tasks of a burst of orders wait.
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
        # Each order ends on the version on which it began.
        deployment_config=WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(deployment_name=task_queue, build_id=version),
            use_worker_versioning=True,
            default_versioning_behavior=VersioningBehavior.PINNED,
        )
        if version
        else None,
    )


async def work(pid_file: Path, shop_db: Path, metrics: str | None, version: str | None) -> None:
    """Serve orders until told to stop by SIGTERM, by Ctrl-C, or because the terminal closes."""
    client = await connect(set_up_telemetry(metrics))  # Reads TEMPORAL_ADDRESS and so on.
    worker = create_worker(client, queue_name(default=TASK_QUEUE), ShopServices(shop_db), version)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # As `nohup` does with SIGHUP.
            loop.add_signal_handler(number, stop.set)  # On Windows, use WSL.
    with held(pid_file), suppress(TimeoutError):
        async with asyncio.timeout(None) as deadline, worker:
            where = client.namespace, client.service_client.config.target_host
            logger.info("Worker is polling %r of namespace %r at %s", worker.task_queue, *where)
            await stop.wait()
            # Two seconds more for their results. Without this TimeoutError, a server that gives no
            # answer would hold up the SDK's shutdown for half a minute.
            deadline.reschedule(loop.time() + ACTIVITY_SECONDS + 2)


def main() -> None:
    """Read the command line and serve orders."""
    parser = ArgumentParser(description="Host the order workflow and its activities.")
    id_help = "where to keep the process ID, for `kill` (default: %(default)s)"
    parser.add_argument("--pid-file", metavar="PATH", type=Path, default="worker.pid", help=id_help)
    books_help = "where the services keep their books (default: shop.db beside this script)"
    parser.add_argument("--shop-db", metavar="PATH", type=Path, default=BOOKS, help=books_help)
    metrics_help = "where Prometheus finds metrics, such as 127.0.0.1:9464 (default: nowhere)"
    parser.add_argument("--metrics-address", dest="metrics", metavar="IP:PORT", help=metrics_help)
    parser.add_argument("--version", metavar="BUILD_ID", help="serve only this version's orders")
    arguments = parser.parse_args()
    if arguments.version == "":
        parser.error("--version is empty")
    run(work(**vars(arguments)), interrupted="orders wait for the next worker")


if __name__ == "__main__":
    main()
