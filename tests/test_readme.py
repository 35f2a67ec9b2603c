"""The commands of the README's scenarios, run as they stand there."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.conftest import SCRIPTS, Shop, copy_of_the_scripts, wait_until

README = (SCRIPTS.parent / "README.md").read_text()
OPERATIONS = (SCRIPTS.parent / "docs/operations.md").read_text()
SCENARIOS = re.findall(r"^### (\d\. .+?)\n(.+?)(?=^##)", README, re.MULTILINE | re.DOTALL)
# They change the code, and restart their worker.
WORKFLOW_BUG, INVALID_ORDERS = SCENARIOS[5][0], SCENARIOS[6][0]

COMMANDS_OR_CHANGE = re.compile(
    r"```bash\n(?P<commands>.+?)```"
    r"|(?P<change>uncomment|comment\sout)\sthe\sline\swith\s`(?P<code>.+?)`\sin\s`(?P<file>.+?)`"
    r"\sand\srestart\sthe\sworker",
    re.DOTALL | re.IGNORECASE,
)
RESTART_WORKER = """
kill "$(cat worker.pid)"
while [ -e worker.pid ]; do sleep 0.1; done
uv run worker.py 2>>worker.log &
while [ ! -s worker.pid ]; do sleep 0.1; done
"""
# A busy machine may not be as far as the README's.
STATUS = 'uv run signals.py status "$id"\n'
FURTHER = f"while {STATUS[:-1]} 2>&1 | grep -qE '^(PROCESSING|RESERVING)'; do true; done\n"


def commands(section: str) -> str:
    """What a section has its readers do: its commands, and its changes of the code."""
    lines = []
    for found in COMMANDS_OR_CHANGE.finditer(section):
        if found["commands"]:
            lines.append(found["commands"].replace(STATUS, FURTHER + STATUS))
        else:
            edit = "s/# //" if found["change"].lower() == "uncomment" else "s/[^ ]/# &/"
            lines.append(f"sed -i.before '/{found['code']}/{edit}' {found['file']}{RESTART_WORKER}")
    return "\n".join(lines)


def without_chance(output: str) -> list[str]:
    """Output without what differs from run to run: IDs, and which statuses were seen."""
    output = re.sub(r"\b(order|auth|hold|track)-[0-9a-f]{8,}", r"\1-ID", output)
    final = ("status: FULFILLED", "status: EXPIRED")
    return [
        line for line in output.splitlines() if not line.startswith("status: ") or line in final
    ]


def copy_of_the_sample(shop: Shop, name: str) -> Shop:
    root = shop.folder / name
    package = copy_of_the_scripts(root)
    shutil.copy(SCRIPTS.parent / "pyproject.toml", root)
    environment = {
        "PATH": f"{Path(os.environ['UV']).parent}:{os.environ['PATH']}",
        # The copy's code, in the environment that the tests run in.
        "PYTHONPATH": str(root),
        "UV_PROJECT_ENVIRONMENT": sys.prefix,
        "UV_NO_SYNC": "1",
        # Who is logged in, and decides.
        "LOGNAME": "grace",
        "TEMPORAL_TASK_QUEUE": f"{shop.environment['TEMPORAL_TASK_QUEUE']}-{name}",
    }
    return replace(
        shop, folder=package, environment=shop.environment | environment, scripts=package
    )


class Scenario:
    """A scenario's commands, running; the output goes to a file, which background jobs outlive."""

    def __init__(self, shop: Shop, title: str, section: str) -> None:
        self._shop = shop
        self._section = section
        self._output = shop.folder / f"{title}.output"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                ["bash", "-c", commands(self._section)],
                cwd=self._shop.folder,
                env=self._shop.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self._process

    def kill(self) -> None:
        """End the commands, and what they have left running in the background."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def output(self) -> str:
        process = self._process or self.start()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        output = self._output.read_text()
        assert process.returncode is not None, f"still running; so far: {output}"
        return output


@pytest.fixture(scope="module")
def running(open_shop: Shop) -> Iterator[dict[str, Scenario]]:
    """The scenarios; those that restart their worker have their own.

    All run at once, but for the fifty orders, which would keep the others waiting.
    """
    shop = copy_of_the_sample(open_shop, "five")
    shops = {
        WORKFLOW_BUG: copy_of_the_sample(open_shop, "bug"),
        INVALID_ORDERS: copy_of_the_sample(open_shop, "invalid"),
    }
    with ExitStack() as stack:
        stack.enter_context(shop.worker())
        for own_shop in shops.values():
            stack.enter_context(own_shop.worker())
        scenarios = {
            title: Scenario(shops.get(title, shop), title, section) for title, section in SCENARIOS
        }
        for title, scenario in scenarios.items():
            stack.callback(scenario.kill)
            if title != INVALID_ORDERS:
                scenario.start()
        yield scenarios
        # The specification's own commands to stop a worker.
        run_silently(shop, "\n".join(re.findall(r"^(?:kill|rm) .*", README, re.MULTILINE)))
        for own_shop in shops.values():
            for file in ("workflow.py", "activities.py"):
                assert (own_shop.folder / file).read_text() == (SCRIPTS / file).read_text()
            pid_file = own_shop.folder / "worker.pid"
            last_worker = int(pid_file.read_text())
            run_silently(own_shop, commands(OPERATIONS.split("## Stopping")[1].split("\n## ")[0]))
            # It removed its PID file at its very end.
            assert not pid_file.exists()
            wait_until(partial(is_gone, last_worker), "the worker to end")


def run_silently(shop: Shop, lines: str) -> None:
    stopped = subprocess.run(
        ["bash", "-c", lines],
        cwd=shop.folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert stopped.stdout + stopped.stderr == ""


def is_gone(process: int) -> bool:
    return not psutil.pid_exists(process)


def test_there_are_seven_scenarios() -> None:
    assert len(SCENARIOS) == 7


@pytest.mark.parametrize(("title", "section"), SCENARIOS, ids=[title for title, _ in SCENARIOS])
def test_a_scenario_prints_what_the_readme_shows(
    running: dict[str, Scenario], title: str, section: str
) -> None:
    shown = without_chance("".join(re.findall(r"```text\n(.+?)```", section, re.DOTALL)))

    printed = without_chance(running[title].output())

    # README leaves out lines, and parts of a line where it has three dots; but no error.
    rest = iter(printed)
    for line in shown:
        pattern = re.escape(line).replace(r"\.\.\.", ".*")
        assert any(re.fullmatch(pattern, other) for other in rest), f"{line} is not in {printed}"
    assert number_of_errors(printed) == number_of_errors(shown)


def number_of_errors(lines: list[str]) -> int:
    return sum(line.startswith(("error: ", "Traceback")) for line in lines)
