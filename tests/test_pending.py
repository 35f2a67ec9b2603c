"""Listing the orders that wait, deciding about several at once, and seeing who decided."""

import json
import os
import pwd
import re
from uuid import uuid4

import pytest
from temporalio.client import Client

from order_fulfillment import orders
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop
from tests.history import ORDER, create_worker, events, place, until


def pending(shop: Shop, *arguments: str) -> list[list[str]]:
    """The lines of `signals.py pending`, by field."""
    listed = shop.run("signals.py", "pending", *arguments)
    assert listed.returncode == 0, listed.stderr
    return [line.split("\t") for line in listed.stdout.splitlines()]


async def until_waiting(client: Client, shop: Shop, number: int) -> None:
    async def all_wait() -> bool:
        return len([order async for order in orders.pending(client, shop.task_queue)]) == number

    await until(all_wait, f"{number} orders to wait")


async def test_a_crowd_is_listed_and_decided_about_even_if_nobody_reads_the_output(
    shop: Shop, dev_server: Client
) -> None:
    # A crowd is more than the server is asked about at a time.
    shop = shop.with_change("orders.py", "batched(running, 200)", "batched(running, 3)")
    with shop.worker():
        assert pending(shop) == []
        elsewhere = await place(dev_server, f"{shop.task_queue}-2")
        spoiled, first = f"spoiled-{uuid4()}", f"first-{uuid4()}"
        lines = [
            {"order_id": first, "customer_name": "Ada\tB."},
            {"order_id": spoiled, "items": [{"sku": "new", "unit_price_cents": 1}]},
            *({} for _ in range(4)),
        ]
        (shop.folder / "crowd.jsonl").write_text("\n".join(map(json.dumps, lines)))
        started = shop.run("starter.py", "--file", "crowd.jsonl", "--approval-timeout", "100")
        waiting = [order_id for order_id in started.stdout.split() if order_id[:5] == "order"]
        await until_waiting(dev_server, shop, 5)
        found = pending(shop)
        limited = shop.run("signals.py", "pending", "--limit", "2")
        ids = " ".join([first, *waiting])
        shop.pipe(f"signals.py approve {ids} --note batch --by Grace | true")
        ended = shop.run("signals.py", "result", first, *waiting)
        for order_id in (spoiled, elsewhere.id):
            await dev_server.get_workflow_handle(order_id).terminate()

    assert sorted(order_id for order_id, *_ in found) == sorted([first, *waiting])
    assert [line[:3] for line in found if line[0] == first] == [[first, r"Ada\tB.", "47.00 USD"]]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", line[3]) for line in found)
    assert found == sorted(found, key=lambda line: line[3])
    assert [line.split("\t") for line in limited.stdout.splitlines()] == found[:2]
    assert "see them with --limit" in limited.stderr
    results = [json.loads(line.split("\t")[1]) for line in ended.stdout.splitlines()]
    decided = [(each["status"], each["message"], each["decided_by"]) for each in results]
    assert decided == [("FULFILLED", "approved: batch", "Grace")] * 5


async def test_the_list_needs_no_worker_and_leaves_no_trace(shop: Shop, dev_server: Client) -> None:
    async with create_worker(dev_server, shop.task_queue):
        waiting = await dev_server.start_workflow(
            OrderWorkflow.run,
            ORDER,
            id=f"order-{uuid4()}",
            task_queue=shop.task_queue,
            memo={"source": "another shop"},
        )
        await until_waiting(dev_server, shop, 1)
    await place(dev_server, shop.task_queue)  # No worker has begun it.
    before = await events(waiting)

    listed = pending(shop)

    # Its memo is another program's.
    assert [line[:3] for line in listed] == [[waiting.id, "?", "?"]]
    assert await events(waiting) == before
    await waiting.terminate()
    assert not orders.waits_for_decision(await waiting.describe())


@pytest.mark.parametrize("user", ["ada", ""])
async def test_by_default_the_user_has_decided(
    open_shop: Shop, dev_server: Client, user: str
) -> None:
    nameless = open_shop.with_environment(LOGNAME="", USER=user, LNAME="", USERNAME="")
    order = await place(dev_server, open_shop.task_queue)

    nameless.run("signals.py", "approve", order.id)

    assert (await order.result()).decided_by == (user or pwd.getpwuid(os.getuid()).pw_name)
