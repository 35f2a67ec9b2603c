"""Decides about orders and asks how they stand: `uv run signals.py approve order-123`."""

import json
import os
from dataclasses import asdict

from order_fulfillment import orders, progress
from order_fulfillment.shared import TASK_QUEUE, ApprovalDecision
from order_fulfillment.support import command_line as cli
from order_fulfillment.support.connection import NoWorkerError, TemporalError, connect, queue_name

VERBS = {
    "approve": "approve orders; the first decision about each counts",
    "reject": "reject orders; the first decision about each counts",
    "status": "print where an order stands",
    "approval-message": "print the decision, or None while there is none",
    "result": "wait for an order to end and print its result as one line of JSON",
}


async def act(verb: str, order_ids: list[str], decision: ApprovalDecision | None) -> int:
    """Carry out a verb for each order, with the SDK's calls in orders.py; return the exit code."""
    client = await connect()
    several = len(order_ids) > 1
    exit_code = 0

    async def act_on(order_id: str) -> None:
        nonlocal exit_code
        prefix = f"{order_id}: " if several else ""
        try:
            order = await orders.find(client, order_id)  # It asks the server: IDs may be wrong.
            answer = await _answer(order, verb, decision, lambda news: cli.hint(f"{prefix}{news}"))
        except TemporalError as error:
            cli.hint(f"error: {prefix}{cli.explain(error)}")
            exit_code = 1
        else:
            if answer:
                cli.say(*([order_id] if several else []), answer)

    await cli.side_by_side(act_on, dict.fromkeys(order_ids))
    return exit_code


async def _answer(
    order: orders.OrderHandle, verb: str, decision: ApprovalDecision | None, report: orders.Report
) -> str:
    match verb:
        case "status":
            return await orders.status(order, report)
        case "approval-message":
            return str(await orders.approval_message(order))
        case "result":
            return json.dumps(asdict(await orders.result(order, report)))
    assert decision
    try:
        # A signal is safe on the server even if no worker runs, which an update is not. But only
        # a worker can tell whether it counts: so this asks, and raises an error if it does not.
        await orders.decide(order, decision)
    except (NoWorkerError, progress.WorkflowTaskError) as error:
        report(f"the decision is safe on the server, but not confirmed yet: {cli.explain(error)}")
        return ""
    return decision.message


async def list_pending(limit: int) -> None:
    """Print the orders that wait for a decision, a line each."""
    listed = 0
    async for order in orders.pending(await connect(), queue_name(default=TASK_QUEUE)):
        if listed >= limit:
            cli.hint(f"more orders are waiting than the limit of {limit}; see them with --limit")
            break
        listed += 1
        cli.say(order.order_id, order.customer, order.total, f"{order.started:%Y-%m-%dT%H:%M:%SZ}")


def main() -> None:
    """Read the command line and do what its verb says."""
    parser = cli.ArgumentParser(description="Decide about orders, or ask how they stand.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, help in VERBS.items():
        subparser = verbs.add_parser(verb, help=help, description=help)
        subparser.add_argument("ids", metavar="ID", nargs="+", help="an order's ID")
        if verb in ("approve", "reject"):
            subparser.add_argument("--note", metavar="TEXT", help="why, in your words")
            user, by_help = os.environ.get("USER"), "who decides (default: $USER)"
            subparser.add_argument("--by", metavar="NAME", default=user, help=by_help)
    help = "list the orders that wait for a decision: ID, customer, total, start"
    subparser = verbs.add_parser("pending", help=help, description=help)
    limit_help = "list at most this many (default: %(default)s)"
    subparser.add_argument("--limit", metavar="N", type=int, default=100, help=limit_help)
    arguments = parser.parse_args()
    decision = None
    if arguments.verb in ("approve", "reject"):
        try:
            decision = ApprovalDecision(arguments.verb == "approve", arguments.note, arguments.by)
        except ValueError as error:
            parser.error(str(error))
    if arguments.verb == "pending":
        cli.run(list_pending(arguments.limit), interrupted="nothing was changed")
    else:
        see = cli.command("signals.py", "status", arguments.ids[0])
        acting = act(arguments.verb, arguments.ids, decision)
        cli.run(acting, interrupted=f"orders go on; see {see}")


if __name__ == "__main__":
    main()
