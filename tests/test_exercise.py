"""The solved exercise of docs/exercises.md: a reminder, and how it gets along with older orders."""

import importlib
import re
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.workflow import NondeterminismError

from order_fulfillment.shared import OrderStatus
from tests.conftest import SCRIPTS
from tests.history import place, recorded, replay, worker_with
from tests.record_histories import HISTORIES

EXERCISES = (SCRIPTS.parent / "docs/exercises.md").read_text()
PATCHED = 'workflow.patched("reminder")'


def workflow_with_reminder(folder: Path, *, patched: bool) -> type:
    """A copy of the workflow with the change that docs/exercises.md shows."""
    [change] = re.findall(r"```diff\n(.+?)```", EXERCISES, re.DOTALL)
    before = "".join(line[1:] for line in change.splitlines(True) if line[0] != "+")
    after = "".join(line[1:] for line in change.splitlines(True) if line[0] != "-")
    code = (SCRIPTS / "workflow.py").read_text()
    assert code.count(before) == after.count(PATCHED) == 1
    name = f"workflow_with_reminder_{uuid4().hex[:6]}"
    changed = after if patched else after.replace(PATCHED, "True")
    (folder / f"{name}.py").write_text(code.replace(before, changed))
    workflow: type = importlib.import_module(name).OrderWorkflow
    return workflow


@pytest.fixture(autouse=True)
def _importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)


async def test_without_the_patch_a_waiting_order_would_stall(tmp_path: Path) -> None:
    workflow = workflow_with_reminder(tmp_path, patched=False)

    with pytest.raises(NondeterminismError, match="TimerStarted"):
        await replay(recorded(HISTORIES / "waiting.json"), workflow)


@pytest.mark.parametrize("path", sorted(HISTORIES.glob("*.json")), ids=lambda path: path.stem)
async def test_with_the_patch_older_orders_go_on(tmp_path: Path, path: Path) -> None:
    workflow = workflow_with_reminder(tmp_path, patched=True)

    await replay(recorded(path), workflow)


async def test_the_approver_is_reminded_at_half_time(
    tmp_path: Path, time_skipping_server: Client
) -> None:
    @activity.defn
    async def notify_approver(text: str) -> None:
        pass

    workflow = workflow_with_reminder(tmp_path, patched=True)
    async with worker_with(
        time_skipping_server, "reminder", workflow, notify_approver=notify_approver
    ):
        order = await place(time_skipping_server, "reminder", approval_timeout=600)
        result = await order.result()

    first, second = [
        event.event_time.ToDatetime()
        for event in (await order.fetch_history()).events
        if event.activity_task_scheduled_event_attributes.activity_type.name == "notify_approver"
    ]
    assert result.status == OrderStatus.EXPIRED
    assert (second - first).total_seconds() == pytest.approx(300, abs=5)
