"""A new version of the workflow while orders wait: Worker Versioning, on a real server."""

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from uuid import uuid4

from temporalio.api.deployment.v1 import WorkerDeploymentInfo
from temporalio.api.enums.v1 import TaskQueueType, VersionDrainageStatus
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeWorkerDeploymentRequest,
)
from temporalio.client import Client

from order_fulfillment.shared import ApprovalDecision, OrderItem, OrderStatus
from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop
from tests.history import OrderHandle, details, events, place, until, until_listed
from tests.page import type_command
from tests.script import wait_until

APPROVED = ApprovalDecision(approved=True)
NUMBER = 20
WAIT = "            self._enter(OrderStatus.AWAITING_APPROVAL)\n"
GIFT = """\
            socks = ReservationRequest(f"{key}/gift", {"temporal-socks": 1}, 60)
            await workflow.execute_activity_method(OrderActivities.reserve_inventory, socks, **STEP)
"""


def next_version(shop: Shop) -> Shop:
    """The shop with a step more before the wait, a gift, and without `workflow.patched`."""
    return shop.with_change("workflow.py", WAIT, f"{GIFT}{WAIT}")


async def deployment(client: Client, name: str) -> WorkerDeploymentInfo:
    request = DescribeWorkerDeploymentRequest(namespace="default", deployment_name=name)
    answer = await client.workflow_service.describe_worker_deployment(request)
    return answer.worker_deployment_info


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

    async def done() -> bool:
        # An error while the server has not heard of the version's worker.
        run = await asyncio.to_thread(shop.temporal, "worker", "deployment", *command)
        return run.returncode == 0

    async def known_to_the_task_queue() -> bool:
        # The deployment's own routing_config_update_state may never say so (temporal issue 11842).
        partitions = [name, *(f"/_sys/{name}/{number}" for number in range(1, 4))]
        return {await current_version(client, each) for each in partitions} == {build_id}

    await until(done, f"{build_id} to be current")
    await until(known_to_the_task_queue, "new orders to go there")


async def waiting(
    client: Client, shop: Shop, number: int = NUMBER, of: int | None = None
) -> list[OrderHandle]:
    """Orders that wait for a decision; as many as `of` wait with them."""
    orders = [
        await place(client, shop.task_queue, listed=True, approval_timeout=600)
        for _ in range(number)
    ]
    await until_listed(client, shop.task_queue, of or number)
    return orders


async def versions(order: OrderHandle) -> set[str]:
    """The versions whose workers have served the order."""
    tasks = await details(order, "WORKFLOW_TASK_COMPLETED")
    return {task.deployment_version.build_id for task in tasks}


async def until_failing(order: OrderHandle) -> None:
    """Wait until a step of the order is being retried."""

    async def failing() -> bool:
        steps = (await order.describe()).raw_description.pending_activities
        return any(step.attempt > 1 for step in steps)

    await until(failing, "an attempt to fail")


async def test_each_order_ends_on_the_version_on_which_it_began(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker("--build-id", "v1", "--pid-file", "v1.pid"):
        await make_current(dev_server, shop, "v1")
        old = await waiting(dev_server, shop)
        with next_version(shop).worker("--build-id", "v2", "--pid-file", "v2.pid"):
            await make_current(dev_server, shop, "v2")
            new = await waiting(dev_server, shop, of=2 * NUMBER)
            for order in old + new:
                await order.signal(OrderWorkflow.approve_order, APPROVED)
            results = [await order.result() for order in old + new]

            async def drained() -> bool:
                versions = (await deployment(dev_server, shop.task_queue)).version_summaries
                states = {
                    each.deployment_version.build_id: each.drainage_status for each in versions
                }
                return states["v1"] == VersionDrainageStatus.VERSION_DRAINAGE_STATUS_DRAINED

            await until(drained, "version 1 to be drained")

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
    bug = '# sku = sku.removesuffix("@@@")'
    spoiled = [OrderItem("temporal-mug@@@", 1, 12_00), OrderItem("temporal-mug", 2, 12_00)]
    with (
        shop.worker("--build-id", "v1", "--pid-file", "v1.pid"),
        shop.with_change("activities.py", bug, bug.removeprefix("# ")).worker(
            "--build-id", "v2", "--pid-file", "v2.pid"
        ) as fixed,
    ):
        await make_current(dev_server, shop, "v1")
        order = await place(dev_server, shop.task_queue, items=spoiled, approval_above_cents=500_00)
        await until_failing(order)
        await make_current(dev_server, shop, "v2")

        moved = await asyncio.to_thread(
            shop.temporal,
            *("workflow", "update-options", "--workflow-id", order.id),
            *("--versioning-override-behavior", "pinned"),
            *("--versioning-override-deployment-name", shop.task_queue),
            *("--versioning-override-build-id", "v2"),
        )

        assert moved.returncode == 0, moved.stderr
        assert (await order.result()).status == OrderStatus.FULFILLED
    assert "Reserved" in fixed.stderr
    with closing(sqlite3.connect(shop.books)) as books:
        paid = "SELECT count(*) FROM authorizations WHERE captured_at IS NOT NULL"
        assert books.execute(paid).fetchall() == [(1,)]
        assert books.execute("SELECT sum(quantity) FROM holds").fetchall() == [(3,)]


def another_wait(shop: Shop) -> Shop:
    """The shop with a pause more before the wait: a timer, which a replay takes for any other."""
    return shop.with_change("workflow.py", WAIT, f"{WAIT}            await workflow.sleep(0.5)\n")


async def none_without_version(shop: Shop) -> bool:
    count = await asyncio.to_thread(type_command, shop, "count", "Version IS NULL")
    return count == "Total: 0\n"


async def test_orders_that_rest_when_versions_begin_are_found_and_end_on_the_first(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker("--build-id", "v1", "--pid-file", "v1.pid"):
        with shop.worker():
            resting = await waiting(dev_server, shop, 3)
            await make_current(dev_server, shop, "v1")
        type_command(shop, "update-options", "Version IS NULL")
        await until(partial(none_without_version, shop), "all orders to have a version")
        with another_wait(shop).worker("--build-id", "v2", "--pid-file", "v2.pid"):
            await make_current(dev_server, shop, "v2")
            for order in resting:
                await order.signal(OrderWorkflow.approve_order, APPROVED)
                assert (await order.result()).status == OrderStatus.FULFILLED
                assert "v2" not in await versions(order)


async def test_an_order_that_hangs_on_a_wrong_version_is_found_and_reset(
    shop: Shop, dev_server: Client
) -> None:
    async def found() -> str:
        return await asyncio.to_thread(type_command, shop, "uv run signals.py pending")

    with shop.worker("--build-id", "v1", "--pid-file", "v1.pid"):
        await make_current(dev_server, shop, "v1")
        order, _ = await waiting(dev_server, shop, 2)
        with another_wait(shop).worker("--build-id", "v2", "--pid-file", "v2.pid"):
            await make_current(dev_server, shop, "v2")
            type_command(shop, "update-options", "--workflow-id", order_id=order.id)
            await order.signal(OrderWorkflow.approve_order, APPROVED)

            # It took the timer of its wait for the pause: no step, no error.
            assert (await until(found, "the order to be found")) == f"{order.id}\tapproved\n"
            assert "WORKFLOW_TASK_FAILED" not in await events(order)

            type_command(shop, "reset --workflow-id", order_id=order.id)
            again = dev_server.get_workflow_handle_for(OrderWorkflow.run, order.id)
            assert (await again.result()).status == OrderStatus.FULFILLED
    with closing(sqlite3.connect(shop.books)) as books:
        # The order's payment, reservation and delivery; the other one's payment and reservation.
        assert books.execute("SELECT count(*) FROM ledger").fetchall() == [(5,)]


async def test_orders_whose_version_has_no_worker_go_back_to_workers_without_a_version(
    shop: Shop, dev_server: Client
) -> None:
    with shop.worker():
        with shop.worker("--build-id", "v1", "--pid-file", "v1.pid"):
            await make_current(dev_server, shop, "v1")
        order = await place(dev_server, shop.task_queue, listed=True)

        type_command(shop, "set-current-version", "--unversioned")

        await until_listed(dev_server, shop.task_queue, 1)
        assert await versions(order) == {""}


async def test_the_version_that_lacks_a_worker_is_named(shop: Shop, dev_server: Client) -> None:
    with shop.worker():
        [pinned] = await waiting(dev_server, shop, 1)
    with shop.worker("--build-id", "v1"):
        await make_current(dev_server, shop, "v1")
        [begun] = await waiting(dev_server, shop, 1, of=2)
        type_command(shop, "update-options", "Version IS NULL")
        await until(partial(none_without_version, shop), "all orders to have a version")
    with shop.worker():
        asked = shop.run("signals.py", "status", pinned.id, begun.id)

    assert asked.returncode == 1
    assert asked.stderr.count("no worker of version v1 answers; start one with: uv run ") == 2
    assert asked.stderr.count("worker.py --build-id v1\n") == 2


async def test_an_order_without_an_input_is_told_apart_from_a_bug(
    open_shop: Shop, dev_server: Client
) -> None:
    order = await dev_server.start_workflow(
        "OrderWorkflow", id=f"order-{uuid4()}", task_queue=open_shop.task_queue
    )

    def told() -> bool:
        asked = open_shop.run("signals.py", "status", order.id)
        return "if its input is wrong, terminate it and start it anew" in asked.stderr

    await asyncio.to_thread(wait_until, told, "the reason")
    await order.terminate()
