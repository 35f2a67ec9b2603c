"""The words of the domain: what an order is, what people decide about it, how it ends."""

import re
from dataclasses import dataclass
from enum import StrEnum

TASK_QUEUE = "order-fulfillment"

# Limits of an order and a decision, which may come from any client, not only from these scripts.
# An order larger than what Temporal can store could neither complete nor be canceled.
MAX_TEXT_BYTES = 64_000
MAX_CODE_BYTES = 100
MAX_ITEMS = 100
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


@dataclass(frozen=True)
class Article:
    """What the shop sells, and how much of it a new warehouse has on hand."""

    name: str
    unit_price_cents: int
    on_hand: int = 100_000


CATALOGUE = {
    "temporal-cap": Article("Cap", 15_00),
    "temporal-hoodie": Article("Hoodie", 45_00),
    "temporal-mug": Article("Mug", 12_00),
    "temporal-notebook": Article("Notebook", 9_50),
    "temporal-poster": Article("Poster, signed", 60_00, on_hand=10),
    "temporal-socks": Article("Socks", 8_00),
    "temporal-stickers": Article("Stickers", 3_50),
    "temporal-tshirt": Article("T-shirt", 23_00),
}
"""Articles by SKU."""


@dataclass(frozen=True)
class OrderItem:
    """An article, how many of it, and the price at which it was ordered."""

    sku: str
    quantity: int
    unit_price_cents: int

    def __post_init__(self) -> None:
        _check_text("SKU", self.sku)
        _check_number("quantity", self.quantity, 1, MAX_QUANTITY)
        _check_number("price", self.unit_price_cents, 0, MAX_CENTS)


@dataclass(frozen=True)
class Card:
    """A card that the payment provider keeps: no card number enters Temporal."""

    token: str

    expiry: str
    """MM/YY; the card is valid to the end of that month, in UTC."""

    def __post_init__(self) -> None:
        _check_text("card token", self.token)
        _check_text("card expiry", self.expiry)


@dataclass(frozen=True)
class Simulation:
    """Faults to simulate: nothing that a real order has."""

    inventory_recovers_after: int | None = 0
    """Attempts that meet an outage of the warehouse; None if it never heals."""


@dataclass(frozen=True)
class Order:
    """What a customer ordered. Its ID is the ID of the workflow that fulfills it.

    Raises:
        ValueError: when a value is outside its limits.
    """

    customer_name: str
    items: list[OrderItem]
    card: Card
    currency: str = "USD"

    approval_timeout: float = 30.0
    """Seconds to wait for a decision once the inventory is reserved."""

    approval_above_cents: int = 0
    """An order that costs no more than this needs no decision."""

    simulation: Simulation = Simulation()

    def __post_init__(self) -> None:
        _check_text("customer name", self.customer_name, MAX_TEXT_BYTES)
        _check_text("currency", self.currency)
        _check_number("number of items", len(self.items), 1, MAX_ITEMS)
        _check_number(
            "approval timeout", self.approval_timeout, MIN_APPROVAL_SECONDS, MAX_APPROVAL_SECONDS
        )
        _check_number("approval limit", self.approval_above_cents, 0, MAX_CENTS)

    @property
    def total_cents(self) -> int:
        """What the order costs."""
        return sum(item.quantity * item.unit_price_cents for item in self.items)

    @property
    def quantities(self) -> dict[str, int]:
        """How many pieces are ordered, by SKU."""
        quantities = dict.fromkeys((item.sku for item in self.items), 0)
        for item in self.items:
            quantities[item.sku] += item.quantity
        return quantities


@dataclass(frozen=True)
class ApprovalDecision:
    """What a human decided about an order: the argument of the `approve_order` signal.

    Raises:
        ValueError: when note or name is too long.
    """

    approved: bool
    note: str | None = None

    by: str | None = None
    """Who decided, as they say themselves."""

    def __post_init__(self) -> None:
        _check_text("note", self.note or "", MAX_TEXT_BYTES)
        _check_text("name", self.by or "", MAX_TEXT_BYTES)

    @property
    def message(self) -> str:
        """The decision in words, as the `approval_message` query answers it."""
        verdict = "approved" if self.approved else "rejected"
        return f"{verdict}: {self.note}" if self.note else verdict


# A step of an order may run more than once, but its service must act only once. So each request
# begins with an idempotency key, which is the same for every attempt of the step and different for
# every other step and order. The workflow makes it: an activity would make a new one each time.


@dataclass(frozen=True)
class PaymentRequest:
    """What `process_payment` authorizes."""

    idempotency_key: str
    amount_cents: int
    currency: str
    card: Card

    lapses_after: float
    """Seconds for which the money stays reserved if nobody captures it."""


@dataclass(frozen=True)
class ReservationRequest:
    """What `reserve_inventory` holds."""

    idempotency_key: str

    quantities: dict[str, int]
    """Pieces by SKU."""

    lapses_after: float
    """Seconds for which the goods stay held if nobody ships them."""

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


def amount(cents: int, currency: str) -> str:
    """An amount of money as people read it, such as 47.00 USD."""
    return f"{cents / 100:.2f} {currency}"


def parse_card_expiry(card_expiry: str) -> tuple[int, int]:
    """Year and month of an MM/YY expiry: the last month in which the card is valid.

    Raises:
        ValueError: when it is not MM/YY.
    """
    match = re.fullmatch(r"(0[1-9]|1[0-2])/([0-9]{2})", card_expiry)
    if match is None:
        raise ValueError(f"{card_expiry!r} is not an expiry date of the form MM/YY")
    return 2000 + int(match[2]), int(match[1])


def _check_text(what: str, text: str, max_bytes: int = MAX_CODE_BYTES) -> None:
    size = len(text.encode())
    if size > max_bytes:
        raise ValueError(f"the {what} is {size} bytes long, at most {max_bytes} are allowed")


def _check_number(what: str, number: float, low: float, high: float) -> None:
    if not low <= number <= high:
        raise ValueError(f"the {what} is {number}, and not from {low} to {high}")
