"""No server, or the wrong one: one line with the cause, in time."""

import asyncio
import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from temporalio.client import Client

from order_fulfillment import orders
from order_fulfillment.shared import ApprovalDecision
from order_fulfillment.support.command_line import explain
from order_fulfillment.support.connection import NoAnswerError, TemporalError, connect
from tests.conftest import Shop, address_of, clean_environment
from tests.history import ORDER
from tests.network import listening, proxy, silence
from tests.script import Script

# From the first contact with the server; importing the SDK comes before, which takes most of
# a second, and more on a busy machine.
SECONDS = 4

# What each wrong server makes the user read.
CAUSES = {
    "nothing listens": "Connection refused; start one with: uv run temporal server start-dev",
    "no port": "no Temporal server at localhost: ",
    "unknown namespace": "there is no namespace 'no-such'",
    "TLS to a plain port": "it does not speak TLS",
    "plain to a TLS port": "it does not speak gRPC, or wants TLS",
    "wrong CA": "its certificate is not to be trusted (UnknownIssuer)",
    "missing certificate": "No such file or directory",
    "broken profile file": "environment configuration is broken: ",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the scripts run, and what their environment names is kept."""
    return tmp_path_factory.mktemp("wrong-server")


@pytest.fixture(scope="module")
def environments(dev_server: Client, folder: Path) -> Iterator[dict[str, dict[str, str]]]:
    """The environment variables that lead to each wrong server."""
    with ExitStack() as stack:
        yield wrong_environments(stack, folder, address_of(dev_server))


def wrong_environments(
    stack: ExitStack, folder: Path, dev_server: str
) -> dict[str, dict[str, str]]:
    ca = trustme.CA()
    certificate = ca.issue_cert("localhost", "127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.set_alpn_protocols(["h2"])
    certificate.configure_cert(tls)
    trustme.CA().cert_pem.write_to_path(folder / "another-ca.pem")
    (folder / "broken.toml").write_text("[profile.default")

    def at(address: str, **settings: str) -> dict[str, str]:
        return {"TEMPORAL_ADDRESS": address} | {
            f"TEMPORAL_{name}": value for name, value in settings.items()
        }

    tls_port = stack.enter_context(proxy(dev_server, tls)).address
    # Bound but not listening: refuses connections, and nobody else gets the port.
    unused = stack.enter_context(socket.socket())
    unused.bind(("127.0.0.1", 0))
    return {
        "nothing listens": at(f"127.0.0.1:{unused.getsockname()[1]}"),
        "no port": at("localhost"),
        "unknown namespace": at(dev_server, NAMESPACE="no-such"),
        "TLS to a plain port": at(dev_server, TLS="true"),
        "plain to a TLS port": at(tls_port),
        "wrong CA": at(tls_port, TLS_SERVER_CA_CERT_PATH="another-ca.pem"),
        "missing certificate": at(tls_port, TLS_SERVER_CA_CERT_PATH="missing.pem"),
        "broken profile file": at(dev_server, CONFIG_FILE="broken.toml"),
    }


@pytest.mark.parametrize("cause", CAUSES)
async def test_the_cause_is_named(
    environments: dict[str, dict[str, str]],
    folder: Path,
    cause: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    for name, value in (clean_environment() | environments[cause]).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(TemporalError) as error:
        await connect()

    assert CAUSES[cause] in explain(error.value)
    # The SDK's Rust core has no word in it.
    assert capfd.readouterr() == ("", "")


def test_where_nothing_listens_a_script_says_so_in_one_line(
    environments: dict[str, dict[str, str]], folder: Path
) -> None:
    shop = Shop(folder, clean_environment() | environments["nothing listens"])

    assert CAUSES["nothing listens"] in the_line(shop.run("starter.py"))


@pytest.mark.parametrize(("script", "tls"), [("starter.py", "false"), ("worker.py", "true")])
def test_a_silent_server_is_named_in_one_line_in_time(folder: Path, script: str, tls: str) -> None:
    with listening(silence) as server:
        environment = {"TEMPORAL_ADDRESS": server.address, "TEMPORAL_TLS": tls}

        run = Shop(folder, clean_environment() | environment).run(script)

        assert server.first_contact
        assert time.monotonic() - server.first_contact < SECONDS
    assert f"no Temporal server at {server.address}: no answer in 3 seconds" in the_line(run)


async def test_a_server_that_falls_silent_is_named_in_time(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(shop.environment["TEMPORAL_ADDRESS"]) as server:
        monkeypatch.setenv("TEMPORAL_ADDRESS", server.address)
        client = await connect()
        order = await orders.start(client, shop.folder.name, ORDER)
        server.silent.set()

        began = time.monotonic()
        errors = await asyncio.gather(
            orders.start(client, "order-1", ORDER),
            orders.find(client, order.id),
            orders.decide(order, ApprovalDecision(approved=True)),
            orders.status(order),
            return_exceptions=True,
        )

        assert time.monotonic() - began < SECONDS
        assert {type(error) for error in errors} == {NoAnswerError}
        assert all("gave no answer" in str(error) for error in errors)


def test_a_worker_whose_server_falls_silent_stops_in_time(shop: Shop) -> None:
    with proxy(shop.environment["TEMPORAL_ADDRESS"]) as server:
        environment = shop.environment | {"TEMPORAL_ADDRESS": server.address}
        with replace(shop, environment=environment).worker() as worker:
            server.silent.set()
            worker.send(signal.SIGTERM)

            assert worker.wait(12) == 0
            assert "Traceback" not in worker.stderr
    assert not (shop.folder / "worker.pid").exists()


def the_line(run: Script) -> str:
    assert (run.returncode, run.stdout) == (1, "")
    assert re.fullmatch("error: .*\n", run.stderr)
    return run.stderr


def test_an_empty_api_key_counts_as_none(shop: Shop) -> None:
    shop.environment["TEMPORAL_API_KEY"] = ""

    started = shop.run("starter.py")

    assert started.returncode == 0, started.stderr
