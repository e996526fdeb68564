"""The one place where the warehouse of a configuration is opened, and closed again."""

from collections.abc import Iterator
from contextlib import contextmanager

from etl.config import Settings
from etl.stopping import Stop
from etl.warehouse import migration
from etl.warehouse.connection import Warehouse, open_warehouse


@contextmanager
def configured_warehouse(
    settings: Settings, stop: Stop | None = None, *, migrated: bool = True
) -> Iterator[Warehouse]:
    """Yield the warehouse of `settings`, and close it at the end.

    Raises:
        ConfigurationError: the engine's driver is not installed.
        WarehouseError: (`migrated`) it cannot be reached or is not at the newest revision.
    """
    lease_seconds = settings.run.lease_seconds
    warehouse = open_warehouse(settings.warehouse, settings.retry, stop or Stop(), lease_seconds)
    try:
        if migrated:
            warehouse.read(migration.require_head)
        yield warehouse
    finally:
        warehouse.close()
