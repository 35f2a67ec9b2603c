"""Orders from a file: what is an order, what is a mistake, and what a second run does."""

import json
import os
import re
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from order_fulfillment import order_file
from order_fulfillment.shared import Card, Order, OrderItem
from tests.conftest import Shop, one_line
from tests.history import ORDER
from tests.script import wait_until

MUG = {"sku": "temporal-mug"}
MUGS: dict[str, Any] = {"items": [MUG]}


def parse(line: Any) -> tuple[str | None, Order]:
    return order_file.parse(json.dumps(line).encode(), ORDER)


def test_what_an_order_leaves_out_comes_from_the_model_and_the_catalogue() -> None:
    given = {
        "order_id": "A-1",
        "customer_name": "Zoë",
        "items": [{"sku": "temporal-mug", "quantity": 3}, {"sku": "new", "unit_price_cents": 5}],
        "card": {"expiry": "01/50"},
    }

    order = replace(
        ORDER,
        customer_name="Zoë",
        items=[OrderItem("temporal-mug", 3, 12_00), OrderItem("new", 1, 5)],
        card=Card("tok", "01/50"),
    )
    assert parse(given) == ("A-1", order)
    assert parse(MUGS) == (None, replace(ORDER, items=[OrderItem("temporal-mug", 1, 12_00)]))


def test_what_real_exports_have_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    file.write_bytes(b"\xef\xbb\xbf%b\r\n\r\n%b\n   \n" % (2 * (json.dumps(MUGS).encode(),)))
    lines = order_file.read(str(file))
    assert [number for number, _ in lines] == [1, 3]
    assert [order_file.parse(line, ORDER) for _, line in lines] == 2 * [parse(MUGS)]


@pytest.mark.parametrize(
    ("element", "mistake"),
    [
        (b"{", "not JSON at character 2: Expecting property name"),
        (b'{"customer_name": "caf\xe9"}', "'utf-8' codec can't decode"),
        (b"NaN", "order: NaN is not an object"),
        ({"costumer_name": "Ada"}, "costumer_name: no such field; there are: order_id, customer"),
        ({"approval_above_cents": 10**11}, "approval_above_cents: no such field"),
        ({"customer_name": 5}, "customer_name: 5 is not text"),
        ({"order_id": ""}, "order_id: empty"),
        ({"customer_name": "Ada"}, "items: missing"),
        ({"items": []}, "items: an order needs at least one"),
        ({"items": {"0": MUG}}, "is not a list"),
        ({"items": [MUG | {"quantity": 0}]}, "items.0.quantity: 0 is not from 1 to 1000"),
        ({"items": [MUG, MUG | {"quantity": 1.9}]}, "items.1.quantity: 1.9 is not a whole number"),
        ({"items": [MUG | {"quantity": True}]}, "items.0.quantity: true is not a whole number"),
        ({"items": [MUG | {"unit_price_cents": 0}]}, "total: 0 is not from 1 to"),
        ({"items": [MUG | {"unit_price_cents": 10**19}]}, "items.0.unit_price_cents: 100000"),
        ({"items": [{"sku": "new"}]}, "items.0.unit_price_cents: missing, and the catalogue"),
        ({"items": [MUG | {"size": 3}]}, "items.0.size: no such field; there are: sku, quantity"),
        (MUGS | {"card": {"expiry": "2027-01"}}, "card.expiry: '2027-01' is not of the form MM/YY"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_has_its_field_and_what_is_expected(element: Any, mistake: str) -> None:
    line = element if isinstance(element, bytes) else json.dumps(element).encode()

    with pytest.raises(ValueError, match=re.escape(mistake)):
        order_file.parse(line, ORDER)


def write(shop: Shop, lines: Iterable[object]) -> str:
    path = shop.folder / "orders.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(path)


def test_mistakes_are_told_and_the_other_orders_start_once(shop: Shop) -> None:
    orders: list[object] = [MUGS | {"order_id": f"{shop.task_queue}-{n}"} for n in range(3)]
    path = write(
        shop, [*orders, {"items": [MUG | {"quantity": 0}]}, MUGS | {"order_id": "x" * 1001}]
    )

    first = shop.run("starter.py", "--file", path)
    second = shop.run("starter.py", "--file", path)

    assert (first.returncode, second.returncode) == (1, 1)
    assert sorted(first.stdout.split()) == [f"{shop.task_queue}-{number}" for number in range(3)]
    assert second.stdout == ""
    *mistakes, count = first.stderr.splitlines()
    assert [mistake[:7] for mistake in sorted(mistakes)] == ["line 4:", "line 5:"]
    assert "line 4: items.0.quantity: 0 is not from 1 to 1000" in mistakes
    assert count == "3 started, 0 existed already, 2 invalid"
    assert second.stderr.splitlines()[-1] == "0 started, 3 existed already, 2 invalid"


def test_ctrl_c_ends_the_waiting_for_a_pipe(shop: Shop) -> None:
    path = shop.folder / "pipe"
    os.mkfifo(path)
    starter = shop.start("starter.py", "--file", str(path))
    with path.open("w"):  # It opens when the starter has opened it, and stays so: a slow export.
        # Between Python's look for signals and its sleep, asyncio would miss one.
        wait_until(lambda: psutil.Process(starter.pid).status() == psutil.STATUS_SLEEPING, "sleep")
        starter.send(signal.SIGINT)
        assert starter.wait(10) == 130


def test_results_are_printed_and_a_failed_order_ends_in_exit_code_1(open_shop: Shop) -> None:
    prefix = f"wait-{uuid4()}"
    orders: list[object] = [
        MUGS | {"order_id": f"{prefix}-1"},
        MUGS | {"order_id": f"{prefix}-2", "card": {"expiry": "12/23"}},
        {"order_id": f"{prefix}-3", "items": [MUG | {"quantity": 50}]},
    ]
    options = ("--wait-result", "--approval-above", "500", "--approval-timeout", "0.1")

    ended = open_shop.run("starter.py", "--file", write(open_shop, orders), *options)

    results = [json.loads(line) for line in ended.stdout.splitlines() if line[0] == "{"]
    statuses = {result["order_id"][-1]: result["status"] for result in results}
    assert statuses == {"1": "FULFILLED", "3": "EXPIRED"}
    assert ended.returncode == 1
    assert f"error: order '{prefix}-2' failed at process_payment: Pay" in ended.stderr


def test_a_file_that_cannot_be_read_is_named_in_one_line(shop: Shop) -> None:
    refused = shop.run("starter.py", "--file", "missing.jsonl")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert one_line(refused.stderr).endswith("No such file or directory: 'missing.jsonl'")
