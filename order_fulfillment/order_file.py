"""Reads orders as a web shop exports them: JSON Lines, an order in each line.

    {"order_id": "A-17", "customer_name": "Ada", "items": [{"sku": "temporal-mug", "quantity": 2}]}

Only `items` is needed. An order may have a `card`, too, and an item a `unit_price_cents`.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from order_fulfillment.shared import CATALOGUE, Order, OrderItem

KINDS = {str: "text", int: "a whole number", dict: "an object", list: "a list"}


def read(path: str) -> list[tuple[int, bytes]]:
    """The lines of a file that are not empty, with their numbers; a path of - is stdin."""
    content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    return [each for each in enumerate(content.splitlines(), 1) if each[1].strip()]


def parse(line: bytes, defaults: Order) -> tuple[str | None, Order]:
    """Return the ID in a line, or None, and its order; ValueError with the field if wrong."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at character {error.pos + 1}: {error.msg}") from None
    fields = _object("", value, order_id=str, customer_name=str, items=list, card=dict)
    order_id = fields.pop("order_id", None)
    if order_id == "":
        raise ValueError("order_id: empty")
    if "items" not in fields:
        raise ValueError("items: missing")
    fields["items"] = [_item(f"items.{n}.", item) for n, item in enumerate(fields["items"])]
    if "card" in fields:
        card = _object("card.", fields["card"], token=str, expiry=str)
        fields["card"] = replace(defaults.card, **card)
    order = replace(defaults, **fields)
    order.check()
    return order_id, order


def _item(path: str, value: object) -> OrderItem:
    fields = _object(path, value, sku=str, quantity=int, unit_price_cents=int)
    sku = _typed(f"{path}sku", fields.get("sku"), str)
    price = fields.get("unit_price_cents", CATALOGUE.get(sku))
    if price is None:
        raise ValueError(f"{path}unit_price_cents: missing, and the catalogue has no {sku!r}")
    return OrderItem(sku, fields.get("quantity", 1), price)


def _object(path: str, value: object, **kinds: type) -> dict[str, Any]:
    fields = _typed(path.rstrip(".") or "order", value, dict)
    if unknown := fields.keys() - kinds:
        raise ValueError(f"{path}{min(unknown)}: no such field; there are: {', '.join(kinds)}")
    return {name: _typed(f"{path}{name}", each, kinds[name]) for name, each in fields.items()}


def _typed(field: str, value: object, kind: type) -> Any:
    if type(value) is not kind:  # For `isinstance`, true would be a number.
        raise ValueError(f"{field}: {json.dumps(value):.50} is not {KINDS[kind]}")
    return value
