"""The steps of an order that touch the outside world. They call the services, which do the work.

Temporal's rules for activities:
- Here, and not in the workflow, is the place for clocks, randomness and I/O.
- An activity may run more than once: Temporal retries it when it cannot know that an attempt
  succeeded. So every attempt sends the same idempotency key, and the service acts on it once.
- An activity that raises a non-retryable error fails the order. Any other error is retried.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from order_fulfillment.services import RefusedError, ShopServices, UnknownItemError
from order_fulfillment.shared import DeliveryRequest, PaymentRequest, ReservationRequest

LAST_OUTAGE_ATTEMPT = 4
"""The attempt at which the simulated outage fails the order: some four seconds after the first."""


class OrderActivities:
    """The activities, with the services that they call.

    They are plain functions, which the worker runs in threads, because SQLite blocks the thread
    that calls it. With an asynchronous client take `async def`, and never call there what blocks.
    """

    def __init__(self, services: ShopServices) -> None:
        self._services = services

    @activity.defn
    def process_payment(self, request: PaymentRequest) -> str:
        """Authorize the amount and return the authorization's reference.

        No money moves: what `deliver_order` does not capture lapses, so there is nothing to undo.

        Raises:
            ApplicationError: of type PaymentValidationError, not retried, when the provider
                refuses the card or the amount.
        """
        with _service_errors():
            authorization = self._services.authorize(
                request.idempotency_key,
                request.amount_cents,
                request.currency,
                request.card,
                timedelta(seconds=request.lapses_after),
            )
        activity.logger.info("Authorized payment %s", authorization)
        return authorization

    @activity.defn
    def reserve_inventory(self, request: ReservationRequest) -> str:
        """Hold the goods in the warehouse and return the reservation's reference.

        What `deliver_order` does not ship lapses, too.

        Raises:
            ApplicationError: of type OutOfStockError or InvalidQuantityError, not retried; of type
                InventoryUnavailableError, during the simulated outage, retried up to
                `LAST_OUTAGE_ATTEMPT`; of type UnknownItemError, retried until a fix is deployed.
        """
        attempt = activity.info().attempt
        recovers_after = request.simulation.inventory_recovers_after
        if recovers_after is None or attempt <= recovers_after:
            raise ApplicationError(
                "the inventory service is down",
                type="InventoryUnavailableError",
                # The retry policy's maximum_attempts would also count workers that died.
                non_retryable=attempt >= LAST_OUTAGE_ATTEMPT,
            )
        quantities = request.quantities
        # Scenario 7, the web shop's bug: uncomment this line and restart the worker.
        # quantities = {sku.removesuffix("@@@"): pieces for sku, pieces in quantities.items()}
        with _service_errors():
            reservation = self._services.hold(
                request.idempotency_key, quantities, timedelta(seconds=request.lapses_after)
            )
        activity.logger.info("Reserved inventory %s", reservation)
        return reservation

    @activity.defn
    def deliver_order(self, request: DeliveryRequest) -> str:
        """Capture the authorized payment, ship the held goods and return the tracking number.

        Raises:
            ApplicationError: of type LapsedError, not retried, when the authorization or the
                hold has lapsed; then nothing was captured or shipped.
        """
        with _service_errors():
            tracking_number = self._services.deliver(
                request.idempotency_key,
                request.payment_authorization,
                request.inventory_reservation,
            )
        activity.logger.info("Captured the payment and shipped the goods as %s", tracking_number)
        return tracking_number


@contextmanager
def _service_errors() -> Iterator[None]:
    """Name the services' errors for Temporal. A refusal fails the order; others are retried."""
    try:
        yield
    except (RefusedError, UnknownItemError) as error:
        raise ApplicationError(
            str(error),
            type=type(error).__name__,
            non_retryable=isinstance(error, RefusedError),
        ) from None
