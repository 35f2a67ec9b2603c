"""What an operator sees of the worker's metrics."""

import asyncio
import re
import socket
from urllib.request import urlopen

import pytest
from temporalio.client import Client

from order_fulfillment.shared import OrderStatus
from tests.conftest import Shop, free_port, one_line
from tests.history import place, until_status


async def test_the_worker_serves_the_metrics_that_an_operator_watches(
    shop: Shop, dev_server: Client
) -> None:
    address = f"127.0.0.1:{free_port()}"
    order = await place(dev_server, shop.task_queue, outage_attempts=1)

    with shop.worker("--metrics-address", address):
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
        with await asyncio.to_thread(urlopen, f"http://{address}/metrics") as answer:
            metrics = answer.read().decode()

    assert "\ntemporal_workflow_task_schedule_to_start_latency_bucket{" in metrics
    failed = r'^temporal_activity_execution_failed\{activity_type="reserve_inventory".* 1$'
    assert re.search(failed, metrics, re.MULTILINE)


@pytest.mark.parametrize("address", ["in use", "9464"])
def test_an_address_that_cannot_be_served_is_named_in_one_line(shop: Shop, address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        if address == "in use":
            address = f"127.0.0.1:{server.getsockname()[1]}"

        worker = shop.run("worker.py", "--metrics-address", address)

    assert worker.returncode == 1
    assert one_line(worker.stderr).startswith(f"error: cannot serve metrics at {address}: ")
