"""Servers behind TLS are reached through Temporal's standard environment variables alone."""

import asyncio
import ssl
from contextlib import suppress

import pytest
import trustme

from tests.conftest import Shop
from tests.script import Script


async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    target.close()


@pytest.mark.parametrize("known_by", ["client certificate", "API key"])
async def test_an_order_is_fulfilled_behind_tls(shop: Shop, known_by: str) -> None:
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

    async def stand_in_front(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = shop.environment["TEMPORAL_ADDRESS"].split(":")
        server_reader, server_writer = await asyncio.open_connection(host, port)
        with suppress(ConnectionError):
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(forward(reader, server_writer))
                both_ways.create_task(forward(server_reader, writer))

    def fulfill() -> Script:
        behind = shop.with_environment(**{f"TEMPORAL_{name}": settings[name] for name in settings})
        with behind.worker():
            return behind.run("starter.py", "--approval-above", "500", "--wait-result")

    async with await asyncio.start_server(stand_in_front, "127.0.0.1", 0, ssl=tls) as proxy:
        settings["ADDRESS"] = "127.0.0.1:{1}".format(*proxy.sockets[0].getsockname())
        order = await asyncio.to_thread(fulfill)

    assert order.returncode == 0, order.stderr
    assert '"FULFILLED"' in order.stdout
