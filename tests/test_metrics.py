"""What an operator sees of the worker's metrics."""

import asyncio
import re
import socket
from urllib.request import urlopen

import psutil
import pytest
from temporalio.client import Client

from order_fulfillment.shared import OrderStatus, Simulation
from tests.conftest import Shop, free_port, one_line
from tests.history import place, until_status


def listening(process_id: int) -> list[str]:
    """The addresses on which a process accepts connections."""
    return [
        f"{connection.laddr.ip}:{connection.laddr.port}"
        for connection in psutil.Process(process_id).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]


async def test_the_worker_serves_the_metrics_that_an_operator_watches(
    shop: Shop, dev_server: Client
) -> None:
    address = f"127.0.0.1:{free_port()}"
    order = await place(dev_server, shop.task_queue, simulation=Simulation(1))

    with shop.worker("--metrics-address", address) as worker:
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
        with await asyncio.to_thread(urlopen, f"http://{address}/metrics") as answer:
            metrics = answer.read().decode()
        assert listening(worker.process.pid) == [address]

    assert re.search(
        r"^temporal_workflow_task_schedule_to_start_latency_bucket\{", metrics, re.MULTILINE
    )
    assert re.search(
        r'^temporal_activity_execution_failed\{activity_type="reserve_inventory".* 1$',
        metrics,
        re.MULTILINE,
    )


def test_by_default_the_worker_serves_no_metrics(open_shop: Shop) -> None:
    worker = int((open_shop.folder / "worker.pid").read_text())

    assert listening(worker) == []


@pytest.mark.parametrize("address", ["in use", "9464", "localhost:9464"])
def test_an_address_that_cannot_be_served_is_named_in_one_line(shop: Shop, address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        if address == "in use":
            address = f"127.0.0.1:{server.getsockname()[1]}"

        worker = shop.run("worker.py", "--metrics-address", address)

    assert worker.returncode == 1
    assert one_line(worker.stderr).startswith(f"error: cannot serve metrics at {address}: ")
