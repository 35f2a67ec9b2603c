"""Starts an order, or many: `uv run starter.py "Ada Lovelace"`."""

import order_fulfillment.support.early_interrupt  # noqa: F401

# isort: split

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from random import randint, sample
from secrets import token_hex

from order_fulfillment.shared import (
    CATALOGUE,
    MAX_APPROVAL_SECONDS,
    MAX_QUANTITY,
    MAX_TEXT_BYTES,
    MIN_APPROVAL_SECONDS,
    TASK_QUEUE,
    Card,
    Order,
    OrderItem,
    Simulation,
    parse_card_expiry,
)
from order_fulfillment.support.command_line import (
    ArgumentParser,
    CommandError,
    command,
    hint,
    limited_text,
    progress,
    run,
    say,
    side_by_side,
    whole_number,
    workflow_id,
)

MAX_ORDERS = 10_000


async def start(order_id: str, order: Order, wait: bool) -> None:
    """Start the order, print its ID and, if asked to, wait for its result."""
    # The SDK is imported only now: it takes up to a second, too long for `--help`.
    from order_fulfillment import orders
    from order_fulfillment.support.connection import connect, task_queue

    handle = await orders.start(await connect(), order_id, order, task_queue(TASK_QUEUE))
    say(order_id)
    hint(f"approve it: {command('signals.py', 'approve', order_id)}")
    if wait:
        say(json.dumps(asdict(await orders.result(handle, report=hint))))
    else:
        hint(f"see where it stands: {command('signals.py', 'status', order_id)}")


async def start_many(count: int, invalid: int, model: Order, wait: bool) -> None:
    """Start a number of orders of random articles, print their IDs and, if asked to, their results.

    Args:
        count: How many.
        invalid: How many of them the web shop spoils.
        model: What they have in common.
        wait: Whether to wait for the results.

    Raises:
        CommandError: when an order failed.
    """
    from order_fulfillment import orders
    from order_fulfillment.support.connection import connect, task_queue

    client = await connect()
    queue = task_queue(TASK_QUEUE)
    batch = _new_id()
    started: list[str] = []

    async def start_one(numbered: tuple[int, Order]) -> None:
        number, order = numbered
        order_id = f"{batch}-{number:0{len(str(count))}}"
        await orders.start(client, order_id, order, queue)
        started.append(order_id)
        progress()
        say(order_id)
        progress(f"{len(started)} of {count} orders were started")

    try:
        await side_by_side(
            start_one, enumerate(_random_orders(count, invalid, model), 1), orders.SIDE_BY_SIDE
        )
    finally:
        progress()
        rest = (
            "" if len(started) == count else f", perhaps a few more; their IDs begin with {batch}"
        )
        hint(f"{len(started)} of {count} orders were started{rest}")
    if not wait:
        return
    outcomes = Counter[str]()
    async for status, result in orders.results(client, started, queue):
        outcomes[status] += 1
        progress()
        if isinstance(result, orders.OrderFailedError):
            hint(f"error: {result}")
        else:
            say(json.dumps(asdict(result)))
        progress(f"{outcomes.total()} of {count} orders have ended")
    progress()
    hint(", ".join(f"{number} {status}" for status, number in outcomes.most_common()))
    if not outcomes.keys() <= {"FULFILLED", "REJECTED", "EXPIRED"}:
        raise CommandError("not all orders have a result")


def _random_orders(count: int, invalid: int, model: Order) -> Iterator[Order]:
    plentiful = [sku for sku, article in CATALOGUE.items() if article.on_hand > MAX_ORDERS]
    spoiled = set(sample(range(count), invalid))
    for number in range(count):
        items = [
            OrderItem(sku, randint(1, 3), CATALOGUE[sku].unit_price_cents)
            for sku in sample(plentiful, randint(1, 3))
        ]
        if number in spoiled:
            items[0] = replace(items[0], sku=f"{items[0].sku}@@@")
        yield replace(model, items=items)


def _new_id() -> str:
    return f"order-{token_hex(4)}"


def create_parser() -> ArgumentParser:
    """The arguments of the command line."""
    now = datetime.now(UTC)
    parser = ArgumentParser(
        description="Start an order and print its workflow ID.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="catalogue:\n"
        + "\n".join(
            f"  {sku:18} {article.unit_price_cents / 100:6.2f} USD  {article.name}"
            for sku, article in CATALOGUE.items()
        ),
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        type=limited_text(MAX_TEXT_BYTES),
        default="Ada Lovelace",
        help="who ordered (default: %(default)s)",
    )
    parser.add_argument(
        "--workflow-id",
        metavar="ID",
        type=workflow_id,
        help="a new ID for the order (default: order- and 8 random hex digits)",
    )
    parser.add_argument(
        "--item",
        metavar="SKU[=QUANTITY]",
        dest="items",
        type=_item,
        action="append",
        help=f"an article of the catalogue, 1 to {MAX_QUANTITY} of it; repeat it for several "
        "(default: temporal-tshirt and temporal-mug=2)",
    )
    parser.add_argument(
        "--card-expiry",
        metavar="MM/YY",
        type=_card_expiry,
        default=f"{now.month:02}/{(now.year + 1) % 100:02}",
        help="the last month in which the card is valid (default: %(default)s)",
    )
    parser.add_argument(
        "--approval-timeout",
        metavar="SECONDS",
        type=_approval_timeout,
        default=Order.approval_timeout,
        help="time to decide once the inventory is reserved (default: %(default)g)",
    )
    parser.add_argument(
        "--approval-above",
        metavar="AMOUNT",
        type=_cents,
        default=Order.approval_above_cents,
        help="an order that costs no more needs no decision (default: every order needs one)",
    )
    outage = parser.add_mutually_exclusive_group()
    outage.add_argument(
        "--simulate-inventory-downtime",
        dest="inventory_recovers_after",
        action="store_const",
        const=None,
        default=Simulation.inventory_recovers_after,
        help="the inventory service is down and stays down",
    )
    outage.add_argument(
        "--inventory-recovers-after",
        metavar="N",
        type=int,
        choices=(1, 2, 3),
        default=Simulation.inventory_recovers_after,
        help="the inventory service is down for the first N attempts, 1 to 3",
    )
    parser.add_argument(
        "--orders",
        metavar="N",
        type=whole_number(1, MAX_ORDERS),
        help=f"start this many orders of random articles, 1 to {MAX_ORDERS}",
    )
    parser.add_argument(
        "--invalid-percentage",
        metavar="P",
        type=whole_number(0, 100),
        help="how many of --orders name an article that the warehouse does not know (default: 0)",
    )
    parser.add_argument(
        "--wait-result",
        action="store_true",
        help="wait for the order to end and print its result as one line of JSON",
    )
    return parser


def main() -> None:
    """Read the command line and start the order."""
    parser = create_parser()
    arguments = parser.parse_args()
    items = arguments.items or [_item("temporal-tshirt"), _item("temporal-mug=2")]
    if len({item.sku for item in items}) < len(items):
        parser.error(f"an --item is repeated; the catalogue has: {', '.join(CATALOGUE)}")
    if arguments.orders and (arguments.items or arguments.workflow_id):
        parser.error("--orders makes up the IDs and items; leave out --workflow-id and --item")
    if arguments.invalid_percentage is not None and not arguments.orders:
        parser.error("--invalid-percentage goes with --orders")
    order = Order(
        customer_name=arguments.name,
        items=items,
        card=Card("tok_sample", arguments.card_expiry),
        approval_timeout=arguments.approval_timeout,
        approval_above_cents=arguments.approval_above,
        simulation=Simulation(arguments.inventory_recovers_after),
    )
    if arguments.orders:
        invalid = arguments.orders * (arguments.invalid_percentage or 0) // 100
        run(
            start_many(arguments.orders, invalid, order, arguments.wait_result),
            interrupted="the orders that were started go on",
        )
    order_id = arguments.workflow_id or _new_id()
    run(
        start(order_id, order, arguments.wait_result),
        interrupted="an order that was started goes on; follow it with: "
        + command("signals.py", "result", order_id),
    )


def _item(argument: str) -> OrderItem:
    sku, equals, quantity = argument.partition("=")
    known = f"the catalogue has: {', '.join(CATALOGUE)}"
    if sku not in CATALOGUE:
        raise argparse.ArgumentTypeError(f"there is no article {sku!r}; {known}")
    if equals and not (re.fullmatch("[0-9]{1,4}", quantity) and 1 <= int(quantity) <= MAX_QUANTITY):
        raise argparse.ArgumentTypeError(
            f"{quantity!r} is not a quantity from 1 to {MAX_QUANTITY}; {known}"
        )
    return OrderItem(sku, int(quantity or 1), CATALOGUE[sku].unit_price_cents)


def _cents(argument: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,2})?", argument):
        raise argparse.ArgumentTypeError(f"{argument!r} is not an amount such as 100 or 99.50")
    units, _, cents = argument.partition(".")
    return 100 * int(units) + int(cents.ljust(2, "0"))


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
