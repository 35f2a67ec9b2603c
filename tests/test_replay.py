"""Orders that are already running must survive a new version of the workflow."""

from pathlib import Path

import pytest

from tests.history import recorded, replay
from tests.record_histories import HISTORIES, SCENARIOS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" in metafunc.fixturenames:
        paths = metafunc.config.getoption("history") or sorted(HISTORIES.glob("*.json"))
        metafunc.parametrize("path", paths, ids=[path.stem for path in paths])


async def test_a_recorded_order_goes_the_same_way_again(path: Path) -> None:
    try:
        history = recorded(path)
    except ValueError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    await replay(history)


def test_every_scenario_has_a_history() -> None:
    names = {path.stem for path in HISTORIES.glob("*.json")}

    assert names >= SCENARIOS.keys()  # Others were recorded by older code, and stay.
