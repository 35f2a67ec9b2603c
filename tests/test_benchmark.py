"""The benchmark runs, and its report has all rows: tried with a few orders."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.conftest import clean_environment


def test_the_benchmark_compares_orders_with_the_floor(tmp_path: Path) -> None:
    json_file, plot = tmp_path / "figures.json", tmp_path / "figures.svg"

    benchmark = subprocess.run(
        [
            *(sys.executable, Path(__file__).with_name("benchmark.py")),
            *("--rounds", "1", "--orders", "1", "--json", json_file, "--plot", plot),
        ],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert benchmark.returncode == 0, benchmark.stderr
    assert benchmark.stdout.startswith("\n| approved |")
    table = [line for line in benchmark.stdout.splitlines() if line.startswith("|")]
    rows = json.loads(json_file.read_text())["rows"]
    assert len(table) == 2 + len(rows) == 2 + 12
    assert {(row["in_flight"], row["side"]) for row in rows} == {
        (in_flight, side) for in_flight in (1, 50, 300) for side in ("ours", "floor")
    }
    for row in rows:
        assert row["medians"]["median_ms"] > 0
        if row["approved"] == "when asked":
            # Any more or fewer, and the two no longer do the same work.
            assert row["ratios"]["history_events"] == pytest.approx(1, abs=0.15)
    assert {"orders/s, ours", "latency, ours", "orders/s, floor", "latency, floor"} <= set(
        ElementTree.parse(plot).getroot().itertext()
    )
