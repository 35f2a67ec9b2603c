"""Reads orders as a web shop exports them: JSON Lines, or one JSON array.

Each element has fields of `Order` and, if it likes, an `order_id`:

    {"order_id": "A-17", "customer_name": "Ada", "items": [{"sku": "temporal-mug", "quantity": 2}]}

What it leaves out comes from a model order; an item's price, from the catalogue.
"""

import json
import sys
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, get_args, get_type_hints

from order_fulfillment.shared import CATALOGUE, Card, Order, OrderItem, Simulation

FIELDS = {kind: get_type_hints(kind) for kind in (Order, OrderItem, Card, Simulation)}
WORDS = {str: "text", int: "a whole number", float: "a number", dict: "an object", list: "a list"}


def opened(path: str) -> BinaryIO:
    """The file at a path; - is stdin."""
    return sys.stdin.buffer if path == "-" else Path(path).open("rb")


def elements(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """What to call each element of a file, and the element for `parse`. Reads lines one by one."""
    lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
    for number, line in lines:
        if number > 1 or not line.removeprefix(BOM_UTF8).lstrip().startswith(b"["):
            yield f"line {number}", line
            continue
        array = line + file.read()
        try:
            yield from (
                (f"element {place}", each) for place, each in enumerate(json.loads(array), 1)
            )
        except (ValueError, RecursionError):
            yield "the array", array


def parse(element: Any, model: Order) -> tuple[str | None, Order]:
    """The ID, None if it has none, and the order; what it leaves out is taken from the model.

    Raises:
        ValueError: with the field, its value and what is expected.
    """
    try:
        value = json.loads(element) if isinstance(element, bytes) else element
        fields = _typed(value, dict, "order")
        order_id = fields.pop("order_id", None)
        if order_id is not None and not _typed(order_id, str, "order_id").encode():
            raise ValueError("order_id: empty")
        order = _with(fields, model, "")
        order.check()
        priced = all("unit_price_cents" in item for item in fields.get("items", [{}]))
        if order.currency != "USD" and not priced:
            raise ValueError("items: without a unit_price_cents, and the catalogue is in USD")
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at character {error.pos + 1}: {error.msg}") from None
    except (OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return order_id, order


def _with(fields: dict[str, Any], model: Any, path: str) -> Any:
    """The model, a dataclass, with these fields changed."""
    kinds = FIELDS[type(model)]
    changes: dict[str, Any] = {}
    for name, value in fields.items():
        field, kind = f"{path}{name}", kinds.get(name)
        if kind is None:
            raise ValueError(f"{field}: no such field; there are: {', '.join(kinds)}")
        if name == "items":
            items = enumerate(_typed(value, list, field))
            changes[name] = [_item(item, f"{field}.{number}") for number, item in items]
        elif kind in FIELDS:
            part = getattr(model, name)
            changes[name] = _with(_typed(value, dict, field), part, f"{field}.")
        else:
            changes[name] = _typed(value, kind, field)
    return replace(model, **changes)


def _item(value: Any, field: str) -> OrderItem:
    fields = {"quantity": 1} | _typed(value, dict, field)
    sku = _typed(fields.get("sku"), str, f"{field}.sku")
    if sku in CATALOGUE:
        fields.setdefault("unit_price_cents", CATALOGUE[sku])
    elif "unit_price_cents" not in fields:
        raise ValueError(f"{field}.unit_price_cents: missing, and the catalogue has no {sku!r}")
    item: OrderItem = _with(fields, OrderItem(sku, 1, 0), f"{field}.")
    return item


def _typed(value: Any, kind: Any, field: str) -> Any:
    """The value, if it is of this type. The SDK's own conversion would take 1.9 or true for 1."""
    kinds = get_args(kind) or (kind,)
    if type(value) is int and float in kinds:
        return float(value)
    if type(value) not in kinds:
        raise ValueError(f"{field}: {json.dumps(value):.50} is not {WORDS[kinds[0]]}")
    return value
