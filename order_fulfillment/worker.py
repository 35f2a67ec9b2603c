"""Hosts the order workflow and its activities: `uv run worker.py`."""

import order_fulfillment.support.early_interrupt  # noqa: F401

# isort: split

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from order_fulfillment.shared import TASK_QUEUE, Order
from order_fulfillment.support import stopping
from order_fulfillment.support.command_line import ArgumentParser, ip_address_and_port, run
from order_fulfillment.support.pid_file import held

if TYPE_CHECKING:
    from temporalio.client import Client
    from temporalio.worker import Worker

    from order_fulfillment.services import ShopServices

BOOKS = Path(__file__).with_name("shop.db")


def create_worker(
    client: "Client",
    task_queue: str,
    services: "ShopServices",
    executor: stopping.WorkflowTaskExecutor | None = None,
) -> "Worker":
    """A worker asks Temporal for tasks, and runs the workflow and the activities they name."""
    from temporalio.worker import PollerBehaviorAutoscaling, Worker

    from order_fulfillment.activities import OrderActivities
    from order_fulfillment.support.signal_interceptor import SignalGuard
    from order_fulfillment.support.workflow_input import InputGuard, checking_input
    from order_fulfillment.workflow import OrderWorkflow

    steps = OrderActivities(services)
    return Worker(
        checking_input(client, Order),
        # Starters put orders on this queue; any number of workers take them from it.
        task_queue=task_queue,
        workflows=[OrderWorkflow],
        activities=[steps.process_payment, steps.reserve_inventory, steps.deliver_order],
        # Activities that are not `async def` run in these threads: one for each that the SDK runs
        # at a time by default. With fewer, the time an activity waits for a thread would count
        # against its timeout.
        activity_executor=ThreadPoolExecutor(100),
        interceptors=[InputGuard(), SignalGuard()],
        workflow_task_executor=executor,
        # Time for running activities to finish after SIGTERM.
        graceful_shutdown_timeout=timedelta(seconds=stopping.ACTIVITY_SECONDS),
        # An order's next task goes to the worker that has the order in its cache. When that
        # worker has died, Temporal waits this long before it asks another one (by default ten
        # seconds). A worker that is behind by more replays its orders, which costs it time.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
        # With the default of five pollers each, the first tasks of a burst of orders wait.
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
    )


async def work(pid_file: Path, metrics_address: str | None, shop_db: Path) -> None:
    """Serve orders until told to stop.

    Raises:
        CommandError: when there is no server, it refuses the task queue, another worker holds the
            PID file or the address of the metrics, or the services cannot keep their books.
    """
    stop = stopping.stop_requested()
    # The SDK is imported only now: it takes up to a second, in which a signal may come.
    from order_fulfillment.services import ShopServices
    from order_fulfillment.support.connection import check_task_queue, connect, task_queue
    from order_fulfillment.support.telemetry import set_up_telemetry

    client = await connect(set_up_telemetry(metrics_address))
    queue = task_queue(TASK_QUEUE)
    await check_task_queue(client, queue)
    with held(pid_file):
        executor = stopping.WorkflowTaskExecutor(max_workers=100)
        worker = create_worker(client, queue, ShopServices(shop_db), executor)
        await stopping.serve(worker, executor, stop)


def main() -> None:
    """Read the command line and serve orders."""
    parser = ArgumentParser(
        description="Host the order workflow and its activities. By default the process ID is kept "
        "in worker.pid, and the simulated services keep their books in shop.db beside this script."
    )
    parser.add_argument(
        "--pid-file", metavar="PATH", type=Path, default="worker.pid", help="for the process ID"
    )
    parser.add_argument("--shop-db", metavar="PATH", type=Path, default=BOOKS, help="for the books")
    parser.add_argument(
        "--metrics-address",
        metavar="HOST:PORT",
        type=ip_address_and_port,
        help="where Prometheus finds the SDK's metrics, such as 127.0.0.1:9464 (default: nowhere)",
    )
    arguments = parser.parse_args()
    run(
        work(arguments.pid_file, arguments.metrics_address, arguments.shop_db),
        interrupted="orders wait for the next worker",
    )


if __name__ == "__main__":
    main()
