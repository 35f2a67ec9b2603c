"""What each activity answers, what it leaves in the services' books, and when it refuses."""

import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from order_fulfillment.activities import OrderActivities
from order_fulfillment.services import (
    INITIAL_STOCK,
    LapsedError,
    OutOfStockError,
    PaymentValidationError,
    ShopServices,
    UnknownItemError,
)
from order_fulfillment.shared import Card, DeliveryRequest, PaymentRequest, ReservationRequest
from tests.history import CARD, ORDER

PAYMENT = PaymentRequest("run-1/payment", 47_00, CARD, lapses_after=60)
RESERVATION = ReservationRequest("run-1/reservation", ORDER.quantities, 60)
POSTERS = {"temporal-poster": 10}


class Shop:
    """The activities, their services' books, and a clock to turn."""

    def __init__(self, folder: Path) -> None:
        self.now = datetime.now(UTC)
        self.file = folder / "shop.db"
        self.services = ShopServices(self.file, now=lambda: self.now)
        self.steps = OrderActivities(self.services)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.file) as books:
            return books.execute(statement).fetchall()

    def rows(self) -> tuple[int, ...]:
        """How many authorizations, captures, holds and shipments there are, and pieces sold."""
        [counts] = self.query(
            f"""SELECT count(*), count(captured_at),
                (SELECT count(DISTINCT reference) FROM holds),
                (SELECT count(*) FROM shipments),
                (SELECT {sum(INITIAL_STOCK.values())} - sum(on_hand) FROM stock)
                FROM authorizations"""
        )
        return counts

    def pay(self, request: PaymentRequest = PAYMENT) -> str:
        return ActivityEnvironment().run(self.steps.process_payment, request)

    def reserve(self, request: ReservationRequest = RESERVATION, attempt: int = 1) -> str:
        environment = ActivityEnvironment()
        environment.info = replace(ActivityEnvironment.default_info(), attempt=attempt)
        return environment.run(self.steps.reserve_inventory, request)

    def deliver(self, authorization: str, reservation: str, key: str = "run-1/delivery") -> str:
        request = DeliveryRequest(key, authorization, reservation)
        return ActivityEnvironment().run(self.steps.deliver_order, request)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_an_order_is_paid_held_and_shipped_once_however_often_it_is_asked_for(shop: Shop) -> None:
    def order() -> list[str]:
        authorization, reservation = shop.pay(), shop.reserve()
        return [authorization, reservation, shop.deliver(authorization, reservation)]

    first, again = order(), order()

    assert first == again
    assert [reference.split("-")[0] for reference in first] == ["auth", "hold", "track"]
    assert shop.rows() == (1, 1, 1, 1, 3)
    assert shop.query("SELECT amount_cents, currency FROM authorizations") == [(47_00, "USD")]
    assert shop.query("SELECT sku, quantity FROM holds ORDER BY sku") == [
        ("temporal-mug", 2),
        ("temporal-tshirt", 1),
    ]


@pytest.mark.parametrize(
    ("quantities", "error", "message"),
    [
        ({"temporal-poster": 11}, OutOfStockError, "11 temporal-poster wanted, 10 available"),
        ({"temporal-mug": 0}, OutOfStockError, "0 temporal-mug wanted, 100000 available"),
        ({"mug@@@": 1}, UnknownItemError, "the warehouse does not know 'mug@@@'"),
    ],
)
def test_an_order_is_held_as_a_whole_or_not_at_all(
    shop: Shop, quantities: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        shop.reserve(replace(RESERVATION, quantities={"temporal-cap": 1} | quantities))

    assert shop.rows() == (0, 0, 0, 0, 0)


def test_of_forty_orders_for_the_last_ten_pieces_ten_get_one(shop: Shop) -> None:
    one = {"temporal-poster": 1}

    def answer(number: int) -> str:
        try:
            return shop.reserve(ReservationRequest(f"run-{number}", one, 60))
        except OutOfStockError:
            return "out of stock"

    with ThreadPoolExecutor(40) as customers:
        answers = Counter(answer[:5] for answer in customers.map(answer, range(40)))
    assert answers == {"hold-": 10, "out o": 30}

    # Nobody ships them: once the holds have lapsed, they are there for others.
    shop.now += timedelta(seconds=59)
    assert answer(40) == "out of stock"
    shop.now += timedelta(seconds=2)
    held = shop.reserve(replace(RESERVATION, idempotency_key="run-41", quantities=POSTERS))

    # What was shipped is gone for good.
    shop.deliver(shop.pay(), held)
    shop.now += timedelta(days=1)
    assert answer(42) == "out of stock"


@pytest.mark.parametrize("late", ["payment", "hold"])
def test_a_delivery_that_comes_too_late_changes_nothing(shop: Shop, late: str) -> None:
    authorization = shop.pay(replace(PAYMENT, lapses_after=5 if late == "payment" else 60))
    reservation = shop.reserve(replace(RESERVATION, lapses_after=5 if late == "hold" else 60))
    shop.now += timedelta(seconds=6)

    with pytest.raises(LapsedError, match="has lapsed"):
        shop.deliver(authorization, reservation)

    assert shop.rows() == (1, 0, 1, 0, 0)
    assert set(shop.query("SELECT shipped_at FROM holds")) == {(None,)}


@pytest.mark.parametrize("other", ["payment", "goods"])
def test_what_another_delivery_took_is_not_taken_again(shop: Shop, other: str) -> None:
    authorization, reservation = shop.pay(), shop.reserve()
    shop.deliver(authorization, reservation)
    if other == "payment":
        authorization = shop.pay(replace(PAYMENT, idempotency_key="run-2/payment"))
    else:
        reservation = shop.reserve(replace(RESERVATION, idempotency_key="run-2/reservation"))
    rows = shop.rows()

    with pytest.raises(LapsedError):
        shop.deliver(authorization, reservation, key="run-2/delivery")

    assert shop.rows() == rows


@pytest.mark.parametrize("number", [1, 3, 4])
def test_an_outage_is_worth_retrying_until_the_fourth_attempt(shop: Shop, number: int) -> None:
    with pytest.raises(ApplicationError) as down:
        shop.reserve(replace(RESERVATION, outage_attempts=4), number)

    assert down.value.type == "InventoryUnavailableError"
    assert down.value.non_retryable == (number == 4)


@pytest.mark.parametrize(
    ("expiry", "end"),
    [("12/27", datetime(2028, 1, 1, tzinfo=UTC)), ("02/28", datetime(2028, 3, 1, tzinfo=UTC))],
)
def test_a_card_is_valid_up_to_the_end_of_its_month(shop: Shop, expiry: str, end: datetime) -> None:
    payment = replace(PAYMENT, card=Card("tok", expiry))
    shop.now = end - timedelta(microseconds=1)
    assert shop.pay(payment)

    shop.now = end
    with pytest.raises(PaymentValidationError, match=f"expired at the end of {expiry}"):
        shop.pay(replace(payment, idempotency_key="run-2/payment"))


@pytest.mark.parametrize(
    ("payment", "reason"),
    [
        (replace(PAYMENT, amount_cents=-1), "cannot take -1 cents"),
        *(
            (replace(PAYMENT, card=Card("tok", expiry)), "is not of the form MM/YY")
            for expiry in ("soon", "1/27", "13/27", "12/2027", "12/27\n", "12/२७")
        ),
    ],
)
def test_a_payment_that_makes_no_sense_is_refused(
    shop: Shop, payment: PaymentRequest, reason: str
) -> None:
    with pytest.raises(PaymentValidationError, match=reason):
        shop.pay(payment)

    assert shop.rows() == (0, 0, 0, 0, 0)
