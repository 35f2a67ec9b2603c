"""Starts an order, or a file of orders: `uv run starter.py "Ada Lovelace"`."""

import argparse
import json
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Any

from order_fulfillment import order_file, orders
from order_fulfillment.activities import LAST_OUTAGE_ATTEMPT
from order_fulfillment.shared import CATALOGUE, TASK_QUEUE, Card, Order, OrderItem, Simulation
from order_fulfillment.support import command_line as cli
from order_fulfillment.support.connection import NoAnswerError, TemporalError, connect, queue_name


async def start(order_id: str, order: Order, wait: bool) -> None:
    """Start an order, with the SDK's calls in orders.py; print its ID and perhaps its result."""
    handle = await orders.start(await connect(), order_id, order, queue_name(default=TASK_QUEUE))
    cli.say(order_id)
    cli.hint(f"approve it: {cli.command('signals.py', 'approve', order_id)}")
    if wait:
        cli.say(json.dumps(asdict(await orders.result(handle, report=cli.hint))))
    else:
        cli.hint(f"see where it stands: {cli.command('signals.py', 'status', order_id)}")


async def start_all(path: str, model: Order, wait: bool) -> int:
    """Start the orders of a file, and return the exit code. What they leave out, the model has."""
    file = order_file.opened(path)  # First, so that a wrong path is told at once.
    client, queue = await connect(), queue_name(default=TASK_QUEUE)
    started: list[orders.OrderHandle] = []
    counts = Counter({"started": 0, "existed already": 0, "invalid": 0})
    failed = 0

    async def start_one(found: tuple[str, Any]) -> None:
        place, element = found
        try:
            order_id, order = order_file.parse(element, model)
            # Longer than that of a single order, since a file may have many of them.
            order_id = order_id or f"order-{token_hex(8)}"
            # So many orders at once may keep the server busy.
            handle = await orders.start(client, order_id, order, queue, seconds=30)
        except orders.OrderExistsError:  # Started by an earlier run with the same file.
            counts["existed already"] += 1
        except NoAnswerError:
            raise  # Ends the run: the server is gone.
        except (ValueError, TemporalError) as error:  # Some lines only the server refuses.
            counts["invalid"] += 1
            cli.hint(f"{place}: {error}")
        else:
            counts["started"] += 1
            cli.say(handle.id)
            if wait:
                started.append(handle)
        cli.progress(f"{counts.total()} read")

    async def finish(order: orders.OrderHandle) -> None:
        nonlocal failed
        try:
            cli.say(json.dumps(asdict(await orders.result(order))))
        except orders.OrderFailedError as error:  # Any other error ends the run.
            failed += 1
            cli.hint(f"error: {error}")

    try:
        await cli.side_by_side(start_one, order_file.elements(file))
    finally:
        cli.hint(", ".join(f"{count} {what}" for what, count in counts.items()))
    await cli.side_by_side(finish, started)
    return int(counts["invalid"] + failed > 0)


def item(argument: str) -> OrderItem:
    """An argument type: an article of the catalogue, and how much of it."""
    sku, _, quantity = argument.partition("=")
    if sku not in CATALOGUE:
        known = ", ".join(CATALOGUE)
        raise argparse.ArgumentTypeError(f"there is no article {sku!r}; there are: {known}")
    return OrderItem(sku, int(quantity or 1), CATALOGUE[sku])


def main() -> None:
    """Read the command line and start what it asks for."""
    prices = ", ".join(f"{sku} {cents / 100:.2f} USD" for sku, cents in CATALOGUE.items())
    parser = cli.ArgumentParser(
        description="Start an order, or a file of orders, and print their workflow IDs.",
        epilog=f"catalogue: {prices}",
    )
    name_help = "who ordered (default: %(default)s)"
    parser.add_argument("name", metavar="NAME", nargs="?", default="Ada Lovelace", help=name_help)
    file_help = "a file of orders (- is stdin); what they leave out is taken from the other options"
    parser.add_argument("--file", metavar="PATH", help=file_help)
    parser.add_argument("--workflow-id", metavar="ID", help="a new ID (default: a random one)")
    items_help = "repeat it for several articles (default: temporal-tshirt and temporal-mug=2)"
    parser.add_argument(
        "--item", metavar="SKU[=QUANTITY]", type=item, action="append", help=items_help
    )
    expiry = f"{datetime.now(UTC) + timedelta(days=365):%m/%y}"
    card_help = "the last month in which the card is valid (default: %(default)s)"
    parser.add_argument("--card-expiry", metavar="MM/YY", default=expiry, help=card_help)
    timeout_help = "time to decide once the inventory is reserved (default: %(default)s)"
    parser.add_argument(
        "--approval-timeout", metavar="SECONDS", type=float, default=30.0, help=timeout_help
    )
    above_help = "an order that costs no more needs no decision (default: every order needs one)"
    parser.add_argument(
        "--approval-above", metavar="AMOUNT", type=float, default=0, help=above_help
    )
    outage = parser.add_mutually_exclusive_group()
    outage.add_argument(
        "--simulate-inventory-downtime",
        action="store_true",
        help="the inventory service is down and stays down",
    )
    survived = range(1, LAST_OUTAGE_ATTEMPT)
    down_help = "it is down for this many attempts"
    outage.add_argument("--inventory-recovers-after", type=int, choices=survived, help=down_help)
    result_help = "wait for the order to end and print its result as one line of JSON"
    parser.add_argument("--wait-result", action="store_true", help=result_help)
    arguments = parser.parse_args()
    lasting = arguments.simulate_inventory_downtime
    try:
        order = Order(
            customer_name=arguments.name,
            items=arguments.item or [item("temporal-tshirt"), item("temporal-mug=2")],
            card=Card("tok_sample", arguments.card_expiry),
            approval_timeout=arguments.approval_timeout,
            approval_above_cents=round(100 * arguments.approval_above),
            simulation=Simulation(None if lasting else arguments.inventory_recovers_after or 0),
        )
        order.check()  # Not when it is decoded: accepted orders outlive a change of the limits.
    except (ValueError, OverflowError) as error:
        parser.error(str(error))
    interrupted = "what was started goes on"
    if arguments.file is None:
        order_id = arguments.workflow_id or f"order-{token_hex(4)}"
        interrupted += f"; follow it with: {cli.command('signals.py', 'result', order_id)}"
        cli.run(start(order_id, order, arguments.wait_result), interrupted=interrupted)
    elif arguments.workflow_id:
        parser.error("--workflow-id does not go with --file")
    else:
        cli.run(start_all(arguments.file, order, arguments.wait_result), interrupted=interrupted)


if __name__ == "__main__":
    main()
