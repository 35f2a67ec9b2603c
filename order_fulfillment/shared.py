"""The words of the domain: what an order is, what people decide about it, how it ends."""

import re
from dataclasses import dataclass
from enum import StrEnum

TASK_QUEUE = "order-fulfillment"


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
class Order:
    """What a customer ordered. Its ID is the ID of the workflow that fulfills it."""

    customer_name: str

    payment_token: str
    """Stands for a card that the payment provider keeps: no card number enters Temporal."""

    card_expiry: str
    """MM/YY; the card is valid to the end of that month, in UTC."""

    approval_timeout: float = 30.0
    """Seconds to wait for a decision once the inventory is reserved."""

    inventory_recovers_after: int | None = 0
    """Simulated outage: attempts that fail before one succeeds; None if it never heals."""


@dataclass(frozen=True)
class ApprovalDecision:
    """What a human decided about an order: the argument of the `approve_order` signal."""

    approved: bool
    note: str | None = None

    @property
    def message(self) -> str:
        """The decision in words, as the `approval_message` query answers it."""
        verdict = "approved" if self.approved else "rejected"
        return f"{verdict}: {self.note}" if self.note else verdict


@dataclass(frozen=True)
class Payment:
    """What `process_payment` authorizes."""

    token: str
    card_expiry: str


@dataclass(frozen=True)
class Delivery:
    """What `deliver_order` captures and ships."""

    payment_authorization: str
    inventory_reservation: str


@dataclass(frozen=True)
class OrderResult:
    """How an order ended: FULFILLED, REJECTED or EXPIRED."""

    order_id: str
    status: OrderStatus
    message: str
    payment_authorization: str
    inventory_reservation: str

    tracking_number: str | None
    """None unless the order was delivered."""


def parse_card_expiry(card_expiry: str) -> tuple[int, int]:
    """Year and month of an MM/YY expiry: the last month in which the card is valid.

    Raises:
        ValueError: when it is not MM/YY.
    """
    match = re.fullmatch(r"(0[1-9]|1[0-2])/([0-9]{2})", card_expiry)
    if match is None:
        raise ValueError(f"{card_expiry!r} is not an expiry date of the form MM/YY")
    return 2000 + int(match[2]), int(match[1])
