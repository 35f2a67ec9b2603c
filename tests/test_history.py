"""Histories that people bring: the forms that can be replayed, and what is said of others."""

import asyncio
import json
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import pytest
from temporalio.client import Client

from tests import test_replay
from tests.conftest import address_of, one_line
from tests.history import create_worker, place, recorded, replay

DECODED = """{"events": [{"eventId": "1", "workflowExecutionStartedEventAttributes":
    {"input": {"payloads": [{"metadata": {"encoding": "json/plain"}, "data": {"a": "b"}}]}}}]}"""


async def test_a_history_comes_in_many_forms(dev_server: Client, tmp_path: Path) -> None:
    task_queue = f"orders-{uuid4()}"
    async with create_worker(dev_server, task_queue):
        order = await place(dev_server, task_queue, approval_timeout=0.1)
        await order.result()
    host, port = address_of(dev_server).split(":")
    url = f"http://{host}:{int(port) + 1000}/api/v1/namespaces/default/workflows/{order.id}/history"
    with await asyncio.to_thread(urlopen, url) as answer:
        from_http_api = json.load(answer)
    from_sdk = json.loads((await order.fetch_history()).to_json())

    for form in (from_http_api, from_http_api["history"], from_sdk, from_sdk["events"]):
        (tmp_path / "order.json").write_text(json.dumps(form))
        history = recorded(tmp_path / "order.json")
        await replay(history)
        started = history.events[0].workflow_execution_started_event_attributes
        assert json.loads(started.input.payloads[0].data)["customer_name"] == "Ada Lovelace"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("no JSON", "is not the history of a workflow"),
        ('{"events": []}', "is not the history of a workflow"),
        (DECODED, "were decoded for display"),
    ],
)
async def test_what_cannot_be_replayed_is_told_in_one_line(
    tmp_path: Path, content: str, error: str
) -> None:
    (tmp_path / "order-1.json").write_text(content)

    with pytest.raises(pytest.fail.Exception) as failed:
        await test_replay.test_a_recorded_order_goes_the_same_way_again(tmp_path / "order-1.json")

    assert error in one_line(str(failed.value))
    assert str(failed.value).endswith("temporal workflow show --workflow-id order-1 --output json")
