"""The words of the domain: what an order is, what people decide about it, how it ends."""

import json
import math
import re
from dataclasses import asdict, dataclass
from decimal import Decimal
from enum import StrEnum

TASK_QUEUE = "order-fulfillment"

# Limits: an order that is larger than what Temporal can store could neither complete nor be canceled.
MAX_ORDER_BYTES = 200_000
MAX_TEXT_BYTES = 64_000
MAX_QUANTITY = 1000
MAX_CENTS = 10**11
MIN_APPROVAL_SECONDS = 0.1
MAX_APPROVAL_SECONDS = 30 * 24 * 60 * 60


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
"""Prices in US cents by SKU. How much there is of each, only the warehouse knows."""


@dataclass(frozen=True)
class OrderItem:
    """An article, how many of it, and the price at which it was ordered."""

    sku: str
    quantity: int
    unit_price_cents: int


@dataclass(frozen=True)
class Card:
    """A card that the payment provider keeps: no card number enters Temporal."""

    token: str

    expiry: str
    """MM/YY; the card is valid to the end of that month, in UTC."""


@dataclass(frozen=True)
class Simulation:
    """Faults to simulate: nothing that a real order has."""

    inventory_recovers_after: int | None = 0
    """Attempts that meet an outage of the warehouse; None if it never heals."""


@dataclass(frozen=True)
class Order:
    """What a customer ordered. Its ID is the ID of the workflow that fulfills it."""

    customer_name: str
    items: list[OrderItem]
    card: Card
    currency: str = "USD"

    approval_timeout: float = 30.0
    """Seconds to wait for a decision once the inventory is reserved."""

    approval_above_cents: int = 0
    """An order that costs no more than this needs no decision."""

    simulation: Simulation = Simulation()

    @property
    def total_cents(self) -> int:
        """What the order costs."""
        return sum(item.quantity * item.unit_price_cents for item in self.items)

    @property
    def quantities(self) -> dict[str, int]:
        """How many pieces are ordered, by SKU."""
        quantities: dict[str, int] = {}
        for item in self.items:
            quantities[item.sku] = quantities.get(item.sku, 0) + item.quantity
        return quantities

    def check(self) -> None:
        """See that an order is within its limits, once, before it enters Temporal.

        `__init__` would be the wrong place: it also runs at every replay, so that an order which
        was accepted yesterday would stall because a limit is lower today.

        Raises:
            ValueError: with the field, its value and what is allowed.
        """
        size = len(json.dumps(asdict(self), ensure_ascii=False).encode())
        _check("bytes as JSON", size, 1, MAX_ORDER_BYTES)
        _check("number of items", len(self.items), 1)
        for number, item in enumerate(self.items):
            _check(f"items.{number}.quantity", item.quantity, 1, MAX_QUANTITY)
            _check(f"items.{number}.unit_price_cents", item.unit_price_cents, 0, MAX_CENTS)
        _check("total", self.total_cents, 1)
        if not re.fullmatch("[A-Z]{3}", self.currency):
            raise ValueError(f"currency: {self.currency!r} is not three capital letters")
        parse_card_expiry(self.card.expiry)
        _check(
            "approval_timeout", self.approval_timeout, MIN_APPROVAL_SECONDS, MAX_APPROVAL_SECONDS
        )
        _check("approval_above_cents", self.approval_above_cents, 0, MAX_CENTS)


@dataclass(frozen=True)
class ApprovalDecision:
    """What a human decided about an order: the argument of the `approve_order` signal.

    A ValueError, when it is too long, makes the SDK drop the signal.
    """

    approved: bool
    note: str | None = None

    by: str | None = None
    """Who decided, as they say themselves."""

    def __post_init__(self) -> None:
        for field, text in (("note", self.note), ("by", self.by)):
            _check(f"bytes of {field}", len((text or "").encode()), 0, MAX_TEXT_BYTES)

    @property
    def message(self) -> str:
        """The decision in words, as the `approval_message` query answers it."""
        verdict = "approved" if self.approved else "rejected"
        return f"{verdict}: {self.note}" if self.note else verdict


# The workflow makes the idempotency key of each step, since an activity would make a new one for
# each attempt. What no delivery has taken after `lapses_after` seconds is free again.


@dataclass(frozen=True)
class PaymentRequest:
    """What `process_payment` authorizes."""

    idempotency_key: str
    amount_cents: int
    currency: str
    card: Card
    lapses_after: float


@dataclass(frozen=True)
class ReservationRequest:
    """What `reserve_inventory` holds."""

    idempotency_key: str
    quantities: dict[str, int]
    lapses_after: float
    simulation: Simulation


@dataclass(frozen=True)
class DeliveryRequest:
    """What `deliver_order` captures and ships."""

    idempotency_key: str
    payment_authorization: str
    inventory_reservation: str


@dataclass(frozen=True)
class OrderResult:
    """How an order ended: FULFILLED, REJECTED or EXPIRED."""

    order_id: str
    status: OrderStatus
    message: str
    total_cents: int
    currency: str
    payment_authorization: str
    inventory_reservation: str

    tracking_number: str | None
    """None unless the order was delivered."""

    decided_by: str | None = None
    """None unless somebody decided, and said who they were."""


# Currencies whose smallest unit is not a hundredth (ISO 4217).
THOUSANDTHS = "BHD IQD JOD KWD LYD OMR TND"
UNDIVIDED = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"


def amount(cents: int, currency: str) -> str:
    """An amount in the currency's smallest unit as people read it: 47.00 USD, 4700 JPY."""
    decimals = 3 if currency in THOUSANDTHS else 0 if currency in UNDIVIDED else 2
    return f"{Decimal(cents).scaleb(-decimals):f} {currency}"


def parse_card_expiry(card_expiry: str) -> tuple[int, int]:
    """Year and month of an MM/YY expiry, the last valid ones; ValueError when it is none."""
    match = re.fullmatch(r"(0[1-9]|1[0-2])/([0-9]{2})", card_expiry)
    if match is None:
        raise ValueError(f"card.expiry: {card_expiry!r} is not of the form MM/YY")
    return 2000 + int(match[2]), int(match[1])


def _check(field: str, number: float, low: float, high: float = math.inf) -> None:
    if not low <= number <= high:
        limits = f"less than {low}" if high == math.inf else f"not from {low} to {high}"
        raise ValueError(f"{field}: {number} is {limits}")
