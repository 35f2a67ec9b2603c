"""Listing the orders that wait, deciding about several at once, and seeing who decided."""

import json
import re
from uuid import uuid4

from temporalio.client import Client

from tests.conftest import Shop
from tests.history import place, until_listed, waiting_in


def pending(shop: Shop, *arguments: str) -> list[list[str]]:
    """The lines of `signals.py pending`, by field."""
    listed = shop.run("signals.py", "pending", *arguments)
    assert listed.returncode == 0, listed.stderr
    return [line.split("\t") for line in listed.stdout.splitlines()]


async def test_a_crowd_is_listed_and_decided_about_even_if_nobody_reads_the_output(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker():
        assert pending(shop) == []
        elsewhere = await place(dev_server, f"{shop.task_queue}-2", listed=True)
        spoiled, first = f"spoiled-{uuid4()}", f"first-{uuid4()}"
        mug = {"items": [{"sku": "temporal-mug"}]}
        lines = [
            mug | {"order_id": first, "customer_name": "Ada\tB."},
            {"order_id": spoiled, "items": [{"sku": "new", "unit_price_cents": 1}]},
            *(mug for _ in range(4)),
        ]
        (shop.folder / "crowd.jsonl").write_text("\n".join(map(json.dumps, lines)))
        started = shop.run("starter.py", "--file", "crowd.jsonl", "--approval-timeout", "100")
        waiting = [order_id for order_id in started.stdout.split() if order_id[:5] == "order"]
        await until_listed(dev_server, waiting_in(shop.task_queue), 5)
    # The list needs no worker.
    found = pending(shop)
    with shop.worker():
        ids = " ".join([first, *waiting])
        shop.pipe(f"signals.py approve {ids} --note batch --by Grace | true")
        ended = shop.run("signals.py", "result", first, *waiting)
        for order_id in (spoiled, elsewhere.id):
            await dev_server.get_workflow_handle(order_id).terminate()

    assert sorted(order_id for order_id, *_ in found) == sorted([first, *waiting])
    assert [line[:3] for line in found if line[0] == first] == [[first, "Ada B.", "12.00 USD"]]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", line[3]) for line in found)
    assert found == sorted(found, key=lambda line: line[3])
    results = [json.loads(line.split("\t")[1]) for line in ended.stdout.splitlines()]
    decided = [(each["status"], each["message"], each["decided_by"]) for each in results]
    assert decided == [("FULFILLED", "approved: batch", "Grace")] * 5


async def test_by_default_the_user_has_decided(open_shop: Shop, dev_server: Client) -> None:
    order = await place(dev_server, open_shop.task_queue)

    open_shop.with_environment(LOGNAME="ada").run("signals.py", "approve", order.id)

    assert (await order.result()).decided_by == "ada"
