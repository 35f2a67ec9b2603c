"""Orders that are already running must survive a new version of the workflow."""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from order_fulfillment.shared import Order
from order_fulfillment.support.signal_interceptor import SignalGuard
from order_fulfillment.support.workflow_input import InputGuard, input_converter
from order_fulfillment.workflow import OrderWorkflow
from tests.record_histories import HISTORIES, SCENARIOS


def test_every_scenario_has_a_history() -> None:
    recorded = {path.stem for path in HISTORIES.glob("*.json")}

    assert recorded == {scenario.__name__ for scenario in SCENARIOS}


@pytest.mark.parametrize("path", sorted(HISTORIES.glob("*.json")), ids=lambda path: path.stem)
async def test_a_recorded_order_goes_the_same_way_again(path: Path) -> None:
    replayer = Replayer(
        workflows=[OrderWorkflow],
        interceptors=[InputGuard(), SignalGuard()],
        data_converter=input_converter(Order),
    )

    await replayer.replay_workflow(WorkflowHistory.from_json(path.stem, path.read_text()))
