"""Many orders at once: started together, some of them invalid, and waited for."""

import json
import re
import signal

from temporalio.client import Client

from order_fulfillment.shared import CATALOGUE
from tests.conftest import Shop, wait_until
from tests.test_books import query


def test_many_orders_are_started_and_some_of_them_are_invalid(shop: Shop) -> None:
    started = shop.run(
        "starter.py", "--orders", "9", "--invalid-percentage", "34", "--approval-above", "500"
    )
    ids = started.stdout.split()
    with shop.worker() as worker:

        def shipped() -> int:
            return int(query(shop, "SELECT count(*) FROM shipments")[0][0])

        wait_until(lambda: shipped() == 6, "the valid orders to be shipped")
        wait_until(lambda: worker.log.count("does not know") >= 6, "the others to be retried")
        stuck = shop.run("signals.py", "status", *ids)
    held = query(shop, "SELECT sku, quantity FROM hold_items")
    [(paid,)] = query(shop, "SELECT count(*) FROM authorizations")

    assert (started.returncode, started.stderr) == (0, "9 of 9 orders were started\n")
    assert len(set(ids)) == 9
    lines = [line for line in stuck.stdout.splitlines() if line.endswith("RESERVING_INVENTORY")]
    assert len(lines) == 3
    for line in lines:
        assert re.search(
            rf"^{line.split()[0]}: reserve_inventory, attempt \d+ failed: "
            r"UnknownItemError: the warehouse does not know 'temporal-[a-z]+@@@'$",
            stuck.stderr,
            re.MULTILINE,
        )
    assert paid == 9
    assert {sku for sku, _ in held} <= CATALOGUE.keys()
    assert {quantity for _, quantity in held} <= {1, 2, 3}


def test_the_results_of_many_orders_are_printed_as_they_end(open_shop: Shop) -> None:
    ended = open_shop.run(
        "starter.py", "--orders", "5", "--approval-timeout", "0.1", "--wait-result"
    )

    assert ended.returncode == 0
    ids, results = ended.stdout.splitlines()[:5], ended.stdout.splitlines()[5:]
    assert sorted(json.loads(result)["order_id"] for result in results) == sorted(ids)
    assert ended.stderr == "5 of 5 orders were started\n5 EXPIRED\n"


def test_when_some_of_many_orders_fail_the_exit_code_says_so(open_shop: Shop) -> None:
    failed = open_shop.run("starter.py", "--orders", "3", "--card-expiry", "12/23", "--wait-result")

    assert failed.returncode == 1
    assert len(failed.stdout.splitlines()) == 3
    first, *failures, summary, last = failed.stderr.splitlines()
    assert first == "3 of 3 orders were started"
    assert len([line for line in failures if "PaymentValidationError" in line]) == 3
    assert (summary, last) == ("3 FAILED", "error: not all orders have a result")


async def test_orders_that_are_gone_do_not_end_the_wait_for_the_others(
    open_shop: Shop, dev_server: Client
) -> None:
    starter = open_shop.start(
        "starter.py", "--orders", "3", "--approval-timeout", "3", "--wait-result"
    )
    assert starter.stdout
    assert starter.stderr
    ids = sorted(starter.stdout.readline().strip() for _ in range(3))
    assert "3 of 3" in starter.stderr.readline()

    await dev_server.get_workflow_handle(ids[0]).terminate(reason="out of stock")
    open_shop.temporal("workflow", "delete", "--workflow-id", ids[1], "--yes")

    results, errors = starter.stdout.readlines(), starter.stderr.readlines()
    assert starter.wait(timeout=30) == 1
    assert [json.loads(result)["order_id"] for result in results] == [ids[2]]
    assert any("was terminated: out of stock" in error for error in errors)
    assert any(f"there is no order '{ids[1]}'" in error for error in errors)
    assert {*errors[-2].strip().split(", ")} == {"1 EXPIRED", "1 TERMINATED", "1 DELETED"}


def test_ctrl_c_says_how_many_orders_were_started(shop: Shop) -> None:
    starter = shop.start("starter.py", "--orders", "10000")
    assert starter.stdout
    assert starter.stderr
    starter.stdout.readline()

    starter.send_signal(signal.SIGINT)
    printed = 1 + len(starter.stdout.readlines())
    count, interrupted = starter.stderr.read().splitlines()

    assert starter.wait(timeout=30) == 130
    assert re.fullmatch(
        rf"{printed} of 10000 orders were started, perhaps a few more; "
        r"their IDs begin with order-[0-9a-f]{8}",
        count,
    )
    assert interrupted == "interrupted: the orders that were started go on"
    assert 0 < printed < 10_000
