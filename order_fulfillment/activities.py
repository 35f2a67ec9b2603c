"""The steps of an order that touch the outside world. They call the services, which do the work.

Temporal's rules for activities:
- Here, and not in the workflow, is the place for clocks, randomness and I/O.
- An activity may run more than once: Temporal retries it when it cannot know that an attempt
  succeeded. So every attempt sends the same idempotency key, and the service acts on it once.
- An activity that raises a non-retryable error fails the order. Any other error is retried.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from order_fulfillment.services import RefusedError, ShopServices, UnknownItemError
from order_fulfillment.shared import DeliveryRequest, PaymentRequest, ReservationRequest

LAST_OUTAGE_ATTEMPT = 4
"""The attempt at which the simulated outage fails the order: some four seconds after the first."""


class OrderActivities:
    """The activities, with the services that they call."""

    def __init__(self, services: ShopServices) -> None:
        self._services = services
        # What blocks must not run in the event loop: it would hold up the whole worker. One thread
        # is enough, since SQLite has one writer at a time. An asynchronous client needs none.
        self._thread = ThreadPoolExecutor(1)

    @activity.defn
    async def process_payment(self, request: PaymentRequest) -> str:
        """Authorize the amount and return the authorization's reference.

        No money moves: what `deliver_order` does not capture lapses, so there is nothing to undo.

        Raises:
            ApplicationError: of type PaymentValidationError, not retried, when the provider
                refuses the card or the amount.
        """
        authorization = await self._ask(
            self._services.authorize,
            request.idempotency_key,
            request.amount_cents,
            request.currency,
            request.card,
            timedelta(seconds=request.lapses_after),
        )
        activity.logger.info("Authorized payment %s", authorization)
        return authorization

    @activity.defn
    async def reserve_inventory(self, request: ReservationRequest) -> str:
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
                # With the retry policy's maximum_attempts, dead workers alone could fail an order.
                non_retryable=attempt >= LAST_OUTAGE_ATTEMPT,
            )
        quantities = request.quantities
        # Scenario 7, the web shop's bug: uncomment this line and restart the worker.
        # quantities = {sku.removesuffix("@@@"): pieces for sku, pieces in quantities.items()}
        lapses_after = timedelta(seconds=request.lapses_after)
        reservation = await self._ask(
            self._services.hold, request.idempotency_key, quantities, lapses_after
        )
        activity.logger.info("Reserved inventory %s", reservation)
        return reservation

    @activity.defn
    async def deliver_order(self, request: DeliveryRequest) -> str:
        """Capture the authorized payment, ship the held goods and return the tracking number.

        Raises:
            ApplicationError: of type LapsedError, not retried, when the authorization or the
                hold has lapsed; then nothing was captured or shipped.
        """
        tracking_number = await self._ask(
            self._services.deliver,
            request.idempotency_key,
            request.payment_authorization,
            request.inventory_reservation,
        )
        activity.logger.info("Captured the payment and shipped the goods as %s", tracking_number)
        return tracking_number

    async def _ask[*Ts](self, service: Callable[[*Ts], str], *request: *Ts) -> str:
        """Ask a service, and name its errors for Temporal: a refusal fails the order."""
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, service, *request)
        except (RefusedError, UnknownItemError) as error:
            refused, kind = isinstance(error, RefusedError), type(error).__name__
            raise ApplicationError(str(error), type=kind, non_retryable=refused) from None
