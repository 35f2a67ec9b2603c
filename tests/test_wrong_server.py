"""No server, or the wrong one: one line with the cause, in time."""

import re
import socket
import time

import pytest

from tests.conftest import Shop
from tests.network import listening, silence
from tests.script import Script

# From the first contact with the server; importing the SDK comes before, which takes most of
# a second, and more on a busy machine.
SECONDS = 4

CAUSES = {
    "nothing listens": "Connection refused; start one with: uv run temporal server start-dev",
    "unknown namespace": "there is no namespace 'no-such'",
    "TLS to a plain port": "InvalidContentType",
    "broken profile file": "environment configuration is broken: ",
}


def the_line(run: Script) -> str:
    assert (run.returncode, run.stdout) == (1, "")
    assert re.fullmatch("error: .*\n", run.stderr)
    return run.stderr


@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_is_named_in_one_line(shop: Shop, cause: str) -> None:
    (shop.folder / "broken.toml").write_text("[profile.default")
    # Bound but not listening: it refuses connections, and nobody else gets the port.
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        name, value = {
            "nothing listens": ("ADDRESS", f"127.0.0.1:{unused.getsockname()[1]}"),
            "unknown namespace": ("NAMESPACE", "no-such"),
            "TLS to a plain port": ("TLS", "true"),
            "broken profile file": ("CONFIG_FILE", "broken.toml"),
        }[cause]

        run = shop.with_environment(**{f"TEMPORAL_{name}": value}).run("starter.py")

    assert CAUSES[cause] in the_line(run)


@pytest.mark.parametrize(("script", "tls"), [("starter.py", "false"), ("worker.py", "true")])
def test_a_silent_server_is_named_in_one_line_in_time(shop: Shop, script: str, tls: str) -> None:
    with listening(silence) as server:
        run = shop.with_environment(TEMPORAL_ADDRESS=server.address, TEMPORAL_TLS=tls).run(script)

        assert server.first_contact
        assert time.monotonic() - server.first_contact < SECONDS
    assert f"no Temporal server at {server.address}: no answer in 3 seconds" in the_line(run)
