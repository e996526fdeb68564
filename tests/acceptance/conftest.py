"""Fixtures of the acceptance trials."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from etl.simulator import Simulator, World
from tests.acceptance.front import Front
from tests.acceptance.trial import Trial


@pytest.fixture
def make_trial(tmp_path: Path, sqlite_url: str) -> Iterator[Callable[..., Trial]]:
    """A migrated SQLite warehouse beside a served world of some services: `make_trial(bindings=(250, 30), max_page_size=50)`."""
    with ExitStack() as stack:

        def make(
            bindings: tuple[int, ...] = (230, 120),
            *,
            url: str = sqlite_url,
            seed: int = 1,
            **options: Any,
        ) -> Trial:
            world = World(seed=seed)
            for number in bindings:
                world.add_service(bindings=number)
            simulator = Simulator(world, gzip=False, **options)
            front = Front(simulator.app)
            simulator.app = front  # type: ignore[assignment]
            stack.enter_context(simulator.serve())
            return Trial(tmp_path, simulator, url, front)

        yield make


@pytest.fixture
def trial(make_trial: Callable[..., Trial]) -> Trial:
    """Two services of 230 and 120 bindings, 100 a page."""
    return make_trial()
