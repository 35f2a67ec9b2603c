"""What each activity answers, and when it refuses."""

import logging
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from order_fulfillment.activities import deliver_order, process_payment, reserve_inventory
from order_fulfillment.shared import Delivery, Payment

# A busy machine fails no test, and the tests leave nothing behind.
UNHURRIED = settings(deadline=None, database=None)


def attempt_of(
    workflow_id: str = "order-1",
    activity_type: str = "process_payment",
    attempt: int = 1,
    scheduled_time: datetime = datetime(2026, 11, 23, tzinfo=UTC),
) -> ActivityEnvironment:
    environment = ActivityEnvironment()
    environment.info = replace(
        ActivityEnvironment.default_info(),
        workflow_id=workflow_id,
        activity_type=activity_type,
        attempt=attempt,
        scheduled_time=scheduled_time,
        current_attempt_scheduled_time=datetime.now(UTC),
    )
    return environment


MOMENTS = st.datetimes(
    datetime(1999, 1, 1),
    datetime(2101, 1, 1),
    timezones=st.just(UTC),
)


@UNHURRIED
@given(month=st.integers(1, 12), year=st.integers(0, 99), data=st.data())
async def test_a_card_is_valid_up_to_the_end_of_its_month(
    month: int, year: int, data: st.DataObject
) -> None:
    following_month = datetime(2000 + year, month, 28, tzinfo=UTC) + timedelta(days=4)
    end = following_month.replace(day=1)
    near_the_end = st.integers(-2, 2).map(lambda n: end + n * timedelta(microseconds=1))
    scheduled = data.draw(MOMENTS | near_the_end)

    if scheduled < end:
        await pay(f"{month:02}/{year:02}", scheduled)
    else:
        with pytest.raises(ApplicationError, match="expired at the end of") as error:
            await pay(f"{month:02}/{year:02}", scheduled)
        assert (error.value.type, error.value.non_retryable) == ("PaymentValidationError", True)


# The second: right to begin with, then anything; and digits of every script.
ALMOST_EXPIRIES = st.text() | st.from_regex(r"\A(0[1-9]|1[012])/\d{2}")


@UNHURRIED
@given(expiry=ALMOST_EXPIRIES, scheduled=MOMENTS)
async def test_what_is_no_card_expiry_is_never_retried(expiry: str, scheduled: datetime) -> None:
    if re.fullmatch(r"(0[1-9]|1[012])/[0-9][0-9]", expiry):
        return
    with pytest.raises(ApplicationError, match="is not an expiry date") as error:
        await pay(expiry, scheduled)
    assert (error.value.type, error.value.non_retryable) == ("PaymentValidationError", True)


async def pay(card_expiry: str, scheduled: datetime) -> str:
    attempt = attempt_of(attempt=7, scheduled_time=scheduled)
    return await attempt.run(process_payment, Payment("tok_sample", card_expiry))


async def test_a_retry_gets_the_same_reference_and_another_order_another() -> None:
    payment = Payment("tok", "12/99")

    first = await attempt_of(attempt=1).run(process_payment, payment)
    second = await attempt_of(attempt=2).run(process_payment, payment)
    other = await attempt_of(workflow_id="order-2").run(process_payment, payment)

    assert first == second
    assert first != other


async def test_every_step_of_an_order_has_a_reference_of_its_own() -> None:
    steps = [
        await attempt_of().run(process_payment, Payment("tok", "12/99")),
        await attempt_of(activity_type="reserve_inventory").run(reserve_inventory, 0),
        await attempt_of(activity_type="deliver_order").run(deliver_order, Delivery("a", "h")),
    ]

    assert len({step.split("-")[1] for step in steps}) == 3


@pytest.mark.parametrize("attempt", [1, 2, 3])
async def test_an_outage_is_worth_retrying(attempt: int) -> None:
    with pytest.raises(ApplicationError) as down:
        await attempt_of(attempt=attempt).run(reserve_inventory, None)

    assert down.value.type == "InventoryUnavailableError"
    assert not down.value.non_retryable


@pytest.mark.parametrize("attempt", [4, 5])
async def test_an_outage_that_lasts_is_given_up_on_the_fourth_attempt(attempt: int) -> None:
    with pytest.raises(ApplicationError) as down:
        await attempt_of(attempt=attempt).run(reserve_inventory, None)

    assert down.value.type == "InventoryUnavailableError"
    assert down.value.non_retryable


@pytest.mark.parametrize("recovers_after", [1, 2, 3])
async def test_an_outage_heals_after_as_many_attempts_as_asked(recovers_after: int) -> None:
    with pytest.raises(ApplicationError):
        await attempt_of(attempt=recovers_after).run(reserve_inventory, recovers_after)

    assert await attempt_of(attempt=recovers_after + 1).run(reserve_inventory, recovers_after)


async def test_every_attempt_logs_its_reference(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    authorization = await attempt_of().run(process_payment, Payment("tok", "12/99"))

    assert authorization in caplog.text
