"""The outside world: payment provider, warehouse and carrier, all simulated.

Temporal's rules for activities:
- Here, and not in the workflow, is the place for clocks, randomness and I/O.
- An activity may run more than once, for Temporal repeats it when it cannot know that an attempt
  succeeded. So every attempt sends the same idempotency key, and gets the same reference back.
- When an activity fails for good, so does the order: by an error that is not to be retried.
"""

from hashlib import sha256

from temporalio import activity
from temporalio.exceptions import ApplicationError

from order_fulfillment.shared import Delivery, Payment, parse_card_expiry

LAST_OUTAGE_ATTEMPT = 4
"""An outage met on this attempt or a later one fails the order: with the workflow's retry policy,
an outage of about four seconds. Attempts that were lost with their worker count, too."""


@activity.defn
async def process_payment(payment: Payment) -> str:
    """Authorize the card and return the authorization's reference.

    No money moves: an authorization that `deliver_order` does not capture lapses by itself,
    so an order that ends early leaves nothing to undo.

    Raises:
        ApplicationError: of type PaymentValidationError, not retried, when the card has
            expired or its expiry cannot be read.
    """
    authorization = _reference("auth")
    activity.logger.info("Authorizing payment %s, attempt %d", authorization, _attempt())
    try:
        expiry = parse_card_expiry(payment.card_expiry)
    except ValueError as error:
        raise _payment_validation_error(str(error)) from None
    # Not the clock's time, which would let a retry around midnight judge differently.
    scheduled = activity.info().scheduled_time
    if (scheduled.year, scheduled.month) > expiry:
        raise _payment_validation_error(f"the card expired at the end of {payment.card_expiry}")
    return authorization


@activity.defn
async def reserve_inventory(recovers_after: int | None) -> str:
    """Hold the goods in the warehouse and return the reservation's reference.

    A hold that `deliver_order` does not ship lapses by itself, as the authorization does.

    Args:
        recovers_after: Simulated outage: attempts that fail before one succeeds; None if
            it never heals.

    Raises:
        ApplicationError: of type InventoryUnavailableError, retried up to
            `LAST_OUTAGE_ATTEMPT`, while the warehouse does not answer.
    """
    reservation = _reference("hold")
    activity.logger.info("Reserving inventory %s, attempt %d", reservation, _attempt())
    if recovers_after is None or _attempt() <= recovers_after:
        raise ApplicationError(
            "the inventory service is down",
            type="InventoryUnavailableError",
            # Not the retry policy's maximum_attempts: that would fail an order whose workers
            # died that often, although the warehouse was never down.
            non_retryable=_attempt() >= LAST_OUTAGE_ATTEMPT,
        )
    return reservation


@activity.defn
async def deliver_order(delivery: Delivery) -> str:
    """Capture the authorized payment, ship the held goods and return the tracking number."""
    tracking_number = _reference("track")
    activity.logger.info(
        "Capturing %s and shipping %s as %s, attempt %d",
        delivery.payment_authorization,
        delivery.inventory_reservation,
        tracking_number,
        _attempt(),
    )
    return tracking_number


def _reference(prefix: str) -> str:
    """What a simulated service answers to an idempotency key: to one key, always the same."""
    info = activity.info()
    idempotency_key = f"{info.workflow_id}/{info.activity_type}"
    return f"{prefix}-{sha256(idempotency_key.encode()).hexdigest()[:12]}"


def _attempt() -> int:
    return activity.info().attempt


def _payment_validation_error(message: str) -> ApplicationError:
    # Without `type` Temporal would record none; the worker's language is no one's business.
    return ApplicationError(message, type="PaymentValidationError", non_retryable=True)
