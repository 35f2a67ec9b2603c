"""The words of the domain: what an order is, what people decide about it, how it ends."""

import os
import re
from dataclasses import dataclass
from enum import StrEnum

# Starters put orders on this queue, and any number of workers take them from it.
TASK_QUEUE = os.environ.get("TEMPORAL_TASK_QUEUE", "order-fulfillment")

MAX_QUANTITY = 1000
MAX_CENTS = 10**12  # Far below 2**63, the limit of the services' database.
MAX_APPROVAL_SECONDS = 30 * 24 * 60 * 60
MAX_TEXT_LENGTH = 10_000  # The server refuses a result of more than 2 MB.


class OrderStatus(StrEnum):
    """Where an order stands. The last five are final."""

    PROCESSING_PAYMENT = "PROCESSING_PAYMENT"
    RESERVING_INVENTORY = "RESERVING_INVENTORY"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    DELIVERING = "DELIVERING"
    FULFILLED = "FULFILLED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


CATALOGUE = {
    "temporal-cap": 15_00,
    "temporal-hoodie": 45_00,
    "temporal-mug": 12_00,
    "temporal-notebook": 9_50,
    "temporal-poster": 60_00,
    "temporal-socks": 8_00,
    "temporal-stickers": 3_50,
    "temporal-tshirt": 23_00,
}
"""Prices in US cents by SKU. The warehouse knows the stock."""


@dataclass(frozen=True)
class OrderItem:
    """An article, its quantity, and the price in US cents at which it was ordered."""

    sku: str
    quantity: int
    unit_price_cents: int


@dataclass(frozen=True)
class Card:
    """A card as the payment provider knows it: by a token. No card number enters Temporal."""

    token: str
    expiry: str  # MM/YY. The card is valid to the end of that month, in UTC.


@dataclass(frozen=True)
class Order:
    """The input of the workflow. The order's ID is the workflow's ID."""

    customer_name: str
    items: list[OrderItem]
    card: Card
    approval_timeout: float = 30.0  # Seconds to decide once the inventory is reserved.
    approval_above_cents: int = 0  # An order that costs no more than this needs no decision.
    outage_attempts: int = 0  # Attempts to reserve that meet a simulated outage.

    @property
    def total_cents(self) -> int:
        """The price of the order in US cents."""
        return sum(item.quantity * item.unit_price_cents for item in self.items)

    @property
    def quantities(self) -> dict[str, int]:
        """The number of pieces by SKU."""
        quantities: dict[str, int] = {}
        for item in self.items:
            quantities[item.sku] = quantities.get(item.sku, 0) + item.quantity
        return quantities

    def check(self) -> None:
        """Check the limits of an order before it enters Temporal; ValueError with the field.

        In `__post_init__`, a check would run in each replay, and a lower limit stall older orders.
        """
        if not self.items:
            raise ValueError("items: an order needs at least one")
        for number, item in enumerate(self.items):
            _check(f"items.{number}.quantity", item.quantity, 1, MAX_QUANTITY)
            _check(f"items.{number}.unit_price_cents", item.unit_price_cents, 0, MAX_CENTS)
        _check("total", self.total_cents, 1, MAX_CENTS)
        parse_card_expiry(self.card.expiry)
        _check("approval_timeout", self.approval_timeout, 0.1, MAX_APPROVAL_SECONDS)


@dataclass(frozen=True)
class ApprovalDecision:
    """A human's decision about an order: the argument of the signal `approve_order`."""

    approved: bool
    note: str | None = None
    by: str | None = None  # The name of whoever decided, in their own words.

    @property
    def message(self) -> str:
        """The decision in words, which is part of the order's result. A long note is cut."""
        verdict = "approved" if self.approved else "rejected"
        return f"{verdict}: {self.note[:MAX_TEXT_LENGTH]}" if self.note else verdict


@dataclass(frozen=True)
class PaymentRequest:
    """The input of `process_payment`."""

    idempotency_key: str
    amount_cents: int
    card: Card
    lapses_after: float  # Seconds until the authorization lapses, unless it is captured.


@dataclass(frozen=True)
class ReservationRequest:
    """The input of `reserve_inventory`."""

    idempotency_key: str
    quantities: dict[str, int]
    lapses_after: float  # Seconds until the goods are free again, unless they are shipped.
    outage_attempts: int = 0


@dataclass(frozen=True)
class DeliveryRequest:
    """The input of `deliver_order`: the references of the two steps before."""

    idempotency_key: str
    payment_authorization: str
    inventory_reservation: str


@dataclass(frozen=True)
class OrderResult:
    """The result of an order that is FULFILLED, REJECTED or EXPIRED."""

    order_id: str
    status: OrderStatus
    message: str
    total_cents: int
    payment_authorization: str
    inventory_reservation: str
    tracking_number: str | None  # None unless the order was delivered.
    decided_by: str | None = None  # None unless somebody decided and gave a name.


def dollars(cents: int) -> str:
    """An amount as people read it: 47.00 USD."""
    return f"{cents // 100}.{cents % 100:02} USD"


def parse_card_expiry(card_expiry: str) -> tuple[int, int]:
    """Year and month of an MM/YY expiry; ValueError when it is none."""
    if not (match := re.fullmatch(r"(0[1-9]|1[0-2])/([0-9]{2})", card_expiry)):
        raise ValueError(f"card.expiry: {card_expiry!r} is not of the form MM/YY")
    return 2000 + int(match[2]), int(match[1])


def _check(field: str, number: float, low: float, high: float) -> None:
    if not low <= number <= high:
        raise ValueError(f"{field}: {number} is not from {low} to {high}")
