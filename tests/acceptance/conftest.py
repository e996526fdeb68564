"""Fixtures of the acceptance scenarios."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from etl.simulator import Simulator, World
from tests.acceptance.interceptor import Interceptor
from tests.acceptance.scenario import Scenario


@pytest.fixture
def make_scenario(tmp_path: Path, sqlite_url: str) -> Iterator[Callable[..., Scenario]]:
    """A migrated SQLite warehouse beside a served world of some services: `make_scenario(bindings=(250, 30), max_page_size=50)`."""
    with ExitStack() as stack:

        def make(
            bindings: tuple[int, ...] = (230, 120),
            *,
            url: str = sqlite_url,
            seed: int = 1,
            **options: Any,
        ) -> Scenario:
            world = World(seed=seed)
            for number in bindings:
                world.add_service(bindings=number)
            simulator = Simulator(world, gzip=False, **options)
            interceptor = Interceptor(simulator.app)
            simulator.app = interceptor  # type: ignore[assignment]
            stack.enter_context(simulator.serve())
            return Scenario(tmp_path, simulator, url, interceptor)

        yield make


@pytest.fixture
def scenario(make_scenario: Callable[..., Scenario]) -> Scenario:
    """Two services of 230 and 120 bindings, 100 a page."""
    return make_scenario()
