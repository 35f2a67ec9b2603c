"""A new version of the workflow while orders wait: Worker Versioning, on a real server."""

import asyncio
import re
from contextlib import AbstractContextManager

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from order_fulfillment.orders import OrderHandle
from order_fulfillment.shared import OrderItem, OrderStatus
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop
from tests.history import APPROVED, details, events, place, until, until_listed, waiting_in
from tests.page import type_command
from tests.script import Script, wait_until

NUMBER = 20
WAIT = "            self._enter(OrderStatus.AWAITING_APPROVAL)\n"
GIFT = """\
            socks = ReservationRequest(f"{key}/gift", {"temporal-socks": 1}, 60)
            await workflow.execute_activity("reserve_inventory", socks, **retry_unless())
"""


def version(shop: Shop, build_id: str) -> AbstractContextManager[Script]:
    """A worker of a version, with a PID file of its own."""
    return shop.worker("--build-id", build_id, "--pid-file", f"{build_id}.pid")


async def current_version(client: Client, task_queue: str) -> str:
    """The version to which a task queue sends new orders."""
    request = DescribeTaskQueueRequest(
        namespace="default",
        task_queue=TaskQueue(name=task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    queue = await client.workflow_service.describe_task_queue(request)
    return queue.versioning_info.current_deployment_version.build_id


async def make_current(client: Client, shop: Shop, build_id: str) -> None:
    """Let new orders begin on a version."""
    name = shop.task_queue
    command = ("set-current-version", "--deployment-name", name, "--build-id", build_id, "--yes")

    def done() -> bool:
        # An error while the server has not heard of the version's worker.
        return shop.temporal("worker", "deployment", *command).returncode == 0

    async def known_to_the_task_queue() -> bool:
        # The deployment's own routing_config_update_state may never say so (temporal issue 11842).
        partitions = [name, *(f"/_sys/{name}/{number}" for number in range(1, 4))]
        return {await current_version(client, each) for each in partitions} == {build_id}

    await asyncio.to_thread(wait_until, done, f"{build_id} to be current")
    await until(known_to_the_task_queue, "new orders to go there")


async def waiting(
    client: Client, shop: Shop, number: int = NUMBER, of: int | None = None
) -> list[OrderHandle]:
    """Orders that wait for a decision; as many as `of` wait with them."""
    orders = [
        await place(client, shop.task_queue, listed=True, approval_timeout=600)
        for _ in range(number)
    ]
    await until_listed(client, waiting_in(shop.task_queue), of or number)
    return orders


async def versions(order: OrderHandle) -> set[str]:
    """The versions whose workers have served the order."""
    tasks = await details(order, "WORKFLOW_TASK_COMPLETED")
    return {task.deployment_version.build_id for task in tasks}


def pin_resting_orders(shop: Shop) -> None:
    """Pin the orders that have no version to the first."""
    type_command(shop, "update-options", "Version IS NULL")
    without = ("count", "Version IS NULL")
    wait_until(lambda: type_command(shop, *without) == "Total: 0\n", "all to have a version")


async def test_each_order_ends_on_the_version_on_which_it_began(
    shop: Shop, dev_server: Client
) -> None:
    # A step more before the wait, a gift, without `workflow.patched`.
    next_shop = shop.with_change("workflow.py", WAIT, f"{GIFT}{WAIT}")
    with version(shop, "v1"):
        await make_current(dev_server, shop, "v1")
        old = await waiting(dev_server, shop)
        with version(next_shop, "v2"):
            await make_current(dev_server, shop, "v2")
            new = await waiting(dev_server, shop, of=2 * NUMBER)
            for order in old + new:
                await order.signal(OrderWorkflow.approve_order, APPROVED)
            results = [await order.result() for order in old + new]

            def drained() -> bool:
                describe = ("worker", "deployment", "describe", "--name", shop.task_queue)
                return bool(re.search(" v1 +drained ", shop.temporal(*describe).stdout))

            await asyncio.to_thread(wait_until, drained, "version 1 to be drained")

    assert {result.status for result in results} == {OrderStatus.FULFILLED}
    for expected, group in (({"v1"}, old), ({"v2"}, new)):
        for order in group:
            assert await versions(order) == expected
            happened = await events(order)
            assert "WORKFLOW_TASK_FAILED" not in happened
            assert "WORKFLOW_TASK_TIMED_OUT" not in happened


async def test_an_order_that_is_stuck_is_moved_to_the_version_with_the_fix(
    shop: Shop, dev_server: Client
) -> None:
    bug = '# items = [(sku.removesuffix("@@@"), quantity) for sku, quantity in items]'
    spoiled = [OrderItem("temporal-mug@@@", 1, 12_00), OrderItem("temporal-mug", 2, 12_00)]
    fixed_shop = shop.with_change("activities.py", bug, bug.removeprefix("# "))
    with version(shop, "v1") as broken, version(fixed_shop, "v2") as fixed:
        await make_current(dev_server, shop, "v1")
        order = await place(dev_server, shop.task_queue, items=spoiled, approval_above_cents=500_00)
        await asyncio.to_thread(broken.until_prints, "UnknownItemError")
        await make_current(dev_server, shop, "v2")

        type_command(shop, "update-options", "--workflow-id", order_id=order.id)

        assert (await order.result()).status == OrderStatus.FULFILLED
    assert "Reserved" in fixed.stderr
    assert shop.query("SELECT count(captured_at) FROM authorizations") == [(1,)]
    assert shop.query("SELECT sum(quantity) FROM holds") == [(3,)]


def another_wait(shop: Shop) -> Shop:
    """The shop with a pause more before the wait: a timer, which a replay takes for any other."""
    return shop.with_change("workflow.py", WAIT, f"{WAIT}            await workflow.sleep(0.5)\n")


async def test_orders_that_rest_when_versions_begin_are_found_and_end_on_the_first(
    shop: Shop, dev_server: Client
) -> None:
    with version(shop, "v1"):
        with shop.worker():
            resting = await waiting(dev_server, shop, 3)
            await make_current(dev_server, shop, "v1")
        pin_resting_orders(shop)
        with version(another_wait(shop), "v2"):
            await make_current(dev_server, shop, "v2")
            for order in resting:
                await order.signal(OrderWorkflow.approve_order, APPROVED)
                assert (await order.result()).status == OrderStatus.FULFILLED
                assert "v2" not in await versions(order)


async def test_an_order_that_hangs_on_a_wrong_version_is_found_and_reset(
    shop: Shop, dev_server: Client
) -> None:
    with version(shop, "v1"):
        await make_current(dev_server, shop, "v1")
        order, _ = await waiting(dev_server, shop, 2)
        with version(another_wait(shop), "v2"):
            await make_current(dev_server, shop, "v2")
            type_command(shop, "update-options", "--workflow-id", order_id=order.id)
            await order.signal(OrderWorkflow.approve_order, APPROVED)

            # It took the timer of its wait for the pause: no step, no error.
            found = type_command(shop, "uv run signals.py pending")
            assert found == f"{order.id}\t{APPROVED.message}\n"
            assert "WORKFLOW_TASK_FAILED" not in await events(order)

            type_command(shop, "reset --workflow-id", order_id=order.id)
            again = dev_server.get_workflow_handle_for(OrderWorkflow.run, order.id)
            assert (await again.result()).status == OrderStatus.FULFILLED
    # The order's payment, reservation and delivery; the other one's payment and reservation.
    assert shop.query("SELECT count(*) FROM ledger") == [(5,)]


async def test_orders_whose_version_has_no_worker_go_back_to_workers_without_a_version(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker():
        with version(shop, "v1"):
            await make_current(dev_server, shop, "v1")
        order = await place(dev_server, shop.task_queue, listed=True)

        type_command(shop, "set-current-version", "--unversioned")

        await until_listed(dev_server, waiting_in(shop.task_queue))
        assert await versions(order) == {""}


async def test_the_version_that_lacks_a_worker_is_named(shop: Shop, dev_server: Client) -> None:
    with shop.worker():
        [pinned] = await waiting(dev_server, shop, 1)
    with version(shop, "v1"):
        await make_current(dev_server, shop, "v1")
        [begun] = await waiting(dev_server, shop, 1, of=2)
        pin_resting_orders(shop)
    with shop.worker():
        asked = shop.run("signals.py", "status", pinned.id, begun.id)

    assert asked.returncode == 1
    assert asked.stderr.count("no worker of version v1 answers; start one with: uv run ") == 2
    assert asked.stderr.count("worker.py --build-id v1\n") == 2
