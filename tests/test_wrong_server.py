"""No server, or the wrong one: one line with the cause, in time."""

import re
import signal
import socket
import ssl
import time
from dataclasses import replace

import pytest
import trustme

from tests.conftest import Shop
from tests.network import listening, proxy, silence
from tests.script import Script

# From the first contact with the server; importing the SDK comes before, which takes most of
# a second, and more on a busy machine.
SECONDS = 4

CAUSES = {
    "nothing listens": "Connection refused; start one with: uv run temporal server start-dev",
    "unknown namespace": "there is no namespace 'no-such'",
    "TLS to a plain port": "it does not speak TLS",
    "plain to a TLS port": "it does not speak gRPC, or wants TLS",
    "broken profile file": "environment configuration is broken: ",
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_is_named_in_one_line(shop: Shop, cause: str) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.set_alpn_protocols(["h2"])
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    (shop.folder / "broken.toml").write_text("[profile.default")
    # Bound but not listening: it refuses connections, and nobody else gets the port.
    with socket.socket() as unused, proxy(shop.environment["TEMPORAL_ADDRESS"], tls) as tls_port:
        unused.bind(("127.0.0.1", 0))
        settings = {
            "nothing listens": {"ADDRESS": f"127.0.0.1:{unused.getsockname()[1]}"},
            "unknown namespace": {"NAMESPACE": "no-such"},
            "TLS to a plain port": {"TLS": "true"},
            "plain to a TLS port": {"ADDRESS": tls_port.address},
            "broken profile file": {"CONFIG_FILE": "broken.toml"},
        }[cause]
        environment = {f"TEMPORAL_{name}": value for name, value in settings.items()}

        run = replace(shop, environment=shop.environment | environment).run("starter.py")

    assert CAUSES[cause] in the_line(run)


@pytest.mark.parametrize(("script", "tls"), [("starter.py", "false"), ("worker.py", "true")])
def test_a_silent_server_is_named_in_one_line_in_time(shop: Shop, script: str, tls: str) -> None:
    with listening(silence) as server:
        environment = {"TEMPORAL_ADDRESS": server.address, "TEMPORAL_TLS": tls}

        run = replace(shop, environment=shop.environment | environment).run(script)

        assert server.first_contact
        assert time.monotonic() - server.first_contact < SECONDS
    assert f"no Temporal server at {server.address}: no answer in 3 seconds" in the_line(run)


def test_a_server_that_falls_silent_is_told_while_one_waits(shop: Shop, open_shop: Shop) -> None:
    with proxy(shop.environment["TEMPORAL_ADDRESS"]) as server:
        environment = open_shop.environment | {"TEMPORAL_ADDRESS": server.address}
        waiting = replace(shop, environment=environment).start("starter.py", "--wait-result")
        waiting.until_prints("status: AWAITING_APPROVAL\napprove it: uv run ")
        server.silent.set()

        began = time.monotonic()
        waiting.until_prints("still waiting: the Temporal server gave no answer")
        assert time.monotonic() - began < SECONDS + 1
        waiting.kill()


def test_a_worker_whose_server_falls_silent_stops_in_time(shop: Shop) -> None:
    with proxy(shop.environment["TEMPORAL_ADDRESS"]) as server:
        environment = shop.environment | {"TEMPORAL_ADDRESS": server.address}
        with replace(shop, environment=environment).worker() as worker:
            server.silent.set()
            worker.send(signal.SIGTERM)

            assert worker.wait(12) == 1
            assert "Traceback" not in worker.stderr
            assert "Stopped with work unfinished" in worker.stderr
    assert not (shop.folder / "worker.pid").exists()


def the_line(run: Script) -> str:
    assert (run.returncode, run.stdout) == (1, "")
    assert re.fullmatch("error: .*\n", run.stderr)
    return run.stderr


def test_an_empty_api_key_counts_as_none(shop: Shop) -> None:
    shop.environment["TEMPORAL_API_KEY"] = ""

    started = shop.run("starter.py")

    assert started.returncode == 0, started.stderr
