"""Serves the simulator on loopback: in a thread for tests, in the foreground for the command."""

import asyncio
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from etl.simulator.app import Api, Limits
from etl.simulator.delivery import TRANSPORT
from etl.simulator.faults import Fault, Faults
from etl.simulator.page_tokens import PageTokens, TokenStyle
from etl.simulator.pages import BadToken, Oversize, Rules
from etl.simulator.request_log import RequestLog
from etl.simulator.tokens import Tokens
from etl.simulator.views import Order
from etl.simulator.world import World

LOOPBACK = "127.0.0.1"
BACKLOG = 512
START_WITHIN = 10.0
TICK = 0.1


class Simulator:
    """The API over one or several worlds; the Basic authentication of a request picks the world."""

    def __init__(
        self,
        worlds: World | Sequence[World],
        *,
        latency_ms: float = 0,
        max_page_size: int = 100,
        max_services_page_size: int | None = None,
        oversize: Oversize = "clamp",
        bad_token: BadToken = "refuse",  # noqa: S107
        order: Order = "sid",
        page_tokens: TokenStyle = "position",
        page_tokens_good_for: int | None = None,
        max_concurrent: int | None = None,
        gzip: bool = True,
        token_seconds: float = 3600,
        faults: Collection[Fault | str] = (),
    ) -> None:
        """Set how the API behaves where docs/api.md §10 leaves it open."""
        self.worlds = [worlds] if isinstance(worlds, World) else list(worlds)
        self.faults = Faults(faults)
        self.requests = RequestLog()
        self.limits = Limits(latency_ms, max_concurrent, gzip)
        self.base_url = ""
        self.page_tokens = PageTokens(page_tokens, page_tokens_good_for)
        rules = Rules(max_page_size, oversize, bad_token, order, self.page_tokens)
        services_rules = Rules(max_services_page_size or max_page_size)
        self.tokens = Tokens(token_seconds)
        self.app = Api(
            self.worlds,
            rules,
            services_rules,
            self.limits,
            self.faults,
            self.requests,
            self.tokens,
        )

    @property
    def in_flight(self) -> int:
        """Tell how many requests are in flight now."""
        return self.app.in_flight

    @property
    def most_in_flight(self) -> int:
        """Tell how many requests were in flight at once at most."""
        return self.app.most_in_flight

    @contextmanager
    def serve(self, port: int = 0) -> Iterator[str]:
        """Serve from a thread while the context lasts; yield the base URL."""
        server, listener = self._listen(port)
        thread = threading.Thread(
            target=server.run, args=([listener],), name="simulator", daemon=True
        )
        thread.start()
        if not server.ready.wait(START_WITHIN):
            raise RuntimeError("the simulator did not start")
        try:
            yield self.base_url
        finally:
            server.stop()
            thread.join()

    def run_forever(self, port: int = 0, on_ready: Callable[[str], Any] = lambda _: None) -> None:
        """Serve in the foreground until a signal ends it; call `on_ready` with the base URL."""
        server, listener = self._listen(port, lambda: on_ready(self.base_url))
        server.run([listener])

    def _listen(
        self, port: int, on_ready: Callable[[], Any] = lambda: None
    ) -> tuple["_Server", socket.socket]:
        listener = _open(port)
        self.base_url = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        return _Server(self.app, on_ready), listener


def _open(port: int) -> socket.socket:
    """Listen on a port; asyncio switches off Nagle's delay only where the protocol is named."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class _Server(uvicorn.Server):
    """A quiet uvicorn that says when it is ready and stops without waiting for anybody."""

    def __init__(self, app: Api, on_ready: Callable[[], Any]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                timeout_keep_alive=3600,
            )
        )
        self.ready = threading.Event()
        self._stopping = asyncio.Event()
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_ready()
        self.ready.set()

    async def main_loop(self) -> None:
        ticks = count()
        while not await self.on_tick(next(ticks)):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    def stop(self) -> None:
        """End the server from another thread, at once."""
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._stopping.set)


class _Protocol(H11Protocol):
    """HTTP/1.1 that lets the application reach the connection, to break it on purpose."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._application = self.app
        self.app = self._with_transport

    async def _with_transport(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("extensions", {})[TRANSPORT] = {"transport": self.transport}
        await self._application(scope, receive, send)
