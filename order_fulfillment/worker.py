"""Hosts the order workflow and its activities: `uv run worker.py`."""

import asyncio
import logging
import signal
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import PollerBehaviorAutoscaling, Worker, WorkerDeploymentConfig

from order_fulfillment.activities import OrderActivities
from order_fulfillment.services import ShopServices
from order_fulfillment.shared import TASK_QUEUE
from order_fulfillment.support import command_line as cli
from order_fulfillment.support.connection import connect
from order_fulfillment.support.pid_file import hold_pid_file
from order_fulfillment.support.signal_guard import SignalGuard
from order_fulfillment.support.telemetry import set_up_telemetry
from order_fulfillment.workflow import OrderWorkflow

BOOKS = Path(__file__).with_name("shop.db")
THREADS = 50
logger = logging.getLogger(__name__)


def create_worker(
    client: Client, task_queue: str, services: ShopServices, threads: Executor, build_id: str | None
) -> Worker:
    """A worker asks Temporal for tasks, and runs the workflow and the activities they name."""
    steps = OrderActivities(services)
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[OrderWorkflow],
        activities=[steps.process_payment, steps.reserve_inventory, steps.deliver_order],
        # Plain functions run in threads. If the worker took more activities than it has threads, the
        # others would time out while they wait for a thread.
        activity_executor=threads,
        max_concurrent_activities=THREADS,
        # Each workflow task has a thread, too. Python runs one thread at a time, so the default of a
        # hundred only slows all of them down.
        max_concurrent_workflow_tasks=32,
        # Without it, a signal that has no argument, say from the Web UI, would stall its order.
        interceptors=[SignalGuard()],
        # Running activities get this time to finish when the worker is stopped.
        graceful_shutdown_timeout=timedelta(seconds=5),
        # An order's tasks go to the worker that has the order in its cache. If it has crashed, they
        # wait this long, until any worker may take them. With less, a busy worker would lose tasks.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=5),
        # In a burst of orders, tasks would wait for the five pollers that are the default.
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
        # With a build ID, each order ends on the version of the code on which it began.
        deployment_config=WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(deployment_name=task_queue, build_id=build_id),
            use_worker_versioning=True,
            default_versioning_behavior=VersioningBehavior.PINNED,
        )
        if build_id
        else None,
    )


async def work(
    pid_file: Path, shop_db: Path, metrics_address: str | None, build_id: str | None
) -> None:
    """Serve orders until SIGTERM or Ctrl-C."""
    client = await connect(set_up_telemetry(metrics_address))
    async with hold_pid_file(pid_file):
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        with closing(ShopServices(shop_db)) as services, ThreadPoolExecutor(THREADS) as threads:
            async with create_worker(client, TASK_QUEUE, services, threads, build_id):
                where = client.namespace, client.service_client.config.target_host
                logger.info("Worker is polling %r of namespace %r at %s", TASK_QUEUE, *where)
                await stop.wait()


def main() -> None:
    """Read the command line and serve orders."""
    parser = cli.ArgumentParser(description="Host the order workflow and its activities.")
    add = parser.add_argument
    pid_help = "where to keep the process ID, for `kill` (default: %(default)s)"
    add("--pid-file", metavar="PATH", type=Path, default="worker.pid", help=pid_help)
    books_help = "where the services keep their books (default: shop.db beside this script)"
    add("--shop-db", metavar="PATH", type=Path, default=BOOKS, help=books_help)
    metrics_help = "where Prometheus finds metrics, such as 127.0.0.1:9464 (default: nowhere)"
    add("--metrics-address", metavar="IP:PORT", help=metrics_help)
    add("--build-id", metavar="ID", help="serve only orders of this version (docs/operations.md)")
    arguments = parser.parse_args()
    if arguments.build_id == "":
        parser.error("--build-id is empty")
    cli.run(work(**vars(arguments)), interrupted="orders wait for the next worker")


if __name__ == "__main__":
    main()
