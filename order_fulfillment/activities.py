"""The steps of an order that touch the outside world. They call the services, which do the work.

An activity may run more than once: Temporal retries it when it cannot know that an attempt succeeded.
So every attempt sends the same idempotency key, and the service acts on it once. An error fails the
order if `retry_unless` names it, or if it is marked as non-retryable. Any other error is retried.
"""

from temporalio import activity
from temporalio.exceptions import ApplicationError

from order_fulfillment.services import ShopServices
from order_fulfillment.shared import DeliveryRequest, PaymentRequest, ReservationRequest

LAST_OUTAGE_ATTEMPT = 4
"""The simulated outage fails the order at this attempt."""


class OrderActivities:
    """The activities, with the services that they call."""

    def __init__(self, services: ShopServices) -> None:
        self._services = services

    @activity.defn
    def process_payment(self, request: PaymentRequest) -> str:
        """Authorize the amount. A refusal is a PaymentValidationError, which is not retried."""
        reference = self._services.authorize(
            request.idempotency_key, request.amount_cents, request.card, request.lapses_after
        )
        activity.logger.info("Authorized payment %s", reference)
        return reference

    @activity.defn
    def reserve_inventory(self, request: ReservationRequest) -> str:
        """Reserve the goods. UnknownItemError is retried until a fix is deployed."""
        _simulate_outage(request.outage_attempts)
        items = list(request.quantities.items())
        # Scenario 7, a web shop sends SKUs that end in @@@: uncomment this, restart the worker.
        # items = [(sku.removesuffix("@@@"), quantity) for sku, quantity in items]
        reference = self._services.hold(request.idempotency_key, items, request.lapses_after)
        activity.logger.info("Reserved inventory %s", reference)
        return reference

    @activity.defn
    def deliver_order(self, request: DeliveryRequest) -> str:
        """Capture the payment and ship the goods, or neither. LapsedError is not retried."""
        tracking_number = self._services.deliver(
            request.idempotency_key, request.payment_authorization, request.inventory_reservation
        )
        activity.logger.info("Captured the payment and shipped the goods as %s", tracking_number)
        return tracking_number


def _simulate_outage(attempts: int) -> None:
    """Fail the first attempts of a step."""
    attempt = activity.info().attempt
    if attempt <= attempts:
        down = "the inventory service is down"
        last = attempt >= LAST_OUTAGE_ATTEMPT
        raise ApplicationError(down, type="InventoryUnavailableError", non_retryable=last)
