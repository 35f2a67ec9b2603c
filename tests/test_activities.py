import logging
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from order_fulfillment.activities import deliver_order, process_payment, reserve_inventory
from order_fulfillment.shared import Delivery, Payment

NOVEMBER_2026 = datetime(2026, 11, 23, tzinfo=UTC)


def attempt_of(
    workflow_id: str = "order-1",
    activity_type: str = "process_payment",
    attempt: int = 1,
    scheduled_time: datetime = NOVEMBER_2026,
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


@pytest.mark.parametrize("expiry", ["11/26", "12/26", "01/27", "12/99"])
async def test_a_card_is_good_to_the_end_of_its_expiry_month(expiry: str) -> None:
    authorization = await attempt_of().run(process_payment, Payment("tok", expiry))

    assert authorization.startswith("auth-")


@pytest.mark.parametrize("expiry", ["10/26", "12/25", "12/23", "01/00"])
async def test_an_expired_card_is_refused_for_good(expiry: str) -> None:
    with pytest.raises(ApplicationError, match="expired") as refused:
        await attempt_of().run(process_payment, Payment("tok", expiry))

    assert refused.value.type == "PaymentValidationError"
    assert refused.value.non_retryable


@pytest.mark.parametrize(
    "expiry", ["", "13/27", "00/27", "1/27", "12/2027", "12-27", "١٢/٢٧", " 12/27"]
)
async def test_an_unreadable_expiry_is_refused_for_good(expiry: str) -> None:
    with pytest.raises(ApplicationError, match="MM/YY") as refused:
        await attempt_of().run(process_payment, Payment("tok", expiry))

    assert refused.value.type == "PaymentValidationError"
    assert refused.value.non_retryable


@pytest.mark.parametrize(
    ("scheduled_time", "is_valid"),
    [
        (datetime(2026, 11, 30, 23, 59, 59, 999_999, UTC), True),
        (datetime(2026, 12, 1, tzinfo=UTC), False),
    ],
)
async def test_a_card_is_judged_at_the_time_the_payment_was_scheduled(
    scheduled_time: datetime, is_valid: bool
) -> None:
    late_retry = attempt_of(attempt=7, scheduled_time=scheduled_time)

    if is_valid:
        await late_retry.run(process_payment, Payment("tok", "11/26"))
    else:
        with pytest.raises(ApplicationError, match="expired"):
            await late_retry.run(process_payment, Payment("tok", "11/26"))


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
