"""Listeners and proxies of the tests' own, each in a thread with an event loop of its own."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Thread

from hpack import Decoder
from hyperframe.frame import Frame, HeadersFrame

type Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


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


@dataclass
class Proxy:
    """What a proxy in front of a Temporal server was asked, and how it can fall silent."""

    listener: Listener = field(default_factory=Listener)

    silent_at: str | None = None
    """The gRPC method at whose request the proxy stops to forward anything."""

    requests: list[dict[str, str]] = field(default_factory=list)
    """The headers of every request."""

    client_names: set[str] = field(default_factory=set)
    """The common names of the certificates that clients showed."""

    @property
    def address(self) -> str:
        """Where the proxy listens."""
        return self.listener.address

    def methods(self) -> set[str]:
        """The gRPC methods that were called."""
        return {request[":path"].rpartition("/")[2] for request in self.requests}


@contextmanager
def proxy(
    server: str, tls: ssl.SSLContext | None = None, silent_at: str | None = None
) -> Iterator[Proxy]:
    """Stand in front of a Temporal server, with TLS if asked to."""
    result = Proxy(silent_at=silent_at)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if tls:
            subject = (writer.get_extra_info("peercert") or {}).get("subject", ())
            result.client_names.update(
                value for ((name, value),) in subject if name == "commonName"
            )
        host, port = server.split(":")
        server_reader, server_writer = await asyncio.open_connection(host, port)
        silent = asyncio.Event()
        with suppress(ConnectionError):
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(_forward_requests(result, reader, server_writer, silent))
                both_ways.create_task(_forward(server_reader, writer, silent))

    with listening(handle, tls) as result.listener:
        yield result


async def _forward_requests(
    proxy: Proxy, source: asyncio.StreamReader, target: asyncio.StreamWriter, silent: asyncio.Event
) -> None:
    decoder = Decoder()
    unread = b""
    async for data in _chunks(source):
        unread = (unread + data).removeprefix(HTTP2_PREFACE)
        while len(unread) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(unread[:9]))
            if len(unread) < 9 + length:
                break
            frame.parse_body(memoryview(unread[9 : 9 + length]))
            unread = unread[9 + length :]
            if isinstance(frame, HeadersFrame):
                assert "END_HEADERS" in frame.flags
                request = {str(name): str(value) for name, value in decoder.decode(frame.data)}
                proxy.requests.append(request)
                if proxy.silent_at and request[":path"].endswith(f"/{proxy.silent_at}"):
                    silent.set()
        if not silent.is_set():
            target.write(data)
            await target.drain()
    target.close()


async def _forward(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, silent: asyncio.Event
) -> None:
    async for data in _chunks(source):
        if not silent.is_set():
            target.write(data)
            await target.drain()
    target.close()


async def _chunks(source: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await source.read(65536):
        yield data
