"""Starts an order: `uv run starter.py "Ada Lovelace"`."""

import argparse
import asyncio
from datetime import UTC, datetime
from secrets import token_hex

from order_fulfillment.cli import (
    ANSWER_SECONDS,
    ArgumentParser,
    CommandError,
    command,
    connect,
    hint,
    limited_text,
    order_id,
    printable,
    run,
    task_queue,
)
from order_fulfillment.shared import Order, parse_card_expiry

SAMPLE_PAYMENT_TOKEN = "tok_sample"
MIN_APPROVAL_SECONDS = 0.1
MAX_APPROVAL_SECONDS = 30 * 24 * 60 * 60


async def start(workflow_id: str, order: Order, wait: bool) -> None:
    """Start the order's workflow, print its ID and, if asked to, wait for its result.

    Raises:
        CommandError: when the ID was used before, the server does not answer, or the order
            waited for did not complete.
    """
    from temporalio.common import WorkflowIDReusePolicy
    from temporalio.exceptions import WorkflowAlreadyStartedError
    from temporalio.service import RPCError, RPCStatusCode

    from order_fulfillment.signals import print_result
    from order_fulfillment.workflow import OrderWorkflow

    client = await connect()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            handle = await client.start_workflow(
                OrderWorkflow.run,
                order,
                id=workflow_id,
                task_queue=task_queue(),
                # By default Temporal would reuse the ID of an order that has ended.
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                # The server takes at most 400 bytes; one character is at most 12 as JSON.
                static_summary=f"Order of {order.customer_name[:30]}",
            )
    except WorkflowAlreadyStartedError:
        raise CommandError(
            f"an order {workflow_id!r} exists already; choose another --workflow-id"
        ) from None
    except (TimeoutError, RPCError) as error:
        if isinstance(error, RPCError) and error.status != RPCStatusCode.UNAVAILABLE:
            raise
        raise CommandError(
            f"the Temporal server gave no answer; "
            f"the order may have started all the same: {command('signals.py', 'status', workflow_id)}"
        ) from None
    print(printable(workflow_id), flush=True)
    hint(f"approve it: {command('signals.py', 'approve', workflow_id)}")
    if wait:
        await print_result(handle)
    else:
        hint(f"see where it stands: {command('signals.py', 'status', workflow_id)}")


def create_parser() -> ArgumentParser:
    """What the command line may say."""
    parser = ArgumentParser(description="Start an order and print its workflow ID.")
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        type=limited_text,
        default="Ada Lovelace",
        help="who ordered (default: %(default)s)",
    )
    parser.add_argument(
        "--workflow-id",
        metavar="ID",
        type=order_id,
        default=f"order-{token_hex(4)}",
        help="a new ID for the order (default: order- and 8 random hex digits)",
    )
    parser.add_argument(
        "--card-expiry",
        metavar="MM/YY",
        type=_card_expiry,
        default=f"{datetime.now(UTC).month:02}/{(datetime.now(UTC).year + 1) % 100:02}",
        help="the last month in which the card is valid (default: %(default)s)",
    )
    parser.add_argument(
        "--approval-timeout",
        metavar="SECONDS",
        type=_approval_timeout,
        default=Order.approval_timeout,
        help="time to decide once the inventory is reserved (default: %(default)g)",
    )
    outage = parser.add_mutually_exclusive_group()
    outage.add_argument(
        "--simulate-inventory-downtime",
        dest="inventory_recovers_after",
        action="store_const",
        const=None,
        default=Order.inventory_recovers_after,
        help="the inventory service is down and stays down",
    )
    outage.add_argument(
        "--inventory-recovers-after",
        metavar="N",
        type=int,
        choices=(1, 2, 3),
        default=Order.inventory_recovers_after,
        help="the inventory service is down for the first N attempts, 1 to 3",
    )
    parser.add_argument(
        "--wait-result",
        action="store_true",
        help="wait for the order to end and print its result as one line of JSON",
    )
    return parser


def main() -> None:
    """Read the command line and start the order."""
    arguments = create_parser().parse_args()
    order = Order(
        customer_name=arguments.name,
        payment_token=SAMPLE_PAYMENT_TOKEN,
        card_expiry=arguments.card_expiry,
        approval_timeout=arguments.approval_timeout,
        inventory_recovers_after=arguments.inventory_recovers_after,
    )
    run(
        start(arguments.workflow_id, order, arguments.wait_result),
        interrupted="an order that was started goes on; follow it with: "
        + command("signals.py", "result", arguments.workflow_id),
    )


def _card_expiry(argument: str) -> str:
    try:
        parse_card_expiry(argument)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return argument


def _approval_timeout(argument: str) -> float:
    try:
        seconds = float(argument)
    except ValueError:
        seconds = float("nan")
    if not MIN_APPROVAL_SECONDS <= seconds <= MAX_APPROVAL_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{argument!r} is not a time from {MIN_APPROVAL_SECONDS} seconds to 30 days"
        )
    return seconds


if __name__ == "__main__":
    main()
