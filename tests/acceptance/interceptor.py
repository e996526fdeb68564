"""What stands before the simulator in a scenario: sees each request first, and may act or answer in its place."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from etl.simulator.replies import Reply


class Request(NamedTuple):
    """A request as a scenario looks at it."""

    number: int
    path: str
    parameters: dict[str, list[str]]

    @property
    def is_listing(self) -> bool:
        """Whether it asks for a page of bindings."""
        return self.path.endswith("/Bindings")

    @property
    def is_lookup(self) -> bool:
        """Whether it asks for one binding by its SID."""
        return "/Bindings/" in self.path

    @property
    def service(self) -> str:
        """The service that the path names."""
        return self.path.removeprefix("/v1/Services/").partition("/")[0]

    @property
    def page(self) -> int:
        """Which page is asked for, from 0."""
        return int(self.parameters.get("Page", ["0"])[0])


Watch = Callable[[Request], Reply | None]


class Interceptor:
    """Calls `watch` in a thread of its own before each request goes on, so that it may wait, or start a process that asks too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.watch: Watch | None = None
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        request = Request(
            self.requests,
            scope["path"],
            parse_qs(scope["query_string"].decode(), keep_blank_values=True),
        )
        reply = await asyncio.to_thread(self.watch, request) if self.watch else None
        if reply is None:
            await self._app(scope, receive, send)
            return
        headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})
