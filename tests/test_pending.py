"""Listing the orders that wait, deciding about several at once, and seeing who decided."""

import json
import re
from dataclasses import replace
from uuid import uuid4

from temporalio.client import Client

from order_fulfillment import orders, progress
from order_fulfillment.shared import OrderItem
from tests.conftest import Shop
from tests.history import ORDER, create_worker, events, place, until

SPOILED = [OrderItem("temporal-mug@@@", 1, 12_00)]


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
    queue = shop.task_queue
    # A crowd is more than the server is asked about at a time.
    shop = shop.with_change("orders.py", "batched(running, 200)", "batched(running, 3)")
    with shop.worker():
        none = pending(shop)
        foreign = await dev_server.start_workflow(
            "AnotherWorkflow", id=f"foreign-{uuid4()}", task_queue=queue
        )
        spoiled = await orders.start(
            dev_server, f"spoiled-{uuid4()}", replace(ORDER, items=SPOILED), queue
        )
        elsewhere = await orders.start(dev_server, f"elsewhere-{uuid4()}", ORDER, f"{queue}-2")
        first = await orders.start(
            dev_server,
            f"first-{uuid4()}",
            replace(ORDER, customer_name="Ada\tB.", approval_timeout=100.0),
            queue,
        )
        (shop.folder / "crowd.jsonl").write_text("{}\n" * 4)
        started = shop.run(
            *("starter.py", "Crowd", "--file", "crowd.jsonl", "--approval-timeout", "100")
        )
        waiting = started.stdout.split()
        await until_waiting(dev_server, shop, 5)
        found = pending(shop)
        limited = shop.run("signals.py", "pending", "--limit", "2")
        ids = " ".join([first.id, *waiting])
        approving = shop.bash(f"signals.py approve {ids} --note batch --by Grace | true")
        assert approving.returncode == 0, approving.stderr
        ended = shop.run("signals.py", "result", first.id, *waiting)
        for order in (foreign, spoiled, elsewhere):
            await dev_server.get_workflow_handle(order.id).terminate()

    assert none == []
    assert sorted(order_id for order_id, *_ in found) == sorted([first.id, *waiting])
    assert found[0][:3] == [first.id, r"Ada\tB.", "47.00 USD"]
    starts = [start for *_, start in found]
    assert starts == sorted(starts)
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", start) for start in starts)
    assert {customer for _, customer, *_ in found[1:]} == {"Crowd"}
    assert [line.split("\t") for line in limited.stdout.splitlines()] == found[:2]
    assert limited.stderr == (
        "more orders are waiting than the limit of 2; see them with --limit\n"
    )
    results = [json.loads(line.split("\t")[1]) for line in ended.stdout.splitlines()]
    assert sorted(result["order_id"] for result in results) == sorted([first.id, *waiting])
    assert {(result["status"], result["message"], result["decided_by"]) for result in results} == {
        ("FULFILLED", "approved: batch", "Grace")
    }


async def test_the_list_needs_no_worker_and_leaves_no_trace(shop: Shop, dev_server: Client) -> None:
    async with create_worker(dev_server, shop.task_queue):
        waiting = await place(dev_server, shop.task_queue)
        await until_waiting(dev_server, shop, 1)
    await place(dev_server, shop.task_queue)  # No worker has begun it.
    before = await events(waiting)

    listed = pending(shop)

    # It was started without a memo, as by a schedule or the Web UI: this is from its input.
    assert [line[:3] for line in listed] == [[waiting.id, "Ada Lovelace", "47.00 USD"]]
    assert await events(waiting) == before
    await waiting.terminate()
    assert not progress.waits_for_decision(await waiting.describe())


async def test_each_id_that_goes_wrong_has_a_line_and_the_others_go_on(
    open_shop: Shop, dev_server: Client
) -> None:
    good = (await place(dev_server, open_shop.task_queue)).id

    mixed = open_shop.run("signals.py", "reject", "order-unknown", good, good)

    assert mixed.returncode == 1
    assert mixed.stdout == f"{good}\trejected\n"
    [line] = mixed.stderr.splitlines()
    assert line.startswith("error: order-unknown: there is no order 'order-unknown'")


async def test_by_default_the_user_of_the_shell_has_decided(
    open_shop: Shop, dev_server: Client
) -> None:
    shop = replace(open_shop, environment=open_shop.environment | {"USER": "ada"})
    order = await place(dev_server, shop.task_queue)

    shop.run("signals.py", "approve", order.id)

    assert (await order.result()).decided_by == "ada"
