"""A small world behind a running simulator, and a client that follows next links as they come."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from etl.simulator import Service, Simulator, World


@dataclass
class Stand:
    """A running simulator, its first world and service, and a client with that world's key."""

    simulator: Simulator
    world: World
    service: Service
    client: httpx.Client
    stop: Callable[[], None]

    @property
    def path(self) -> str:
        """Give the path of the service's bindings."""
        return f"/v1/Services/{self.service.sid}/Bindings"

    def get(self, **query: Any) -> httpx.Response:
        """Ask for a page of the service's bindings."""
        return self.client.get(self.path, params=query)

    def page(self, **query: Any) -> dict[str, Any]:
        """Ask for a page and read it."""
        return dict(self.get(**query).raise_for_status().json())

    def follow(self, page: dict[str, Any]) -> dict[str, Any]:
        """Follow a page's next link."""
        return dict(self.client.get(page["meta"]["next_page_url"]).raise_for_status().json())

    def pages(self, **query: Any) -> Iterator[dict[str, Any]]:
        """Follow the listing to its end, but not for ever."""
        page = self.page(**query)
        for _ in range(1_000):
            yield page
            if not page["meta"].get("next_page_url"):
                return
            page = self.follow(page)
        raise AssertionError("the listing has no end")

    def rows(self, **query: Any) -> list[dict[str, Any]]:
        """Read the whole listing."""
        return [row for page in self.pages(**query) for row in page[page["meta"]["key"]]]


@pytest.fixture
def stand() -> Iterator[Any]:
    """Give a function that starts a simulator with so many bindings and options."""
    with ExitStack() as stack:

        def start(bindings: int = 12, *, seed: int = 1, **options: Any) -> Stand:
            world = World(seed)
            service = world.add_service(bindings)
            simulator = Simulator(world, **options)
            serving = stack.enter_context(ExitStack())
            url = serving.enter_context(simulator.serve())
            pair = (world.api_key, world.api_secret)
            client = stack.enter_context(httpx.Client(base_url=url, auth=pair, timeout=60))
            return Stand(simulator, world, service, client, serving.close)

        yield start
