"""The story of one order: authorize the payment, reserve the goods, ask a human, deliver.

A worker that takes up an order runs this code again from the top, with the results in the order's
history. It must take the same path again. So it uses no I/O. For a clock there is `workflow.now()`,
and for random numbers `workflow.random()`.

An error of Temporal, such as an ActivityError or an ApplicationError, fails the order, and so does a
TimeoutError. Any other exception, such as a KeyError, is a bug: the order stalls until a fix.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ActivityError, is_cancelled_exception

# A worker runs workflow code in a sandbox. It keeps orders apart by importing this file again for
# every order. Our other modules keep no state, so all orders can share one copy of them.
with workflow.unsafe.imports_passed_through():
    from order_fulfillment.activities import OrderActivities
    from order_fulfillment.services import LapsedError, OutOfStockError, PaymentValidationError
    from order_fulfillment.shared import (
        MAX_TEXT_LENGTH,
        ApprovalDecision,
        DeliveryRequest,
        Order,
        OrderResult,
        OrderStatus,
        PaymentRequest,
        ReservationRequest,
        dollars,
    )

ORDER_STATUS = SearchAttributeKey.for_keyword("OrderStatus")

# Nothing has to be undone for an order that ends early: its authorization and its reservation
# lapse. They outlast the time to decide by these margins, because an approved order may have to wait
# until a bug is fixed. The reservation lapses sooner, because other customers want the goods.
AUTHORIZATION_MARGIN_SECONDS = 7 * 24 * 60 * 60
RESERVATION_MARGIN_SECONDS = 60 * 60


def retry_unless(*final_errors: type[Exception]) -> workflow.ActivityConfig:
    """How Temporal runs a step: until it succeeds, or fails with exactly one of these errors.

    An attempt that gives no answer in time is over, because its worker may be dead. Attempts have no
    limit, so that no number of dead workers fails an order.
    """
    return workflow.ActivityConfig(
        start_to_close_timeout=timedelta(seconds=5),
        retry_policy=RetryPolicy(
            initial_interval=timedelta(seconds=0.5),
            maximum_interval=timedelta(seconds=2),
            non_retryable_error_types=[error.__name__ for error in final_errors],
        ),
    )


@workflow.defn
class OrderWorkflow:
    """Takes one order from payment to delivery, with a human decision in between."""

    def __init__(self) -> None:
        self._status = OrderStatus.PROCESSING_PAYMENT
        self._decision: ApprovalDecision | None = None

    @workflow.run
    async def run(self, order: Order) -> OrderResult:
        """Fulfill the order, unless it is rejected, expires, fails or is canceled.

        Raises ActivityError, whose cause tells why a step failed or was canceled, and CancelledError
        when the order was canceled while it waited.
        """
        # A step may run more than once. By its idempotency key the service recognizes it. No other
        # order has the ID of this workflow's first run, which stays the same when a worker dies or
        # an operator resets the order. The workflow's ID is for people who read the services' books.
        key = f"{workflow.info().workflow_id}/{workflow.info().first_execution_run_id}"
        authorized_seconds = order.approval_timeout + AUTHORIZATION_MARGIN_SECONDS
        reserved_seconds = order.approval_timeout + RESERVATION_MARGIN_SECONDS

        try:
            authorization = await workflow.execute_activity_method(
                OrderActivities.process_payment,
                PaymentRequest(f"{key}/payment", order.total_cents, order.card, authorized_seconds),
                **retry_unless(PaymentValidationError),
            )
            self._enter(OrderStatus.RESERVING_INVENTORY)
            reservation = await workflow.execute_activity_method(
                OrderActivities.reserve_inventory,
                ReservationRequest(
                    f"{key}/reservation", order.quantities, reserved_seconds, order.outage_attempts
                ),
                **retry_unless(OutOfStockError),
            )
            self._enter(OrderStatus.AWAITING_APPROVAL)
            self._approve_if_small(order)
            decision = await self._wait_for_decision(order)
            tracking_number = None
            if decision is None:
                self._enter(OrderStatus.EXPIRED)
            elif not decision.approved:
                self._enter(OrderStatus.REJECTED)
            else:
                self._enter(OrderStatus.DELIVERING)
                tracking_number = await self._deliver(f"{key}/delivery", authorization, reservation)
                self._enter(OrderStatus.FULFILLED)
        except (ActivityError, asyncio.CancelledError) as error:
            canceled = is_cancelled_exception(error)
            self._enter(OrderStatus.CANCELED if canceled else OrderStatus.FAILED)
            raise
        expired = f"no decision within {order.approval_timeout:.10g} s"
        return OrderResult(
            order_id=workflow.info().workflow_id,
            status=self._status,
            message=decision.message if decision else expired,
            total_cents=order.total_cents,
            payment_authorization=authorization,
            inventory_reservation=reservation,
            tracking_number=tracking_number,
            decided_by=decision.by[:MAX_TEXT_LENGTH] if decision and decision.by else None,
        )

    @workflow.signal(description='Approve or reject the order: {"approved": true, "by": "Grace"}')
    def approve_order(self, decision: ApprovalDecision) -> None:
        """Keep the first decision, which may come at any time."""
        if self._decision is None:
            self._decision = decision
        else:
            workflow.logger.warning("Ignored %.100r: the first decision stands", decision.message)

    @workflow.query(description="Where the order stands")
    def status(self) -> OrderStatus:
        """Where the order stands."""
        return self._status

    @workflow.query(description="The decision that stands")
    def decision(self) -> ApprovalDecision | None:
        """The decision that stands; None while there is none."""
        return self._decision

    @workflow.query(description="The decision in words")
    def approval_message(self) -> str | None:
        """The decision in words; None while there is none."""
        return self._decision.message if self._decision else None

    def _approve_if_small(self, order: Order) -> None:
        """Approve an order that is not above its limit, unless a person has decided already."""
        if self._decision is None and order.total_cents <= order.approval_above_cents:
            limit = dollars(order.approval_above_cents)
            self._decision = ApprovalDecision(True, f"not above {limit}")

    async def _wait_for_decision(self, order: Order) -> ApprovalDecision | None:
        """Wait for a decision until the time is over.

        After a time without a worker, a decision and the timeout may come together. The decision counts.
        """
        # Scenario 6, the workflow bug: uncomment the next line and restart the worker.
        # raise RuntimeError("workflow bug!")
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._decision is not None,
                timeout=order.approval_timeout,
                timeout_summary="Time to decide",
            )
        return self._decision

    async def _deliver(self, key: str, authorization: str, reservation: str) -> str:
        """Deliver, even if the order is canceled meanwhile: the goods may be on their way."""
        request = DeliveryRequest(key, authorization, reservation)
        length_before = workflow.info().get_current_history_length()
        step = workflow.start_activity_method(
            OrderActivities.deliver_order, request, **retry_unless(LapsedError)
        )
        try:
            return await asyncio.shield(step)
        except asyncio.CancelledError:
            # The approval and the cancel request may have come in one workflow task. The worker handles
            # the signal first, even if it is the later one. Then the history has not grown yet, and the
            # server does not know of this step: `cancel` takes it back.
            sent = workflow.info().get_current_history_length() > length_before
            if not sent:
                step.cancel()
                raise
            return await step

    def _enter(self, status: OrderStatus) -> None:
        self._status = status
        # The Web UI shows these details of a running order. They add no event to the history.
        workflow.set_current_details(f"{status.replace('_', ' ').capitalize()}.")
        # Temporal's lists show the attribute, and search for it. A server may lack it, and would
        # refuse the update. An order that was started with it is on a server that has it. Unlike the
        # details, an update is an event: a replay must come to the same statuses again.
        if workflow.info().typed_search_attributes.get(ORDER_STATUS):
            workflow.upsert_search_attributes([ORDER_STATUS.value_set(status)])
