"""What people are told while no worker runs, and that nothing is lost."""

import json
import time

from temporalio.client import Client

from order_fulfillment.shared import OrderStatus
from tests.conftest import Shop, one_line
from tests.history import create_worker, place, until_status
from tests.page import type_command


async def test_without_a_worker_nothing_is_lost_and_everyone_is_told(
    shop: Shop, dev_server: Client
) -> None:
    order_id, began = (await place(dev_server, shop.task_queue)).id, time.monotonic()
    asking = shop.start("signals.py", "status", order_id)
    approving = shop.start("signals.py", "approve", order_id, "--note", "Nobody home")
    waiting = shop.start("signals.py", "result", order_id)

    assert asking.wait() == 1
    assert time.monotonic() - began < 15
    assert approving.wait() == 0
    waiting.until_prints("no worker answers")
    assert waiting.returncode is None
    with shop.worker():
        assert waiting.wait() == 0

    assert (asking.stdout, approving.stdout) == ("", "")
    assert "no worker answers; start one with: uv run " in one_line(asking.stderr)
    assert "the decision is safe on the server" in one_line(approving.stderr)
    assert json.loads(waiting.stdout)["message"] == "approved: Nobody home"
    assert waiting.stderr.count("no worker answers") == 1


async def test_a_reset_order_without_a_worker_is_not_said_to_fail(
    shop: Shop, dev_server: Client
) -> None:
    order = await place(dev_server, shop.task_queue)
    async with create_worker(dev_server, shop.task_queue):
        await until_status(order, OrderStatus.AWAITING_APPROVAL)
    type_command(shop, "reset --workflow-id", order_id=order.id)

    assert "no worker answers" in one_line(shop.run("signals.py", "status", order.id).stderr)
