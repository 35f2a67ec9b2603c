"""Decides about an order and asks how it stands: `uv run signals.py approve order-123`."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

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
)
from order_fulfillment.shared import ApprovalDecision, OrderResult

if TYPE_CHECKING:
    from temporalio.client import WorkflowExecutionDescription, WorkflowHandle

    from order_fulfillment.workflow import OrderWorkflow

    type OrderHandle = WorkflowHandle[OrderWorkflow, OrderResult]

QUERY_SECONDS = 5


class UnansweredError(CommandError):
    """No worker answered a query, or the order's workflow task fails."""


async def decide(handle: "OrderHandle", decision: ApprovalDecision) -> None:
    """Signal a decision, then read back and print the decision that stands.

    Raises:
        CommandError: when the order is closed, or another decision stands.
    """
    from temporalio.service import RPCError, RPCStatusCode

    from order_fulfillment.workflow import OrderWorkflow

    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await handle.signal(OrderWorkflow.approve_order, decision)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        # The server says NOT_FOUND of a closed order too; if there is none, this raises.
        description = await describe(handle)
        assert description.status
        standing = description.status.name
        with suppress(UnansweredError):
            standing = await order_status(handle)
        raise CommandError(
            f"order {handle.id!r} is closed already ({standing}); the decision changes nothing"
        ) from None
    try:
        message = await query(handle, OrderWorkflow.approval_message)
        if message == decision.message:
            print(printable(message), flush=True)
            return
        standing = message or await order_status(handle)
    except UnansweredError as unanswered:
        hint(f"the decision is safe on the server, but not yet seen: {unanswered}")
        return
    raise CommandError(f"the decision changes nothing: order {handle.id!r} is {standing}")


async def order_status(handle: "OrderHandle") -> str:
    """Where the order stands: its own word, or the server's if the server closed it."""
    from temporalio.client import WorkflowExecutionStatus

    from order_fulfillment.workflow import OrderWorkflow

    description = await describe(handle)
    if description.status in (
        WorkflowExecutionStatus.TERMINATED,
        WorkflowExecutionStatus.TIMED_OUT,
    ):
        # The workflow was not told, and would answer a query with where it stood before.
        return description.status.name
    return await query(handle, OrderWorkflow.status)


async def describe(handle: "OrderHandle") -> "WorkflowExecutionDescription":
    """Ask the server about the order, which needs no worker."""
    async with asyncio.timeout(ANSWER_SECONDS):
        return await handle.describe()


async def query[T](handle: "OrderHandle", query: "Callable[[OrderWorkflow], T]") -> T:
    """Ask the order's workflow.

    Raises:
        UnansweredError: when there was no answer in time; says whose fault it is.
    """
    from temporalio.client import WorkflowQueryFailedError
    from temporalio.service import RPCError, RPCStatusCode

    try:
        async with asyncio.timeout(QUERY_SECONDS):
            return await handle.query(query)
    except (WorkflowQueryFailedError, TypeError, ValueError) as error:
        raise CommandError(f"{handle.id!r} is an order of another program: {error}") from None
    except RPCError as error:
        # The SDK reports a query that nobody answers with any of these.
        if error.status not in (
            RPCStatusCode.CANCELLED,
            RPCStatusCode.DEADLINE_EXCEEDED,
            RPCStatusCode.FAILED_PRECONDITION,
        ):
            raise
    except TimeoutError:
        pass
    failing = None
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            async for event in handle.fetch_history_events():
                if event.HasField("workflow_task_failed_event_attributes"):
                    failure = event.workflow_task_failed_event_attributes.failure
                    # The server's own reasons, such as a restart in between, have no message.
                    if failure.message:
                        failing = f"{failure.application_failure_info.type}: {failure.message}"
                elif event.HasField("workflow_task_completed_event_attributes"):
                    failing = None
    except TimeoutError:
        raise UnansweredError("the Temporal server gives no answer") from None
    if failing:
        raise UnansweredError(
            f"the workflow task of order {handle.id!r} fails: {failing}; mend workflow.py, "
            f"then restart the worker: {command('worker.py')}"
        )
    raise UnansweredError(f"no worker answers; start one with: {command('worker.py')}")


async def print_result(handle: "OrderHandle") -> None:
    """Wait until the order ends; report its progress on stderr, its result on stdout.

    Raises:
        CommandError: when the order failed, was canceled or was closed by the server.
    """
    from temporalio.client import WorkflowFailureError

    said = set[str]()

    def say_once(line: str) -> None:
        if line not in said:
            said.add(line)
            hint(line)

    progress = asyncio.create_task(_report_progress(handle, say_once))
    try:
        result = await handle.result()
    except WorkflowFailureError as error:
        raise CommandError(f"order {handle.id!r} {_how_it_ended(error.cause)}") from None
    finally:
        progress.cancel()
    say_once(f"status: {result.status}")
    print(json.dumps(asdict(result)), flush=True)


async def _report_progress(handle: "OrderHandle", say_once: Callable[[str], None]) -> None:
    from temporalio.service import RPCError

    from order_fulfillment.workflow import OrderWorkflow

    news = asyncio.Event()
    news.set()

    async def follow_history() -> None:
        # A history is a stream of events that stays open as long as the order.
        async for _ in handle.fetch_history_events(wait_new_event=True):
            news.set()

    following = asyncio.create_task(follow_history())
    # Whoever waits for the result meets a lost connection too, and reports it.
    with suppress(RPCError):
        while not following.done():
            await news.wait()
            news.clear()
            try:
                say_once(f"status: {await query(handle, OrderWorkflow.status)}")
            except CommandError as error:
                say_once(f"still waiting: {error}")


def _how_it_ended(cause: BaseException) -> str:
    from temporalio.exceptions import (
        ActivityError,
        ApplicationError,
        CancelledError,
        TerminatedError,
        TimeoutError,
    )

    match cause:
        case ActivityError(activity_type=step, cause=ApplicationError(type=kind) as error):
            return f"failed at {step}: {kind}: {error.message}; to try again, start a new order"
        case CancelledError():
            return "was canceled before it was approved; nothing was charged or shipped"
        case TerminatedError():
            return f"was terminated: {cause.message}; nobody finishes it"
        case TimeoutError():
            return "was timed out by the server; nobody finishes it"
    return f"failed: {cause}"


def main() -> None:
    """Read the command line and do what its verb says."""
    parser = ArgumentParser(description="Decide about an order, or ask how it stands.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, help in {
        "approve": "approve the order; the first decision counts",
        "reject": "reject the order; the first decision counts",
        "status": "print where the order stands",
        "approval-message": "print the decision, or None while there is none",
        "result": "wait for the order to end and print its result as one line of JSON",
    }.items():
        subparser = verbs.add_parser(verb, help=help, description=help)
        subparser.add_argument("id", metavar="ID", type=order_id, help="the order's ID")
        if verb in ("approve", "reject"):
            subparser.add_argument(
                "--note", metavar="TEXT", type=limited_text, help="why, in your words"
            )
    arguments = parser.parse_args()
    run(
        act(arguments.verb, arguments.id, getattr(arguments, "note", None)),
        interrupted=f"the order goes on; see {command('signals.py', 'status', arguments.id)}",
    )


async def act(verb: str, workflow_id: str, note: str | None) -> None:
    """Carry out one verb of the command line.

    Raises:
        CommandError: when there is no such order, or the verb's own work failed.
    """
    from temporalio.service import RPCError, RPCStatusCode

    from order_fulfillment.workflow import OrderWorkflow

    client = await connect()
    handle = client.get_workflow_handle_for(OrderWorkflow.run, workflow_id)
    try:
        if (await describe(handle)).workflow_type != "OrderWorkflow":
            raise CommandError(f"{workflow_id!r} is no order, but another kind of workflow")
        match verb:
            case "status":
                print(await order_status(handle), flush=True)
            case "approval-message":
                message = await query(handle, OrderWorkflow.approval_message)
                print(printable(str(message)), flush=True)
            case "result":
                await print_result(handle)
            case _:
                await decide(handle, ApprovalDecision(verb == "approve", note))
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        raise CommandError(
            f"there is no order {workflow_id!r}; start one with: {command('starter.py')}"
        ) from None


if __name__ == "__main__":
    main()
