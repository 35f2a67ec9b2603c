"""Orders from a file: what is an order, what is a mistake, and what a second run does."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from typing import Any
from uuid import uuid4

import pytest

from order_fulfillment import order_file
from order_fulfillment.shared import Card, Order, OrderItem
from tests.conftest import SCRIPTS, Shop, one_line
from tests.history import ORDER
from tests.network import proxy
from tests.script import wait_until

MUG = {"sku": "temporal-mug"}


def read(*lines: bytes) -> list[tuple[str | None, Order] | str]:
    """Each order of a file, or what is wrong with it, as the starter says it."""
    found: list[tuple[str | None, Order] | str] = []
    for place, element in order_file.elements(BytesIO(b"\n".join(lines))):
        try:
            found.append(order_file.parse(element, ORDER))
        except ValueError as error:
            found.append(f"{place}: {error}")
    return found


def test_what_an_order_leaves_out_comes_from_the_model_and_the_catalogue() -> None:
    given = {
        "order_id": "A-1",
        "customer_name": "Zoë",
        "items": [{"sku": "temporal-mug", "quantity": 3}, {"sku": "new", "unit_price_cents": 5}],
        "card": {"expiry": "01/50"},
    }

    assert read(json.dumps(given).encode(), b"{}") == [
        (
            "A-1",
            replace(
                ORDER,
                customer_name="Zoë",
                items=[OrderItem("temporal-mug", 3, 12_00), OrderItem("new", 1, 5)],
                card=Card("tok", "01/50"),
            ),
        ),
        (None, ORDER),
    ]


@pytest.mark.parametrize(
    "file",
    [
        b'\xef\xbb\xbf{"order_id": "1"}\r\n\r\n{"order_id": "2"}\n   \n',
        b'\xef\xbb\xbf  [\n{"order_id": "1"}, {"order_id": "2"}\n]\n',
        b'\n \n[{"order_id": "1"}, {"order_id": "2"}]',
    ],
)
def test_what_real_exports_have_is_no_mistake(file: bytes) -> None:
    assert read(file) == [("1", ORDER), ("2", ORDER)]


@pytest.mark.parametrize(
    ("element", "mistake"),
    [
        ("{", "not JSON at character 2: Expecting property name"),
        ("[]", "order: [] is not an object"),
        ("NaN", "order: NaN is not an object"),
        ({"costumer_name": "Ada"}, "costumer_name: no such field; there are: order_id, customer"),
        ({"approval_above_cents": 10**11}, "approval_above_cents: no such field"),
        ({"customer_name": 5}, "customer_name: 5 is not text"),
        ({"customer_name": "\ud800"}, "surrogates not allowed"),
        ({"order_id": ""}, "order_id: empty"),
        ({"items": []}, "items: an order needs at least one"),
        ({"items": {"0": MUG}}, "is not a list"),
        ({"items": [MUG | {"quantity": 0}]}, "items.0.quantity: 0 is not from 1 to 1000"),
        ({"items": [MUG, MUG | {"quantity": 1.9}]}, "items.1.quantity: 1.9 is not a whole number"),
        ({"items": [MUG | {"quantity": True}]}, "items.0.quantity: true is not a whole number"),
        ({"items": [MUG | {"unit_price_cents": 0}]}, "total: 0 is not from 1 to"),
        ({"items": [MUG | {"unit_price_cents": 10**19}]}, "items.0.unit_price_cents: 100000"),
        ({"items": [{"sku": "new"}]}, "items.0.unit_price_cents: missing, and the catalogue"),
        ({"items": [MUG | {"size": 3}]}, "items.0.size: no such field; there are: sku, quantity"),
        ({"card": {"expiry": "2027-01"}}, "card.expiry: '2027-01' is not of the form MM/YY"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_has_its_line_its_field_and_what_is_expected(element: Any, mistake: str) -> None:
    line = element if isinstance(element, str) else json.dumps(element)

    [_, found] = read(b"{}", line.encode())

    assert isinstance(found, str)
    assert found.startswith("line 2: ")
    assert mistake in found


def test_bytes_that_are_not_utf8_and_broken_arrays_are_mistakes() -> None:
    found = read(b"{}", b'{"customer_name": "caf\xe9"}', b"\0\xff", b"{}")
    assert [type(each) for each in found] == [tuple, str, str, tuple]
    assert read(b'[{"order_id": "1"}, 5]') == [("1", ORDER), "element 2: order: 5 is not an object"]
    [broken] = read(b"[{},", b"{}")
    assert str(broken).startswith("the array: not JSON at character 8: Expecting ','")


def write(shop: Shop, lines: Iterable[object]) -> str:
    path = shop.folder / "orders.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(path)


def test_mistakes_are_told_and_the_other_orders_start_once(shop: Shop) -> None:
    orders: list[object] = [{"order_id": f"{shop.task_queue}-{number}"} for number in range(3)]
    path = write(shop, [*orders, {"items": [MUG | {"quantity": 0}]}, {"order_id": "x" * 1001}])

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


def test_an_answer_that_is_lost_costs_no_id(shop: Shop) -> None:
    with proxy(shop.environment["TEMPORAL_ADDRESS"]) as server:
        path = shop.folder / "pipe"
        os.mkfifo(path)
        shop = shop.with_environment(TEMPORAL_ADDRESS=server.address)
        starter = shop.start("starter.py", "--file", str(path))
        with path.open("w") as pipe:
            print("{}", file=pipe, flush=True)
            wait_until(lambda: starter.stdout, "the first order")
            server.silent.set()
            print("{}", file=pipe, flush=True)

        assert starter.wait(30) == 1

    assert re.search(
        "^line 2: may have been started as order-[0-9a-f]{16}$", starter.stderr, re.MULTILINE
    )
    assert starter.stderr.splitlines()[-1].startswith("error: the Temporal server gave no answer")


def test_stdin_is_read_as_it_comes_and_ctrl_c_says_how_many_were_started(shop: Shop) -> None:
    # A shell that starts the tests in the background lets them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [sys.executable, SCRIPTS / "starter.py", "--file", "-"],
        env=shop.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdin
        assert starter.stdout
        assert starter.stderr
        print("{}", file=starter.stdin, flush=True)
        order_id = starter.stdout.readline()

        # The pipe stays open, as that of a slow export.
        starter.send_signal(signal.SIGINT)

        assert starter.wait(timeout=10) == 130
        assert re.fullmatch(r"order-[0-9a-f]{16}\n", order_id)
        count, interrupted = starter.stderr.read().splitlines()
    assert count == "1 started, 0 existed already, 0 invalid"
    assert interrupted == "interrupted: what was started goes on"


def test_results_are_printed_and_a_failed_order_ends_in_exit_code_1(open_shop: Shop) -> None:
    prefix = f"wait-{uuid4()}"
    orders: list[object] = [
        {"order_id": f"{prefix}-1"},
        {"order_id": f"{prefix}-2", "card": {"expiry": "12/23"}},
        {"order_id": f"{prefix}-3", "items": [MUG | {"quantity": 50}]},
    ]
    options = ("--wait-result", "--approval-above", "500", "--approval-timeout", "0.1")

    ended = open_shop.run("starter.py", "--file", write(open_shop, orders), *options)

    results = [json.loads(line) for line in ended.stdout.splitlines() if line[0] == "{"]
    statuses = {result["order_id"][-1]: result["status"] for result in results}
    assert statuses == {"1": "FULFILLED", "3": "EXPIRED"}
    assert ended.returncode == 1
    assert f"error: order '{prefix}-2' failed at process_payment: Pay" in ended.stderr


@pytest.mark.parametrize(
    ("path", "error"),
    [("missing.jsonl", "No such file or directory"), (".", "Is a directory")],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(shop: Shop, path: str, error: str) -> None:
    refused = shop.run("starter.py", "--file", path)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert one_line(refused.stderr).endswith(f"{error}: '{path}'")
