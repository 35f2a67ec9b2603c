"""Servers behind TLS are reached through Temporal's standard environment variables alone."""

import ssl

import pytest
import trustme

from tests.conftest import Shop
from tests.network import proxy


@pytest.mark.parametrize("known_by", ["client certificate", "API key"])
def test_an_order_is_fulfilled_behind_tls(shop: Shop, known_by: str) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(shop.folder / "ca.pem")
    client = ca.issue_cert("client@shop.example")
    client.private_key_pem.write_to_path(shop.folder / "client.key")
    client.cert_chain_pems[0].write_to_path(shop.folder / "client.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.set_alpn_protocols(["h2"])
    ca.issue_cert("shop.example").configure_cert(tls)
    settings = {"API_KEY": "the-secret-key"}
    if known_by == "client certificate":
        settings = {"TLS_CLIENT_CERT_PATH": "client.pem", "TLS_CLIENT_KEY_PATH": "client.key"}
        ca.configure_trust(tls)
        tls.verify_mode = ssl.CERT_REQUIRED
    settings |= {"TLS_SERVER_CA_CERT_PATH": "ca.pem", "TLS_SERVER_NAME": "shop.example"}

    with proxy(shop.environment["TEMPORAL_ADDRESS"], tls) as server:
        settings["ADDRESS"] = server.address
        shop = shop.with_environment(**{f"TEMPORAL_{name}": settings[name] for name in settings})
        with shop.worker():
            order = shop.run("starter.py", "--approval-above", "500", "--wait-result")

    assert order.returncode == 0, order.stderr
    assert '"FULFILLED"' in order.stdout
