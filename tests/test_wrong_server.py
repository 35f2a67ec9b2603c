"""No server, or the wrong one: one line with the cause, in time."""

import re
import socket

import pytest

from tests.conftest import Shop
from tests.script import Script


def the_line(run: Script) -> str:
    assert (run.returncode, run.stdout) == (1, "")
    assert re.fullmatch("error: .*\n", run.stderr)
    return run.stderr


@pytest.mark.parametrize(
    ("setting", "value", "cause"),
    [
        ("ADDRESS", "127.0.0.1:{}", "refused; start one with: uv run temporal server start-dev"),
        ("NAMESPACE", "no-such", "the Temporal server refuses: Namespace no-such is not found."),
        ("TLS", "true", "InvalidContentType"),
        ("CONFIG_FILE", "broken.toml", "environment configuration is broken: "),
    ],
)
def test_the_cause_is_named_in_one_line(shop: Shop, setting: str, value: str, cause: str) -> None:
    (shop.folder / "broken.toml").write_text("[profile.default")
    # Bound but not listening: it refuses connections, and nobody else gets the port.
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        environment = {f"TEMPORAL_{setting}": value.format(unused.getsockname()[1])}

        run = shop.with_environment(**environment).run("starter.py")

    assert cause in the_line(run)


@pytest.mark.parametrize(("script", "tls"), [("starter.py", "false"), ("worker.py", "true")])
def test_a_silent_server_is_named_in_one_line_in_time(shop: Shop, script: str, tls: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        run = shop.with_environment(TEMPORAL_ADDRESS=address, TEMPORAL_TLS=tls).start(script)
        # The time counts from the first contact: importing the SDK takes long on a busy machine.
        with server.accept()[0]:
            run.wait(4)

    assert f"no Temporal server at {address}: no answer in 3 seconds" in the_line(run)
