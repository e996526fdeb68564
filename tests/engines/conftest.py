"""Fixtures of the warehouse's contract: a migrated warehouse on each engine, and whole-program scenarios upon it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from etl import config
from etl.simulator import Simulator, World
from etl.stopping import Stop
from etl.warehouse.connection import Warehouse, open_warehouse
from tests.acceptance.interceptor import Interceptor
from tests.acceptance.scenario import Scenario
from tests.engines.scan_harness import ScanHarness


@pytest.fixture
def open_on() -> Iterator[Callable[..., Warehouse]]:
    """Open a warehouse by URL: `open_on(url, attempts=3, schema="push")`."""
    with ExitStack() as stack:

        def open_one(
            url: str,
            *,
            schema: str | None = None,
            password_command: Sequence[str] | None = None,
            attempts: int = 3,
            **options: Any,
        ) -> Warehouse:
            policy = config.Retry(attempts=attempts, max_wait_seconds=0.05, **options)
            settings = config.Warehouse.model_validate(
                {"url": url, "schema": schema, "password_command": password_command}
            )
            warehouse = open_warehouse(settings, policy, Stop())
            stack.callback(warehouse.close)
            return warehouse

        yield open_one


@pytest.fixture
def warehouse(warehouse_url: str, open_on: Callable[..., Warehouse]) -> Warehouse:
    """A warehouse at the newest revision."""
    return open_on(warehouse_url)


@pytest.fixture
def harness(warehouse: Warehouse) -> ScanHarness:
    """Scans of one service, without HTTP."""
    return ScanHarness(warehouse)


@pytest.fixture
def scenario_on(tmp_path: Path) -> Iterator[Callable[..., Scenario]]:
    """The whole program on a migrated warehouse beside a served world: `scenario_on(url, bindings=(40, 12))`."""
    with ExitStack() as stack:

        def make(
            url: str,
            bindings: tuple[int, ...] = (40, 12),
            *,
            schema: str | None = None,
            **options: Any,
        ) -> Scenario:
            world = World(seed=1)
            for number in bindings:
                world.add_service(bindings=number)
            simulator = Simulator(world, gzip=False, **options)
            interceptor = Interceptor(simulator.app)
            simulator.app = interceptor  # type: ignore[assignment]
            stack.enter_context(simulator.serve())
            scenario = Scenario(tmp_path, simulator, url, interceptor)
            scenario.settings["warehouse"]["schema"] = schema
            return scenario.migrate()

        yield make
