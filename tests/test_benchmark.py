"""The benchmark compares orders with the floor, and its report has all rows: with a few orders."""

from contextlib import ExitStack
from xml.etree import ElementTree

import pytest
from temporalio.client import Client

from tests import benchmark
from tests.conftest import address_of


async def test_the_benchmark_compares_orders_with_the_floor(
    dev_server: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        sides = list(benchmark.sides(address_of(dev_server), stack))
        rows = await benchmark.compare(dev_server, sides, rounds=1, orders=1)
    capsys.readouterr()
    benchmark.print_report(rows)

    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows) == 2 + 12
    assert {(row["in_flight"], row["side"]) for row in rows} == {
        (in_flight, side) for in_flight in (1, 50, 300) for side in ("ours", "floor")
    }
    for row in rows:
        assert row["medians"]["median_ms"] > 0
        if row["approved"] == "when asked":
            # Any more or fewer, and the two no longer do the same work.
            assert row["ratios"]["history_events"] == pytest.approx(1, abs=0.15)
    picture = ElementTree.fromstring(benchmark.draw(rows))
    titles = ["orders a second", "median latency, seconds"]
    for title, panel in zip(titles, picture, strict=True):
        assert {title, "orders in flight", "1", "50", "300", "0", "ours", "floor"} <= set(
            panel.itertext()
        )
