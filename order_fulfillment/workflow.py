"""The story of one order: authorize the payment, hold the goods, ask a human, deliver."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception

# The sandbox imports this file anew for every order, to keep orders apart. What it imports
# has no state of its own, so the worker's copy does, and orders start faster.
with workflow.unsafe.imports_passed_through():
    from order_fulfillment.activities import deliver_order, process_payment, reserve_inventory
    from order_fulfillment.shared import (
        ApprovalDecision,
        Delivery,
        Order,
        OrderResult,
        OrderStatus,
        Payment,
    )

# How long Temporal waits for an attempt before it takes the worker for dead and tries again.
ATTEMPT_TIMEOUT = timedelta(seconds=5)

# No limit on attempts: an order outlives any number of dead workers. What must not be
# repeated forever says so itself, with a non-retryable error.
RETRY_POLICY = RetryPolicy(
    initial_interval=timedelta(seconds=0.5), maximum_interval=timedelta(seconds=2)
)


@workflow.defn
class OrderWorkflow:
    """Takes one order from payment to delivery, with a human decision in between."""

    def __init__(self) -> None:
        self._status = OrderStatus.PROCESSING_PAYMENT
        self._decision: ApprovalDecision | None = None

    @workflow.run
    async def run(self, order: Order) -> OrderResult:
        """Fulfill the order, unless it is canceled before it is approved.

        Raises:
            ActivityError: when a step failed; its cause has the step's own error type.
        """
        fulfillment = asyncio.create_task(self._fulfill(order))
        try:
            await workflow.wait([fulfillment])
        except asyncio.CancelledError:
            # Temporal delivers a cancel request here, once. An approved order goes on: the
            # goods may already be on their way.
            if self._decision is None or not self._decision.approved:
                fulfillment.cancel()
        try:
            return await fulfillment
        except (ActivityError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                self._enter(OrderStatus.CANCELED, "Canceled before it was approved.")
            else:
                self._enter(OrderStatus.FAILED, f"Failed: {error.__cause__}.")
            raise

    async def _fulfill(self, order: Order) -> OrderResult:
        self._enter(OrderStatus.PROCESSING_PAYMENT, "Authorizing the payment.")
        authorization = await workflow.execute_activity(
            process_payment,
            Payment(order.payment_token, order.card_expiry),
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=RETRY_POLICY,
            summary="Authorize the payment",
        )

        # raise RuntimeError("workflow bug!")

        self._enter(OrderStatus.RESERVING_INVENTORY, "Holding the goods in the warehouse.")
        reservation = await workflow.execute_activity(
            reserve_inventory,
            order.inventory_recovers_after,
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=RETRY_POLICY,
            summary="Hold the goods",
        )

        self._enter(
            OrderStatus.AWAITING_APPROVAL,
            f"Waiting {order.approval_timeout:g} seconds for the signal `approve_order`.",
        )
        # A decision may have come early; then there is no timer to start.
        if self._decision is None:
            await self._decision_or_expiry(timedelta(seconds=order.approval_timeout))

        tracking_number = None
        if self._decision is None:
            message = f"no decision within {order.approval_timeout:g} s"
            self._enter(OrderStatus.EXPIRED, f"Expired: {message}.")
        elif not self._decision.approved:
            message = self._decision.message
            self._enter(OrderStatus.REJECTED, "Rejected; nothing was charged or shipped.")
        else:
            message = self._decision.message
            self._enter(OrderStatus.DELIVERING, "Capturing the payment and shipping the goods.")
            tracking_number = await workflow.execute_activity(
                deliver_order,
                Delivery(authorization, reservation),
                start_to_close_timeout=ATTEMPT_TIMEOUT,
                retry_policy=RETRY_POLICY,
                summary="Capture and ship",
            )
            self._enter(OrderStatus.FULFILLED, f"Shipped as {tracking_number}.")
        return OrderResult(
            order_id=workflow.info().workflow_id,
            status=self._status,
            message=message,
            payment_authorization=authorization,
            inventory_reservation=reservation,
            tracking_number=tracking_number,
        )

    async def _decision_or_expiry(self, timeout: timedelta) -> None:
        """Wait until there is a decision or the time is up.

        Both can arrive in one workflow task, when no worker ran for a while: so the caller
        asks whether there is a decision, and not which of the two woke it.
        """
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._decision is not None,
                timeout=timeout,
                timeout_summary="Time to decide",
            )

    # `Any` lets what is no decision pass as far as the SignalGuard, which drops it with one
    # line in the log. Refused by type, it would cost a traceback at every replay.
    @workflow.signal
    def approve_order(self, decision: ApprovalDecision | Any) -> None:
        """Approve or reject the order. The first decision counts, however early it comes."""
        if self._decision is None:
            self._decision = decision
        else:
            workflow.logger.warning("Ignored %r: the first decision stands", decision.message)

    @workflow.query
    def status(self) -> OrderStatus:
        """Where the order stands."""
        return self._status

    @workflow.query
    def approval_message(self) -> str | None:
        """The decision in words; None while there is none."""
        return self._decision.message if self._decision else None

    def _enter(self, status: OrderStatus, details: str) -> None:
        self._status = status
        # What the Web UI shows of a running order; no event is written for it.
        workflow.set_current_details(details)
