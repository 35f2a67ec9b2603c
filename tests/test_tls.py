"""Servers behind TLS are reached through Temporal's standard environment variables alone."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import trustme

from tests.conftest import Shop
from tests.network import Listener, proxy


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    """A private certificate authority, of the server and of its clients."""
    return trustme.CA()


@contextmanager
def behind_tls(shop: Shop, ca: trustme.CA, *, client_certificate: bool) -> Iterator[Listener]:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.set_alpn_protocols(["h2"])
    ca.issue_cert("shop.example").configure_cert(tls)
    if client_certificate:
        ca.configure_trust(tls)
        tls.verify_mode = ssl.CERT_REQUIRED
    with proxy(shop.environment["TEMPORAL_ADDRESS"], tls) as server:
        yield server


def with_settings(shop: Shop, ca: trustme.CA, server: Listener, **settings: str) -> Shop:
    ca.cert_pem.write_to_path(shop.folder / "ca.pem")
    return replace(
        shop,
        environment=shop.environment
        | {
            "TEMPORAL_ADDRESS": server.address,
            "TEMPORAL_TLS_SERVER_CA_CERT_PATH": "ca.pem",
            "TEMPORAL_TLS_SERVER_NAME": "shop.example",
        }
        | {f"TEMPORAL_{name}": value for name, value in settings.items()},
    )


def fulfill_an_order(shop: Shop) -> None:
    with shop.worker():
        order = shop.run("starter.py", "--approval-above", "500", "--wait-result")
        assert order.returncode == 0, order.stderr
        assert '"FULFILLED"' in order.stdout


def test_an_order_is_fulfilled_with_a_client_certificate(shop: Shop, ca: trustme.CA) -> None:
    client = ca.issue_cert("client@shop.example", common_name="the shop")
    client.private_key_pem.write_to_path(shop.folder / "client.key")
    client.cert_chain_pems[0].write_to_path(shop.folder / "client.pem")
    with behind_tls(shop, ca, client_certificate=True) as server:
        fulfill_an_order(
            with_settings(
                shop,
                ca,
                server,
                TLS_CLIENT_CERT_PATH="client.pem",
                TLS_CLIENT_KEY_PATH="client.key",
            )
        )

    assert server.client_names == {"the shop"}


def test_an_order_is_fulfilled_with_an_api_key(shop: Shop, ca: trustme.CA) -> None:
    with behind_tls(shop, ca, client_certificate=False) as server:
        fulfill_an_order(with_settings(shop, ca, server, API_KEY="the-secret-key"))
