"""Listeners and proxies for the tests, each in its own thread with its own event loop."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread

type Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Listener:
    """A port that serves connections."""

    address: str = ""

    first_contact: float | None = None
    """When the first connection came, on the monotonic clock."""


@contextmanager
def listening(handler: Handler, tls: ssl.SSLContext | None = None) -> Iterator[Listener]:
    """Serve connections on a free port."""
    listener = Listener()
    ready = Future[Callable[[], object]]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listener.first_contact = listener.first_contact or time.monotonic()
        await handler(reader, writer)

    async def serve() -> None:
        stop = asyncio.Event()
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
        host, port = server.sockets[0].getsockname()
        listener.address = f"{host}:{port}"
        loop = asyncio.get_running_loop()
        ready.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        await stop.wait()
        server.close()

    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    stop = ready.result(timeout=10)
    try:
        yield listener
    finally:
        stop()
        thread.join(timeout=10)
        assert not thread.is_alive()


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Handle a connection by reading, and never a word."""
    while await reader.read(65536):
        pass
    writer.close()


@contextmanager
def proxy(server: str, tls: ssl.SSLContext | None = None) -> Iterator[Listener]:
    """Stand in front of a Temporal server, with TLS if asked to."""

    async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = server.split(":")
        server_reader, server_writer = await asyncio.open_connection(host, port)
        with suppress(ConnectionError):
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(forward(reader, server_writer))
                both_ways.create_task(forward(server_reader, writer))

    with listening(handle, tls) as listener:
        yield listener
