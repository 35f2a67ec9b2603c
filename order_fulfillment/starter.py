"""Starts an order, or a file of orders: `uv run starter.py "Ada Lovelace"`."""

import json
import sys
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from secrets import token_hex

from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import TemporalError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from order_fulfillment import order_file, orders
from order_fulfillment.activities import LAST_OUTAGE_ATTEMPT
from order_fulfillment.orders import OrderHandle
from order_fulfillment.shared import TASK_QUEUE, Card, Order, OrderItem, dollars
from order_fulfillment.support import command_line as cli
from order_fulfillment.support.connection import connect
from order_fulfillment.workflow import OrderWorkflow

ITEMS = [OrderItem("temporal-tshirt", 1, 23_00), OrderItem("temporal-mug", 2, 12_00)]


async def start(client: Client, order_id: str, order: Order, searchable: bool) -> OrderHandle:
    """Start the workflow of an order, and return a handle that follows it."""
    total = dollars(order.total_cents)
    items = ", ".join(f"{item.quantity} {item.sku}" for item in order.items)
    approve = orders.command("signals.py", "approve", order_id)
    await client.start_workflow(
        OrderWorkflow.run,
        order,
        id=order_id,
        task_queue=TASK_QUEUE,
        # By default Temporal would reuse the ID of an order that has ended.
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        # The Web UI shows these details, in Markdown, to whoever opens the order.
        static_details=f"{items[:1000]}. Total: {total}. Approve it: `{approve}`",
        # Lists show the memo and the search attributes. People search by the search attributes.
        memo={"total": total},
        search_attributes=orders.search_attributes(order) if searchable else None,
    )
    # `temporal workflow reset` starts a new run of the order. A handle by ID has the result of that
    # run. The handle that start_workflow returns would ask for the result of the first run.
    return client.get_workflow_handle_for(OrderWorkflow.run, order_id)


async def start_one(order_id: str, order: Order, wait: bool) -> None:
    """Start an order, and print its ID and perhaps its result."""
    client = await connect()
    searchable = await orders.ensure_search_attributes(client, cli.print_message)
    handle = await start(client, order_id, order, searchable)
    cli.print_result(order_id)
    if wait:
        await orders.follow(handle, report=cli.print_message)
        cli.print_result(json.dumps(asdict(await handle.result())))
    elif sys.stdout.isatty():  # Otherwise a program has taken the ID.
        cli.print_message(f"its status: {orders.command('signals.py', 'status', order_id)}")


async def start_file(path: str, defaults: Order, wait: bool) -> int:
    """Start the orders of a file, and return the exit code. `defaults` has what they leave out."""
    lines = await cli.in_thread(order_file.read, path)  # stdin may wait for input.
    client = await connect()
    searchable = await orders.ensure_search_attributes(client, cli.print_message)
    started: list[OrderHandle] = []
    counts = Counter({"started": 0, "existed already": 0, "invalid": 0})

    async def start_next(numbered_line: tuple[int, bytes]) -> None:
        number, line = numbered_line
        try:
            order_id, order = order_file.parse(line, defaults)
            order_id = order_id or f"order-{token_hex(8)}"
            started.append(await start(client, order_id, order, searchable))
            counts["started"] += 1
            cli.print_result(order_id)
        except WorkflowAlreadyStartedError:  # Perhaps from the same file.
            counts["existed already"] += 1
        except (ValueError, RPCError) as error:
            if isinstance(error, RPCError) and error.status != RPCStatusCode.INVALID_ARGUMENT:
                raise
            counts["invalid"] += 1
            cli.print_message(f"line {number}: {error}")

    try:
        await cli.side_by_side(start_next, lines)
    finally:
        cli.print_message(", ".join(f"{count} {what}" for what, count in counts.items()))
    failed = await wait_for(started) if wait and started else 0
    return 1 if failed or counts["invalid"] else 0


async def wait_for(handles: list[OrderHandle]) -> int:
    """Print the results of orders, and return how many ended without one."""

    async def finish(handle: OrderHandle) -> str:
        told = False

        def report(news: str) -> None:
            nonlocal told
            if not told:  # Once is enough, since there are many orders.
                cli.print_message(f"{handle.id}: {news}")
            told = True

        try:
            await orders.follow(handle, report)
            result = await handle.result()
        except TemporalError as error:
            cli.print_message(f"error: {orders.explain(handle.id, error)}")
            return "without a result"
        cli.print_result(json.dumps(asdict(result)))
        return result.status

    ended = Counter(await cli.side_by_side(finish, handles))
    cli.print_message(", ".join(f"{count} {status}" for status, count in ended.items()))
    return ended["without a result"]


def main() -> None:
    """Read the command line and start what it asks for."""
    parser = cli.ArgumentParser(description="Start an order, or a file of orders; print their IDs.")
    next_year = f"{datetime.now(UTC) + timedelta(days=365):%m/%y}"
    add = parser.add_argument
    add("name", metavar="NAME", nargs="?", default="Ada Lovelace", help="who ordered")
    one_of = parser.add_mutually_exclusive_group()
    file_help = "orders in JSON Lines (- is stdin); options fill their gaps"
    one_of.add_argument("--file", metavar="PATH", help=file_help)
    one_of.add_argument("--workflow-id", metavar="ID", help="a new ID (default: a random one)")
    add("--card-expiry", metavar="MM/YY", default=next_year, help="the card's last month")
    timeout_help = "time to decide once the inventory is reserved (default: %(default)s)"
    add("--approval-timeout", metavar="SECONDS", type=float, default=30.0, help=timeout_help)
    above_help = "an order that costs no more needs no decision (default: every order needs one)"
    add("--approval-above", metavar="USD", type=float, default=0, help=above_help)
    add("--simulate-inventory-downtime", action="store_true", help="the warehouse stays down")
    attempts = range(LAST_OUTAGE_ATTEMPT)
    up_help = "the warehouse is down for this many attempts"
    add("--inventory-recovers-after", type=int, choices=attempts, default=0, help=up_help)
    add("--wait-result", action="store_true", help="wait for the end, and print the result as JSON")
    arguments = parser.parse_args()
    if arguments.simulate_inventory_downtime:
        arguments.inventory_recovers_after = LAST_OUTAGE_ATTEMPT
    try:
        order = Order(
            customer_name=arguments.name,
            items=ITEMS,
            card=Card("tok_sample", arguments.card_expiry),
            approval_timeout=arguments.approval_timeout,
            approval_above_cents=round(100 * arguments.approval_above),
            outage_attempts=arguments.inventory_recovers_after,
        )
        order.check()
    except (ValueError, OverflowError) as error:
        parser.error(str(error))
    interrupted = "what was started goes on"
    if arguments.file is not None:
        cli.run(start_file(arguments.file, order, arguments.wait_result), interrupted)
    else:
        order_id = arguments.workflow_id or f"order-{token_hex(4)}"
        interrupted += f"; follow it with: {orders.command('signals.py', 'result', order_id)}"
        starting = start_one(order_id, order, arguments.wait_result)
        cli.run(starting, interrupted, explain=lambda error: orders.explain(order_id, error))


if __name__ == "__main__":
    main()
