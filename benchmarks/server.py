"""The page server, a process of its own: ``python -m benchmarks.server --services 4 --rows 25000``.

It speaks just enough HTTP/1.1 (GET and PUT without a body, keep-alive) to be faster than whoever asks.
It prints one line of JSON with its base URL when it is ready. ``PUT /control/variant/changed`` switches what it
serves.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import socket
from urllib.parse import unquote

from benchmarks.pages import answer, error, index_rows, render, render_services
from benchmarks.world import BASE, CHANGED, World, make_row

NOT_FOUND = error("404 Not Found", 20404, "The requested resource was not found")
BAD_TOKEN = error("400 Bad Request", 21481, "Invalid PageToken")


class Site:
    """What is served: the pages of each variant, one of which is current."""

    def __init__(self, world: World, base_url: str, variants: list[str]) -> None:
        self.world = world
        self.base_url = base_url
        self.rendered = {variant: render(world, base_url, variant) for variant in variants}
        self.services = render_services(world, base_url)
        self.variant = variants[0]
        self.pages = self.rendered[self.variant]
        self.index: dict[str, tuple[str, int, int]] = {}

    def respond(self, target: str) -> bytes:
        path, _, query = target.partition("?")
        listing = self.pages.get(path)
        if listing is not None:
            _, _, token = query.partition("PageToken=")
            return listing.get(token) or listing.get(unquote(token.partition("&")[0]), BAD_TOKEN)
        if path == "/v1/Services":
            return self.services
        if path.startswith("/control/variant/"):
            return self.switch(path.rpartition("/")[2])
        return self.respond_single(path)

    def switch(self, variant: str) -> bytes:
        if variant not in self.rendered:
            return NOT_FOUND
        self.variant, self.pages = variant, self.rendered[variant]
        return answer("200 OK", json.dumps({"variant": variant}))

    def respond_single(self, path: str) -> bytes:
        listing, _, sid = path.rpartition("/")
        if listing not in self.pages:
            return NOT_FOUND
        self.index = self.index or index_rows(self.world)
        service, row, number = self.index.get(sid, ("", 0, 0))
        if not service or service not in listing:
            return NOT_FOUND
        changed = self.variant == CHANGED and number in self.world.changed_indexes()
        return answer("200 OK", make_row(self.base_url, service, row, changed=changed))


class PageProtocol(asyncio.Protocol):
    """One connection; answers each request head as it completes."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.latency = site.world.latency_ms / 1000
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head, self.buffer = self.buffer[:end], self.buffer[end + 4 :]
            target = head.split(b" ", 2)[1].decode("latin-1")
            if self.latency and not target.startswith("/control/"):
                loop = asyncio.get_running_loop()
                loop.call_later(self.latency, self.send, self.site.respond(target))
            else:
                self.send(self.site.respond(target))

    def send(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)


async def serve(site: Site, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(lambda: PageProtocol(site), sock=listener)
    print(json.dumps({"base_url": site.base_url}), flush=True)
    await stopped.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=4)
    parser.add_argument("--rows", type=int, default=25_000, help="rows per service")
    parser.add_argument("--page-size", type=int, default=100)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument(
        "--variants", default=f"{BASE},{CHANGED}", help="which to render; the first is served"
    )
    options = parser.parse_args()
    world = World(options.services, options.rows, options.page_size, options.latency_ms)
    listener = socket.create_server(("127.0.0.1", options.port), backlog=128)
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    site = Site(world, base_url, options.variants.split(","))
    gc.freeze()  # millions of page bytes need no further looking at
    asyncio.run(serve(site, listener))


if __name__ == "__main__":
    main()
