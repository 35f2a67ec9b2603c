"""Orders that are already running must survive a new version of the workflow."""

from pathlib import Path

import pytest

from tests.history import recorded, replay
from tests.record_histories import HISTORIES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" in metafunc.fixturenames:
        paths = metafunc.config.getoption("history") or sorted(HISTORIES.glob("*.json"))
        metafunc.parametrize("path", paths, ids=[path.stem for path in paths])


async def test_a_recorded_order_goes_the_same_way_again(path: Path) -> None:
    await replay(recorded(path))
