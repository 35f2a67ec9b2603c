"""Decides about orders and asks how they stand: `uv run signals.py approve order-123`."""

import argparse
import getpass
import json
from dataclasses import asdict

from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import TemporalError
from temporalio.service import RPCError, RPCStatusCode

from order_fulfillment import orders
from order_fulfillment.orders import OrderError, OrderHandle, Report
from order_fulfillment.shared import TASK_QUEUE, ApprovalDecision
from order_fulfillment.support import command_line as cli
from order_fulfillment.support.connection import connect
from order_fulfillment.workflow import OrderWorkflow

VERBS = {
    "approve": "approve orders; the first decision about each counts",
    "reject": "reject orders; the first decision about each counts",
    "status": "print where an order stands",
    "approval-message": "print the decision, or None while there is none",
    "result": "wait for an order to end and print its result as one line of JSON",
}


async def decide(handle: OrderHandle, decision: ApprovalDecision, report: Report) -> str | None:
    """Send a decision; return it, or None if no worker confirms it. OrderError if another stands."""
    await orders.describe(handle)  # The ID may be that of another kind of workflow.
    try:
        # The server keeps a signal even while no worker runs. An update would need a worker.
        await handle.signal(OrderWorkflow.approve_order, decision)
        async with orders.worker_answers(handle):
            # A signal has no answer. A query tells whether another decision came first.
            first = await handle.query(OrderWorkflow.decision)
    except OrderError:
        see = orders.command("signals.py", "status", handle.id)
        report(f"the decision is safe on the server, but not confirmed yet; see why: {see}")
        return None
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        standing = f"closed already ({await status(handle, report)})"
    else:
        if first == decision:
            return decision.message
        assert first  # The worker took this signal, or an earlier one, before the query.
        standing = f"{first.message} (by {first.by})" if first.by else first.message
    raise OrderError(f"the decision changes nothing: order {handle.id!r} is {standing}")


async def status(handle: OrderHandle, report: Report) -> str:
    """Ask where an order stands, and report the failed attempts of its step."""
    description = await orders.describe(handle)
    for failed in orders.failed_attempts(description):
        report(failed)
    if description.status == WorkflowExecutionStatus.RUNNING:
        async with orders.worker_answers(handle):
            return await handle.query(OrderWorkflow.status)
    if description.status == WorkflowExecutionStatus.COMPLETED:
        return (await handle.result()).status  # It needs no worker.
    # The order failed, or was canceled, terminated or timed out.
    return description.status.name if description.status else ""


async def answer(handle: OrderHandle, arguments: argparse.Namespace, report: Report) -> str | None:
    """Do with one order as the verb says."""
    match arguments.verb:
        case "approve" | "reject" as verb:
            by = arguments.by or getpass.getuser()
            decision = ApprovalDecision(verb == "approve", arguments.note, by)
            return await decide(handle, decision, report)
        case "status":
            return await status(handle, report)
        case "approval-message":
            async with orders.worker_answers(handle):
                return str(await handle.query(OrderWorkflow.approval_message))
        case _:  # "result"
            await orders.follow(handle, report)
            return json.dumps(asdict(await handle.result()))


async def answer_all(arguments: argparse.Namespace) -> int:
    """Do with each order as the verb says, and return the exit code."""
    client = await connect()
    several = len(arguments.ids) > 1

    async def answer_one(order_id: str) -> int:
        prefix = f"{order_id}: " if several else ""
        handle = client.get_workflow_handle_for(OrderWorkflow.run, order_id)
        try:
            text = await answer(handle, arguments, lambda news: cli.print_message(prefix + news))
        except (OrderError, TemporalError) as error:
            cli.print_message(f"error: {prefix}{orders.explain(order_id, error)}")
            return 1
        if text:
            cli.print_result(*([order_id] if several else []), text)
        return 0

    return max(await cli.side_by_side(answer_one, dict.fromkeys(arguments.ids)))


async def list_pending() -> int:
    """Print the orders that wait for a decision, oldest first, and return the exit code."""
    client = await connect()
    if not await orders.ensure_search_attributes(client, cli.print_message):
        return 1
    waiting = f"TaskQueue = '{TASK_QUEUE}' AND OrderStatus = 'AWAITING_APPROVAL'"
    listed = client.list_workflows(f"{waiting} AND ExecutionStatus = 'Running'")
    for order in sorted([each async for each in listed], key=lambda each: each.start_time):
        customer = order.typed_search_attributes.get(orders.CUSTOMER, "?")
        total = await order.memo_value("total", "?")
        started = f"{order.start_time:%Y-%m-%dT%H:%M:%SZ}"
        cli.print_result(order.id, customer, total, started)
    return 0


def main() -> None:
    """Read the command line and do as its verb says."""
    parser = cli.ArgumentParser(description="Decide about orders, or ask how they stand.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, help in VERBS.items():
        subparser = verbs.add_parser(verb, help=help, description=help)
        subparser.add_argument("ids", metavar="ID", nargs="+", help="an order's ID")
        if verb in ("approve", "reject"):
            subparser.add_argument("--note", metavar="TEXT", help="why, in your words")
            subparser.add_argument("--by", metavar="NAME", help="your name (default: your login)")
    help = "list the orders that wait for a decision: ID, customer, total, start"
    verbs.add_parser("pending", help=help, description=help)
    arguments = parser.parse_args()
    if arguments.verb == "pending":
        cli.run(list_pending(), interrupted="no order was changed")
    else:
        see = orders.command("signals.py", "status", arguments.ids[0])
        cli.run(answer_all(arguments), interrupted=f"orders go on; see {see}")


if __name__ == "__main__":
    main()
