"""Decides about orders and asks how they stand: `uv run signals.py approve order-123`."""

import order_fulfillment.support.early_interrupt  # noqa: F401

# isort: split

import getpass
import json
from argparse import Namespace
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from order_fulfillment.shared import MAX_TEXT_BYTES, TASK_QUEUE, ApprovalDecision
from order_fulfillment.support.command_line import (
    ArgumentParser,
    CommandError,
    command,
    hint,
    limited_text,
    run,
    say,
    side_by_side,
    whole_number,
    workflow_id,
)

if TYPE_CHECKING:
    from order_fulfillment.orders import OrderHandle

VERBS = {
    "approve": "approve orders; the first decision about each counts",
    "reject": "reject orders; the first decision about each counts",
    "status": "print where an order stands",
    "approval-message": "print the decision, or None while there is none",
    "result": "wait for an order to end and print its result as one line of JSON",
}
MAX_LIMIT = 100_000


async def act(arguments: Namespace) -> None:
    """Carry out one verb of the command line for each of its orders."""
    # The SDK is imported only now: it takes up to a second, too long for `--help`.
    from order_fulfillment import orders
    from order_fulfillment.support.connection import connect

    client = await connect()
    order_ids = dict.fromkeys(arguments.ids)
    several = len(order_ids) > 1
    went_wrong = 0
    unwritten: CommandError | None = None

    async def act_on(order_id: str) -> None:
        nonlocal went_wrong, unwritten
        prefix = f"{order_id}: " if several else ""
        try:
            order = await orders.find(client, order_id)
            answer = await _answer(order, arguments, prefix)
        except CommandError as error:
            went_wrong += 1
            hint(f"error: {prefix}{error}")
            return
        try:
            if answer:
                say(*([order_id] if several else []), answer)
        except CommandError as error:
            if arguments.verb not in ("approve", "reject"):
                raise
            unwritten = error  # Nobody reads on, but every order is to be decided about.

    await side_by_side(act_on, order_ids, orders.SIDE_BY_SIDE)
    if went_wrong:
        raise CommandError  # Each has had its line.
    if unwritten:
        raise unwritten


async def _answer(order: "OrderHandle", arguments: Namespace, prefix: str) -> str:
    from order_fulfillment import orders

    def report(news: str) -> None:
        hint(f"{prefix}{news}")

    match arguments.verb:
        case "status":
            return await orders.status(order, report)
        case "approval-message":
            return str(await orders.approval_message(order))
        case "result":
            return json.dumps(asdict(await orders.result(order, report)))
    decision = ApprovalDecision(arguments.verb == "approve", arguments.note, arguments.by)
    try:
        await orders.decide(order, decision)
    except orders.UnansweredError as unanswered:
        report(
            f"the decision is safe on the server, but no worker has confirmed it yet: {unanswered}"
        )
        return ""
    return decision.message


async def list_pending(limit: int) -> None:
    """Print the orders that wait for a decision, a line each."""
    from order_fulfillment import orders
    from order_fulfillment.support.connection import connect, task_queue

    listed = 0
    async for order in orders.pending(await connect(), task_queue(TASK_QUEUE), report=hint):
        if listed == limit:
            hint(f"more orders are waiting than the limit of {limit}; see them with --limit")
            break
        listed += 1
        started = f"{order.started:%Y-%m-%dT%H:%M:%SZ}"
        say(order.order_id, order.customer, order.total, started)


def main() -> None:
    """Read the command line and do what its verb says."""
    parser = ArgumentParser(description="Decide about orders, or ask how they stand.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, help in VERBS.items():
        subparser = verbs.add_parser(verb, help=help, description=help)
        subparser.add_argument(
            "ids", metavar="ID", nargs="+", type=workflow_id, help="an order's ID"
        )
        if verb in ("approve", "reject"):
            subparser.add_argument(
                "--note",
                metavar="TEXT",
                type=limited_text(MAX_TEXT_BYTES),
                help="why, in your words",
            )
            subparser.add_argument(
                "--by",
                metavar="NAME",
                type=limited_text(MAX_TEXT_BYTES),
                default=_user(),
                help="who decides (default: the user who is logged in)",
            )
    help = "list the orders that wait for a decision: ID, customer, total, start"
    subparser = verbs.add_parser("pending", help=help, description=help)
    subparser.add_argument(
        "--limit",
        metavar="N",
        type=whole_number(1, MAX_LIMIT),
        default=100,
        help="list at most this many (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.verb == "pending":
        run(list_pending(arguments.limit), interrupted="nothing was changed")
    goes_on = "the orders go on" if len(arguments.ids) > 1 else "the order goes on"
    run(
        act(arguments),
        interrupted=f"{goes_on}; see {command('signals.py', 'status', arguments.ids[0])}",
    )


def _user() -> str | None:
    with suppress(OSError, KeyError, ImportError):  # Some containers know no user.
        return getpass.getuser()
    return None


if __name__ == "__main__":
    main()
