"""What may stand between a client and its server: a pipe that breaks, drips or stays silent, and a proxy as companies have."""

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

Handler = Callable[["Listener", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Listener:
    """A loopback port, and what came to it."""

    port: int = 0
    connections: int = 0
    heads: list[str] = field(default_factory=list)
    """Heads of requests, for those handlers that read them."""
    refuse: Callable[[], object] = lambda: None
    """Let nobody in any more; who is in stays."""

    @property
    def url(self) -> str:
        """Its address as an HTTP origin."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def listening(
    handler: Handler, tls: ssl.SSLContext | None = None, *, port: int = 0
) -> Iterator[Listener]:
    """Serve `handler` from a thread while the context lasts, at this port or at any."""
    listener, loop, ready = Listener(), asyncio.new_event_loop(), threading.Event()

    async def serve(stopping: asyncio.Event) -> None:
        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            listener.connections += 1
            with suppress(OSError, EOFError, asyncio.CancelledError):
                await handler(listener, reader, writer)
            writer.transport.abort()

        server = await asyncio.start_server(meet, "127.0.0.1", port, ssl=tls)
        listener.port = server.sockets[0].getsockname()[1]
        listener.refuse = lambda: loop.call_soon_threadsafe(server.close)
        ready.set()
        await stopping.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    stopping = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(stopping),), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield listener
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()


async def stay_silent(
    _listener: Listener, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter
) -> None:
    """Accept, take everything, never answer."""
    while await reader.read(4096):
        pass


def answer_with(raw: bytes | Callable[[Listener], bytes]) -> Handler:
    """The same bytes for every request, whatever it is; made of the listener's own address, if need be."""

    async def handle(
        listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        listener.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(raw if isinstance(raw, bytes) else raw(listener))
        await writer.drain()

    return handle


def pass_on(target: str) -> Handler:
    """A plain pipe to `target`."""
    return _piping(target, lambda _listener, _number: _copy)


def in_turn(*targets: str) -> Handler:
    """A balancer: each connection goes to the next of these."""
    pipes = [pass_on(target) for target in targets]

    async def handle(
        listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await pipes[listener.connections % len(pipes)](listener, reader, writer)

    return handle


def drip(target: str, seconds: float) -> Handler:
    """A pipe that gives the answer byte by byte: head, body and all."""

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while byte := await reader.read(1):
            writer.write(byte)
            await writer.drain()
            await asyncio.sleep(seconds)

    return _piping(target, lambda _listener, _number: slowly)


def reset_after(target: str, size: int, *, times: int) -> Handler:
    """A pipe whose first `times` connections are reset when so many bytes of answers have passed."""

    async def shortly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(size))
        await writer.drain()
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return _piping(target, lambda _listener, number: shortly if number <= times else _copy)


def tunnel_to(port: int) -> Handler:
    """An HTTP proxy that tunnels, wherever a CONNECT wants to go, to a port of this machine."""

    async def handle(
        listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        listener.heads.append(head)
        if head.startswith("CONNECT "):
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _both_ways(_copy(reader, upstream), _copy(upstream_reader, writer), upstream)

    return handle


Copy = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Frost:
    """A pipe to `target` whose standing connections can fall silent; later ones work again."""

    def __init__(self, target: str) -> None:
        self._place = urlsplit(target)
        self._newest = 0
        self._frozen = 0
        self._dripping: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()

    def fall(self, *, on_all: bool = False) -> None:
        """From now on nothing passes through the connections that stand, not even their end."""
        self._frozen = 10**9 if on_all else self._newest

    def drip(self) -> None:
        """From now on answers come byte by byte through the connections that stand."""
        self._dripping = set(self._clients)

    async def handler(
        self, listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection."""
        number = self._newest = listener.connections
        self._clients.add(writer)
        upstream_reader, upstream = await asyncio.open_connection(
            self._place.hostname, self._place.port
        )
        await _both_ways(
            self._copy(number, reader, upstream),
            self._copy(number, upstream_reader, writer),
            upstream,
        )

    async def _copy(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        data = b"?"
        while data:
            data = await reader.read(65536)
            while number <= self._frozen:
                await asyncio.sleep(0.01)
            while writer in self._dripping and len(data) > 1:
                writer.write(data[:1])
                data = data[1:]
                await asyncio.sleep(1)
            writer.write(data)
            await writer.drain()


def _piping(target: str, back: Callable[[Listener, int], Copy]) -> Handler:
    place = urlsplit(target)

    async def handle(
        listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        number = listener.connections
        upstream_reader, upstream = await asyncio.open_connection(place.hostname, place.port)
        await _both_ways(
            _copy(reader, upstream), back(listener, number)(upstream_reader, writer), upstream
        )

    return handle


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def _both_ways(
    there: Awaitable[None], back: Awaitable[None], upstream: asyncio.StreamWriter
) -> None:
    tasks = [asyncio.ensure_future(there), asyncio.ensure_future(back)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        upstream.transport.abort()  # ahead of the wait, which may be cancelled in its turn
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
