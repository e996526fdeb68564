"""The databases that can be a warehouse, one file each, holding only what differs."""

import sqlalchemy as sa

from etl.errors import ConfigurationError
from etl.warehouse.engines.contract import Engine


def engine_for(url: sa.URL) -> Engine:
    """The engine that `url` names; its driver is loaded only now.

    Raises:
        ConfigurationError: no such engine, or its driver is not installed.
    """
    kind = url.get_backend_name()
    if kind == "sqlite":
        from etl.warehouse.engines.sqlite import Sqlite

        return Sqlite()
    if kind == "postgresql":
        from etl.warehouse.engines.postgresql import Postgresql

        return Postgresql()
    if kind in ("mysql", "mariadb"):
        from etl.warehouse.engines.mariadb import Mariadb

        return Mariadb()
    if kind == "duckdb":
        from etl.warehouse.engines.duckdb import Duckdb

        return Duckdb()
    raise ConfigurationError(
        f"warehouse.url: {kind} is not a warehouse that bindings-etl knows; use sqlite, postgresql, mysql, mariadb or duckdb"
    )
