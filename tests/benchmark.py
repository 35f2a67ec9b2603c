"""What an order costs, next to the floor: `uv run tests/benchmark.py`.

Starts a dev server, the real worker, and a worker of the floor: the barest workflow that does the
same Temporal work. Both get the same orders in turns, because a machine that is busy elsewhere
slows down both.
"""

import asyncio
import math
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import psutil
import pygal
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy

from order_fulfillment.shared import ApprovalDecision
from order_fulfillment.support.command_line import ArgumentParser, print_message, run
from tests.conftest import address_of, shop_on, start_dev_server
from tests.history import ORDER

IN_FLIGHT = (1, 50, 300)
HEADINGS = {
    "median_ms": "median, ms",
    "p95_ms": "p95, ms",
    "orders_per_second": "orders/s",
    "worker_cpu_seconds": "worker CPU s / 1,000",
    "history_events": "history events",
    "history_bytes": "history bytes",
    "peak_mb": "peak memory, MB",
}

type Figures = dict[str, float]


@dataclass
class Side:
    """A workflow to measure, and the worker process that serves it on a queue of its own."""

    name: str
    start: dict[str, Any]
    decision: object
    worker: psutil.Process
    peak_bytes: int = 0

    def cpu_seconds(self) -> float:
        times = self.worker.cpu_times()
        return float(times.user + times.system)

    def watch_memory(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.worker.memory_info().rss)


async def fulfill(client: Client, side: Side, early: bool) -> WorkflowHandle[Any, Any]:
    """See one order through, approving it right after the start or once it asks."""
    handle: WorkflowHandle[Any, Any] = await client.start_workflow(
        id=f"order-{uuid4().hex[:8]}", **side.start
    )
    if not early:
        # The wait for a decision starts a timer, and every history shows it at once. To ask
        # the workflow itself would cost the worker time that is being measured.
        async for event in handle.fetch_history_events(wait_new_event=True):
            if event.HasField("timer_started_event_attributes"):
                break
    await handle.signal("approve_order", side.decision)
    await handle.result()
    return handle


async def measure(client: Client, side: Side, early: bool, in_flight: int, orders: int) -> Figures:
    """Have orders fulfilled, with a number of them in flight at a time."""
    seconds: list[float] = []
    handles: list[WorkflowHandle[Any, Any]] = []
    waiting = iter(range(orders))

    async def customer() -> None:
        for _ in waiting:
            start = time.perf_counter()
            handles.append(await fulfill(client, side, early))
            seconds.append(time.perf_counter() - start)
            side.watch_memory()

    side.peak_bytes = 0
    cpu, start = side.cpu_seconds(), time.perf_counter()
    async with asyncio.TaskGroup() as customers:
        for _ in range(in_flight):
            customers.create_task(customer())
    elapsed, cpu = time.perf_counter() - start, side.cpu_seconds() - cpu

    histories = [(await handle.fetch_history()).events for handle in handles]
    return {
        "median_ms": 1000 * median(seconds),
        "p95_ms": 1000 * sorted(seconds)[math.ceil(0.95 * orders) - 1],
        "orders_per_second": orders / elapsed,
        "worker_cpu_seconds": 1000 * cpu / orders,
        "history_events": sum(map(len, histories)) / orders,
        "history_bytes": sum(e.ByteSize() for events in histories for e in events) / orders,
        "peak_mb": side.peak_bytes / 1e6,
    }


def sides(address: str, stack: ExitStack) -> Iterator[Side]:
    """Start the workers, each on a task queue of its own."""
    order = {
        "workflow": "OrderWorkflow",
        "arg": ORDER,
        "id_reuse_policy": WorkflowIDReusePolicy.REJECT_DUPLICATE,
        "static_details": "." * 107,  # As long as those of starter.py.
        "memo": {"total": "47.00 USD"},
    }
    floor = {"workflow": "FloorWorkflow", "arg": 1}
    decision = ApprovalDecision(approved=True, by="Ada")
    for name, start, signal, script in (
        ("ours", order, decision, "worker.py"),
        ("floor", floor, True, Path(__file__).with_name("benchmark_baseline.py")),
    ):
        shop = shop_on(address, Path(stack.enter_context(TemporaryDirectory())))
        worker = stack.enter_context(shop.worker(script=script))
        start = start | {"task_queue": shop.task_queue}
        yield Side(name, start, signal, psutil.Process(worker.pid))


async def compare(
    client: Client, everyone: list[Side], rounds: int, orders: int
) -> list[dict[str, Any]]:
    """Measure in turns; a row has the medians over the rounds and the ratios to the floor."""
    rows = []
    for early in (False, True):
        approved = "right after the start" if early else "when asked"
        for in_flight in IN_FLIGHT:
            count = math.ceil(orders * {1: 1 / 5, 50: 1, 300: 3}[in_flight])
            measured: dict[str, list[Figures]] = {side.name: [] for side in everyone}
            for number in range(rounds):
                print_message(
                    f"{in_flight} in flight, approved {approved}: round {number + 1} of {rounds}"
                )
                # The machine's speed changes within seconds, so no side is always the first.
                for side in random.sample(everyone, len(everyone)):
                    measured[side.name].append(await measure(client, side, early, in_flight, count))
            for name, figures in measured.items():
                pairs = list(zip(figures, measured["floor"], strict=True))
                rows.append(
                    {
                        "approved": approved,
                        "in_flight": in_flight,
                        "side": name,
                        "medians": {key: median(own[key] for own in figures) for key in HEADINGS},
                        "ratios": {
                            key: median(own[key] / floor[key] for own, floor in pairs)
                            for key in HEADINGS
                        },
                    }
                )
    return rows


def print_report(rows: list[dict[str, Any]]) -> None:
    """Print the rows as Markdown, ratios to the floor in brackets."""
    print(f"\n| approved | in flight | | {' | '.join(HEADINGS.values())} |")
    print(f"|---|--:|---|{'--:|' * len(HEADINGS)}")
    for row in rows:
        cells = [row["approved"], row["in_flight"], row["side"]]
        for key in HEADINGS:
            ratio = "" if row["side"] == "floor" else f" ({row['ratios'][key]:.2f})"
            cells.append(f"{row['medians'][key]:.0f}{ratio}")
        print(f"| {' | '.join(map(str, cells))} |")


def draw(rows: list[dict[str, Any]]) -> str:
    """Draw how both sides take more and more orders that are approved when asked: as an SVG."""
    panels = {
        "orders a second": ("orders_per_second", 1),
        "median latency, seconds": ("median_ms", 1000),
    }
    size = {"width": 400, "height": 320}
    picture = ElementTree.Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {400 * len(panels)} 320"
    )
    for number, (title, (key, unit)) in enumerate(panels.items()):
        chart = pygal.Line(
            title=title,
            x_title="orders in flight",
            x_labels=list(map(str, IN_FLIGHT)),
            include_x_axis=True,  # The scale begins at zero.
            legend_at_bottom=True,
            js=[],
            **size,
        )
        for side in ("ours", "floor"):
            points = [
                row["medians"][key] / unit
                for row in rows
                if (row["side"], row["approved"]) == (side, "when asked")
            ]
            chart.add(side, points)
        panel = chart.render_tree()
        for attribute, value in (size | {"x": 400 * number}).items():
            panel.set(attribute, str(value))
        picture.append(panel)
    return ElementTree.tostring(picture, encoding="unicode") + "\n"


async def benchmark(rounds: int, orders: int, plot: Path | None) -> None:
    """Measure, and print the report."""
    async with await start_dev_server() as server:
        with ExitStack() as stack:
            everyone = list(sides(address_of(server.client), stack))
            print_message("warming up")
            for side in everyone:
                await measure(server.client, side, False, 50, orders)
            rows = await compare(server.client, everyone, rounds, orders)
    print_report(rows)
    if plot:
        plot.write_text(draw(rows))


def main() -> None:
    """Read the command line and measure."""
    parser = ArgumentParser(description="Measure what an order costs, next to the floor.")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument(
        "--orders",
        type=int,
        default=100,
        help="orders in a turn with 50 in flight; a fifth of them with one in flight, three times "
        "as many with 300 (default: 100)",
    )
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw some of them there as SVG")
    arguments = parser.parse_args()
    run(benchmark(**vars(arguments)), interrupted="nothing is left running")


if __name__ == "__main__":
    main()
