"""Decides about an order and asks how it stands: `uv run signals.py approve order-123`."""

import json
from dataclasses import asdict

from order_fulfillment.shared import ApprovalDecision
from order_fulfillment.support.command_line import (
    ArgumentParser,
    command,
    hint,
    limited_text,
    run,
    say,
    workflow_id,
)

VERBS = {
    "approve": "approve the order; the first decision counts",
    "reject": "reject the order; the first decision counts",
    "status": "print where the order stands",
    "approval-message": "print the decision, or None while there is none",
    "result": "wait for the order to end and print its result as one line of JSON",
}


async def act(verb: str, order_id: str, note: str | None) -> None:
    """Carry out one verb of the command line."""
    # The SDK is imported only now: it takes most of a second, too long for `--help`.
    from order_fulfillment import orders
    from order_fulfillment.support.connection import connect

    order = await orders.find(await connect(), order_id)
    match verb:
        case "status":
            say(await orders.status(order))
        case "approval-message":
            say(str(await orders.approval_message(order)))
        case "result":
            say(json.dumps(asdict(await orders.result(order, report=hint))))
        case _:
            decision = ApprovalDecision(verb == "approve", note)
            try:
                await orders.decide(order, decision)
                say(decision.message)
            except orders.UnansweredError as unanswered:
                hint(f"the decision is safe on the server, but not yet seen: {unanswered}")


def main() -> None:
    """Read the command line and do what its verb says."""
    parser = ArgumentParser(description="Decide about an order, or ask how it stands.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, help in VERBS.items():
        subparser = verbs.add_parser(verb, help=help, description=help)
        subparser.add_argument("id", metavar="ID", type=workflow_id, help="the order's ID")
        if verb in ("approve", "reject"):
            subparser.add_argument(
                "--note", metavar="TEXT", type=limited_text, help="why, in your words"
            )
    arguments = parser.parse_args()
    run(
        act(arguments.verb, arguments.id, getattr(arguments, "note", None)),
        interrupted=f"the order goes on; see {command('signals.py', 'status', arguments.id)}",
    )


if __name__ == "__main__":
    main()
