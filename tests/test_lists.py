"""What Temporal's own lists show of an order: `temporal workflow list`, the Web UI."""

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client

from order_fulfillment.workflow import OrderWorkflow
from tests.conftest import Shop, address_of, one_line, start_dev_server
from tests.history import events, until_listed


@pytest.mark.parametrize(
    ("verb", "status", "updates"),
    [("approve", "FULFILLED", 4), ("reject", "REJECTED", 3), (None, "CANCELED", 3)],
)
async def test_lists_tell_the_status_and_the_customer(
    open_shop: Shop, dev_server: Client, verb: str | None, status: str, updates: int
) -> None:
    order_id = open_shop.run("starter.py", "Ada O'Hara").stdout.strip()
    order = dev_server.get_workflow_handle_for(OrderWorkflow.run, order_id)
    mine = f"""WorkflowId = "{order_id}" AND Customer = "Ada O'Hara" AND OrderStatus = """

    await until_listed(dev_server, f"{mine}'AWAITING_APPROVAL'")
    details = await (await order.describe()).static_details()
    assert details
    assert details.startswith("1 temporal-tshirt, 2 temporal-mug. Total: 47.00 USD.")
    assert f"signals.py approve {order_id}`" in details
    if verb:
        open_shop.run("signals.py", verb, order_id)
    else:
        await order.cancel()
    await until_listed(dev_server, f"{mine}'{status}'")

    assert (await events(order)).count("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES") == updates


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ('Ada "The\t\\Countess" Lovelace', "Customer = 'Ada The Countess Lovelace'"),
        ("é" * 300, f"Customer = '{'é' * 255}'"),
        ("", "Customer = ''"),
    ],
)
async def test_any_name_is_found(
    open_shop: Shop, dev_server: Client, name: str, query: str
) -> None:
    order_id = open_shop.run("starter.py", name).stdout.strip()

    await until_listed(dev_server, f"{query} AND WorkflowId = '{order_id}'")


async def test_an_order_starts_where_no_search_attribute_may_be_created(shop: Shop) -> None:
    async with await start_dev_server() as server:
        # A namespace on SQLite has room for ten keywords.
        keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
        await server.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace="default", search_attributes={f"Other{i}": keyword for i in range(10)}
            )
        )
        shop = shop.with_environment(TEMPORAL_ADDRESS=address_of(server.client))
        line = '{"order_id": "A-%d", "items": [{"sku": "temporal-mug"}]}\n'
        (shop.folder / "orders.jsonl").write_text(line % 1 + line % 2)

        with shop.worker():
            started = shop.run("starter.py", "--file", "orders.jsonl")
            listed = shop.run("signals.py", "pending")
            approved = shop.run("signals.py", "approve", "A-1", "A-2")
            ended = shop.run("signals.py", "result", "A-1", "A-2")

    assert started.returncode == 0
    assert started.stderr.count("temporal operator search-attribute create") == 2
    assert listed.returncode == 1
    assert "orders are not searchable: " in one_line(listed.stderr)
    assert approved.returncode == 0
    assert [line.count('"FULFILLED"') for line in ended.stdout.splitlines()] == [1, 1]
