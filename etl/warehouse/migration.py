"""Alembic, driven from inside: the revision, upgrades, and the SQL for a DBA to review."""

import contextlib
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from etl import errors
from etl.warehouse import obstacles
from etl.warehouse.connection import Warehouse
from etl.warehouse.engines import engine_named
from etl.warehouse.tables import HEAD, VERSION_TABLE, sync_leases

if TYPE_CHECKING:
    from alembic.config import Config


_OLD_VERSION_TABLE = "alembic_version"
_OLD_REVISIONS = ("20261123_01", "20261123_02")  # 0.1.0 wrote these, and no other, into it


def current_revision(conn: sa.Connection) -> str | None:
    """Return the revision that the warehouse is at; None before the first migration."""
    return _revision_in(conn, VERSION_TABLE) or _old_revision(conn)


def _revision_in(conn: sa.Connection, table: str) -> str | None:
    if not sa.inspect(conn).has_table(table):
        return None
    revision: str | None = conn.scalar(
        sa.select(sa.column("version_num")).select_from(sa.table(table))
    )
    return revision


def _old_revision(conn: sa.Connection) -> str | None:
    """Return the revision that 0.1.0 left; None where there is none, or another program's."""
    if not sa.inspect(conn).has_table(sync_leases.name):
        return None
    revision = _revision_in(conn, _OLD_VERSION_TABLE)
    return revision if revision in _OLD_REVISIONS else None


def _take_over(conn: sa.Connection) -> None:
    """Move the revision of 0.1.0 into our own table; begun and broken off, it is ended here."""
    from alembic import command

    old = _old_revision(conn)
    if old is None:
        return
    if _revision_in(conn, VERSION_TABLE) is None:
        command.stamp(_config(conn), old)
    conn.execute(sa.schema.DropTable(sa.Table(_OLD_VERSION_TABLE, sa.MetaData())))


def require_head(conn: sa.Connection) -> None:
    """Refuse to work on a warehouse of another shape.

    Raises:
        WarehouseOutdated: it is older or newer than this program, or its schema is not there.
    """
    revision = current_revision(conn)
    if revision == HEAD:
        return
    if revision is None:
        if engine := engine_named(conn.dialect.name):
            engine.require_schema(conn)
        if obstacles.own_tables(conn):
            raise errors.WarehouseOutdated(
                "the warehouse is half made: a migration broke off; run `bindings-etl migrate` "
                "again"
            )
        raise errors.WarehouseOutdated(
            "the warehouse has no tables yet; run `bindings-etl migrate`"
        )
    if revision in known_revisions():
        raise errors.WarehouseOutdated(
            f"the warehouse is at revision {revision} and has to be at {HEAD}; run `bindings-etl "
            "migrate`"
        )
    raise errors.WarehouseOutdated(
        f"the warehouse is at revision {revision}, which this program does not know: a newer "
        "bindings-etl has migrated it; upgrade this one"
    )


def upgrade(warehouse: Warehouse, schema: str | None) -> tuple[str | None, str]:
    """Bring the warehouse to the newest revision; return the revision before and after.

    Raises:
        WarehouseOutdated: it is newer than this program.
        WarehouseRefused: the server or what is in the schema does not allow it; nothing was made.
        LeaseHeld: a run is alive; its transactions would fail half way.
    """
    from alembic import command

    with warehouse.migrating() as conn, warehouse.engine.migration_lock(conn):
        if schema:
            warehouse.engine.create_schema(conn, schema)
        obstacles.require_fit(conn, warehouse.engine)
        before = current_revision(conn)
        _take_over(conn)
        if before == HEAD:
            return before, HEAD
        if before is not None:
            if before not in known_revisions():
                require_head(conn)
            _refuse_while_running(conn, warehouse)
        obstacles.require_room(conn, warehouse.engine, before)
        command.upgrade(_config(conn), "head")
        return before, HEAD


def downgrade(warehouse: Warehouse, revision: str) -> None:
    """Take migrations back to `revision` (`base`: all of them)."""
    from alembic import command

    with warehouse.migrating() as conn:
        _take_over(conn)
        command.downgrade(_config(conn), revision)


def print_sql(dialect: str, schema: str | None = None, revision: str = "head") -> str:
    """Return the SQL of all migrations from an empty database to `revision`, for `dialect`."""
    from alembic import command

    output = io.StringIO()
    config = _config(None, output, dialect)
    config.attributes["dialect_name"] = dialect
    with contextlib.redirect_stdout(io.StringIO()):
        command.upgrade(config, revision, sql=True)
    engine = engine_named(dialect)
    return (engine.schema_sql(schema) if engine and schema else "") + output.getvalue()


def dialect_spoken(warehouse: Warehouse) -> str:
    """Return the dialect of the SQL to print; the server is asked where its URL leaves it open."""

    def ask() -> sa.Dialect:
        with warehouse.migrating() as conn:
            return conn.dialect

    return warehouse.engine.sql_dialect(warehouse.dialect, ask)


def known_revisions() -> list[str]:
    """Return all revisions that this program knows, newest first."""
    from alembic.script import ScriptDirectory

    return [
        script.revision for script in ScriptDirectory.from_config(_config(None)).walk_revisions()
    ]


def _refuse_while_running(conn: sa.Connection, warehouse: Warehouse) -> None:
    alive = sa.select(sync_leases.c.run_id, sync_leases.c.host).where(
        sync_leases.c.expires_at > warehouse.engine.now(conn)
    )
    holder = conn.execute(alive).first()
    if holder is not None:
        raise errors.LeaseHeld(
            f"run {holder.run_id} on {holder.host} is alive; migrate when it has ended"
        )


def _config(
    conn: sa.Connection | None, output: io.StringIO | None = None, dialect: str = ""
) -> "Config":
    from alembic.config import Config

    if engine := engine_named(dialect if conn is None else conn.dialect.name):
        engine.prepare_migrations()
    config = Config(output_buffer=output) if output else Config()
    scripts = str(_scripts())
    config.set_main_option("script_location", scripts.replace("%", "%%"))
    if scripts not in sys.path:  # where migrations find `etl_frozen`
        sys.path.append(scripts)
    config.attributes["connection"] = conn
    config.attributes["version_table"] = VERSION_TABLE
    return config


def _scripts() -> Path:
    """Return the migrations' folder: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
