"""Hosts the order workflow and its activities: `uv run worker.py`."""

import argparse
import asyncio
import fcntl
import ipaddress
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from order_fulfillment.cli import ArgumentParser, CommandError, connect, run, task_queue

if TYPE_CHECKING:
    from temporalio.client import Client
    from temporalio.worker import Worker

STOP_SECONDS = 9
ACTIVITY_STOP_SECONDS = 5
PID_FILE_STAYS_SECONDS = 0.2

logger = logging.getLogger(__name__)


async def work(pid_file: Path, metrics_address: str | None) -> None:
    """Serve orders until SIGTERM or SIGINT.

    Raises:
        CommandError: when there is no server, or another worker holds the PID file or the
            address of the metrics.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # Imported only now: it takes a while, in which a signal may come.
    from order_fulfillment.logs import set_up_logs

    client = await connect(set_up_logs(metrics_address))
    worker = create_worker(client, task_queue())
    with held(pid_file):
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as way_out, worker:
                logger.info(
                    "Worker %d is polling task queue %r of namespace %r at %s",
                    os.getpid(),
                    worker.task_queue,
                    client.namespace,
                    client.service_client.config.target_host,
                )
                await stop.wait()
                # With a server that gives no answer, the SDK would take half a minute to stop.
                way_out.reschedule(asyncio.get_running_loop().time() + STOP_SECONDS)
        # Who stops us with `kill "$(cat worker.pid)"; wait "$(cat worker.pid)"` reads it twice.
        await asyncio.sleep(PID_FILE_STAYS_SECONDS)


def create_worker(client: "Client", task_queue: str) -> "Worker":
    """The worker of this sample; the tests run the same one."""
    from temporalio.worker import PollerBehaviorAutoscaling

    from order_fulfillment.activities import deliver_order, process_payment, reserve_inventory
    from order_fulfillment.draining import DrainingWorker
    from order_fulfillment.interceptor import SignalGuard
    from order_fulfillment.workflow import OrderWorkflow

    return DrainingWorker(
        client,
        task_queue=task_queue,
        workflows=[OrderWorkflow],
        activities=[process_payment, reserve_inventory, deliver_order],
        interceptors=[SignalGuard()],
        # Time for running activities to finish after SIGTERM.
        graceful_shutdown_timeout=timedelta(seconds=ACTIVITY_STOP_SECONDS),
        # An order's next task goes to the worker that has the order in its cache. When that
        # worker has died, Temporal waits this long before it asks another one. A worker that
        # is behind by more replays its orders, which costs it time: then start another.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
        # The default of five pollers each lets a burst of new orders starve.
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
    )


@contextmanager
def held(pid_file: Path) -> Iterator[None]:
    """Keep this process's ID in a file that no other worker can take meanwhile."""
    try:
        file = _take(pid_file)
    except OSError as error:
        raise CommandError(
            f"cannot write {str(pid_file)!r}: {error.strerror or error}; name another --pid-file"
        ) from None
    with file:
        try:
            yield
        finally:
            # A file that cannot be removed stops nobody, once the lock is gone.
            with suppress(OSError):
                if _is_at(file, pid_file):
                    pid_file.unlink()


def _take(pid_file: Path) -> TextIO:
    """Lock the file and write the ID to it; the lock, unlike the ID, cannot outlive us."""
    while True:
        file = pid_file.open("a+", errors="replace")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(20).strip()
            raise CommandError(
                f"{str(pid_file)!r} is held by "
                f"{f'worker {owner}' if owner.isdecimal() else 'another worker'}; "
                "stop that worker, or give this one a --pid-file of its own"
            ) from None
        # Its last owner may have removed the file just before we locked it.
        if _is_at(file, pid_file):
            file.truncate(0)
            print(os.getpid(), file=file, flush=True)
            return file
        file.close()


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def main() -> None:
    """Read the command line and serve orders."""
    parser = ArgumentParser(description="Host the order workflow and its activities.")
    parser.add_argument(
        "--pid-file",
        metavar="PATH",
        type=Path,
        default=Path("worker.pid"),
        help="where to keep the worker's process ID (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics-address",
        metavar="HOST:PORT",
        type=_ip_address_and_port,
        help="where Prometheus finds the SDK's metrics, such as 127.0.0.1:9464 (default: nowhere)",
    )
    arguments = parser.parse_args()
    run(
        work(arguments.pid_file, arguments.metrics_address),
        interrupted="orders wait for the next worker",
    )


def _ip_address_and_port(argument: str) -> str:
    host, _, port = argument.rpartition(":")
    try:
        # The SDK resolves no host names.
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
        if not 0 < int(port) < 65536:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{argument!r} is not an IP address and a port, such as 127.0.0.1:9464"
        ) from None
    return f"[{address}]:{int(port)}" if address.version == 6 else f"{address}:{int(port)}"


if __name__ == "__main__":
    main()
