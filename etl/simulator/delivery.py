"""Sending a response: whole and perhaps compressed, or as connections go wrong."""

import asyncio
import socket
import struct
import zlib
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from etl.simulator.replies import Reply

TRANSPORT = "simulator.transport"
WORTH_PACKING = 1_000
HUGE = 65
MEGABYTE = 1 << 20


class Delivery(Response):
    """An answer on its way to the client."""

    def __init__(self, reply: Reply, headers: Mapping[str, str], packed: bool) -> None:
        """Prepare the answer, compressed if the client asked for it."""
        own = {**reply.headers, **headers}
        body = reply.body
        if packed and len(body) > WORTH_PACKING and "content-encoding" not in own:
            body, own["content-encoding"] = pack(body), "gzip"
        super().__init__(body, reply.status, own)
        self.reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it in its manner."""
        manner = self.reply.manner
        if manner == "whole":
            await self._send_whole(scope, receive, send)
        elif manner == "trickle":
            await self._send_slowly(send)
        elif manner == "huge":
            await self._send_huge(send)
        else:
            await self._send_half(scope, send)

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.reply.seconds:
            await asyncio.sleep(self.reply.seconds)
        await super().__call__(scope, receive, send)

    async def _send_slowly(self, send: Send) -> None:
        await self._start(send, len(self.body))
        for byte in bytes(self.body):
            await _piece(send, bytes([byte]))
            await asyncio.sleep(self.reply.seconds)
        await _piece(send, b"", last=True)

    async def _send_huge(self, send: Send) -> None:
        """Lead the JSON in with blanks, so that only its size is wrong."""
        packed = self.headers.get("content-encoding") is not None
        await self._start(send, HUGE * MEGABYTE + len(self.reply.body), drop_encoding=packed)
        for _ in range(HUGE):
            await _piece(send, b" " * MEGABYTE)
        await _piece(send, self.reply.body, last=True)

    async def _send_half(self, scope: Scope, send: Send) -> None:
        """Announce the whole body and send half of it, then close or reset the connection."""
        await self._start(send, len(self.body))
        await _piece(send, bytes(self.body[: len(self.body) // 2]))
        if self.reply.manner == "reset":
            _reset(scope["extensions"][TRANSPORT]["transport"])

    async def _start(self, send: Send, length: int, drop_encoding: bool = False) -> None:
        skipped = {b"content-length", b"content-encoding"} if drop_encoding else {b"content-length"}
        headers = [(name, value) for name, value in self.raw_headers if name not in skipped]
        headers.append((b"content-length", str(length).encode()))
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})


def pack(body: bytes) -> bytes:
    """Compress as gzip, fast rather than small."""
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(body) + packer.flush()


async def _piece(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})


def _reset(transport: asyncio.Transport) -> None:
    """Close so that the client sees a reset: no lingering, then abort."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
