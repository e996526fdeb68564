"""DuckLake: DuckDB's SQL, upon Parquet files and a catalog that several processes may share."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import sqlalchemy as sa

from etl.errors import ConfigurationError
from etl.warehouse.engines.base import DbErrorKind, Engine, Limits
from etl.warehouse.engines.duckdb import Duckdb
from etl.warehouse.engines.ducklake.claim import CLAIM
from etl.warehouse.engines.merging import KeylessEngine

for _driver in ("", ".duckdb", ".postgresql"):
    sa.dialects.registry.register(
        f"ducklake{_driver}", "etl.warehouse.engines.ducklake.dialect", "DucklakeDialect"
    )


# A file that no catalog knows is of a process that was killed, or of a transaction that goes on.
# Such a one has lost the writer's lock: after the claim its COMMIT is undone, and whoever begins
# later, when we have lost it, writes files that are younger than the second transaction.
_DELETE_UNKNOWN = (
    f"{CLAIM}; COMMIT; BEGIN TRANSACTION; "
    "CALL ducklake_delete_orphaned_files('lake', older_than => now())"
)
# DuckDB takes a path with one of these for a pattern, and would delete what lies elsewhere.
_OF_PATTERNS = frozenset("*?[")

# What is small in the catalog becomes files, rows that are gone leave theirs, small files become
# one; then nobody needs the files of before.
_EXPIRE = "CALL ducklake_expire_snapshots('lake', older_than => now())"
_AN_HOUR_AGO = "older_than => now() - INTERVAL 1 HOUR"
_COMPACT = (
    "CALL ducklake_flush_inlined_data('lake')",
    "CALL ducklake_rewrite_data_files('lake', delete_threshold => 0)",
    "CALL ducklake_merge_adjacent_files('lake')",
)
_CLEAN_UP = "CALL ducklake_cleanup_old_files('lake', cleanup_all => true)"


class Ducklake(KeylessEngine, Duckdb):
    """See `Engine`."""

    drivers: ClassVar[frozenset[str]] = frozenset({"duckdb", "postgresql"})
    url_form: ClassVar[str] = (
        "must name the catalog: {engine}+duckdb:///FILE, "
        "or {engine}+postgresql://user:password@host:port/database"
    )
    harmless_options: ClassVar[frozenset[str]] = frozenset({"memory_limit", "sslmode"})
    conflicts_at_commit: ClassVar[bool] = True
    has_data_path: ClassVar[bool] = True
    tidying: ClassVar[Sequence[str]] = (
        f"CALL ducklake_expire_snapshots('lake', {_AN_HOUR_AGO})",
        f"CALL ducklake_cleanup_old_files('lake', {_AN_HOUR_AGO})",
    )
    reclaiming: ClassVar[Sequence[str]] = (
        _DELETE_UNKNOWN,
        _EXPIRE,
        *_COMPACT,
        CLAIM,  # in the snapshot that is kept: by it others find that they are too late
        _EXPIRE,
        _CLEAN_UP,
    )
    advice: ClassVar[Mapping[DbErrorKind, str]] = {
        DbErrorKind.LOCKED: "cannot be opened: its folder is missing, it is no DuckDB file, or "
        "another process holds the file (a catalog in PostgreSQL can be shared)",
        DbErrorKind.LOGIN: "lets nobody in: check user, password and database in warehouse.url",
        DbErrorKind.LOST: "cannot be reached, or cut the connection: check that the catalog's "
        "server runs, the network, and warehouse.data_path and its disk",
        DbErrorKind.FULL: "refused the work: its files, or those of its catalog, cannot be read "
        "or written; look at warehouse.data_path and its disk, and run again",
    }

    def accepts(self, url: sa.URL) -> bool:
        if url.drivername == "ducklake+duckdb":
            return super().accepts(url)
        return url.drivername == "ducklake+postgresql" and bool(url.database)

    def file_of(self, url: sa.URL) -> str | None:
        return super().file_of(url) if url.get_driver_name() == "duckdb" else None

    def open(self, url: sa.URL, schema: str | None, limits: Limits) -> sa.Engine:
        try:
            from etl.warehouse.engines.ducklake import attaching, dialect, sessions  # noqa: F401
        except ImportError:
            raise ConfigurationError(
                "DuckLake needs DuckDB and extensions of it: pip install 'bindings-etl[ducklake]'"
            ) from None
        data_path = url.query.get("data_path")
        if data_path and "://" in data_path and not str(data_path).startswith("s3://"):
            raise ConfigurationError(
                "warehouse.data_path: is neither a folder nor s3://…; name one of the two"
            )
        url = url.difference_update_query(["data_path"])
        engine = sa.create_engine(url, poolclass=sa.pool.StaticPool, hide_parameters=True)
        place = attaching.Place(url, str(data_path) if data_path else None, schema, limits)
        if _OF_PATTERNS & set(place.named_folder or place.usual_folder or ""):
            raise ConfigurationError(
                "warehouse.data_path: has one of * ? [ in it, which DuckDB takes for a pattern; "
                "name a folder without"
            )
        sessions.prepare(engine, place)
        return engine

    def schema_sql(self, schema: str) -> str:
        name = '"' + schema.replace('"', '""') + '"'
        return f"CREATE SCHEMA IF NOT EXISTS {name};\n\nUSE {name};\n\n"

    def create_schema(self, conn: sa.Connection, schema: str) -> None:
        from etl.warehouse.engines.ducklake.attaching import enter_schema

        conn.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
        conn.exec_driver_sql(enter_schema(schema))

    def error_kind(self, error: sa.exc.DBAPIError) -> DbErrorKind:
        if type(error.orig).__name__ == "HTTPException":
            return DbErrorKind.LOST
        return super().error_kind(error)

    def require_own_files(self, conn: sa.Connection) -> None:
        conn.info["require_own"](claim=True)

    def prepare_migrations(self) -> None:
        from etl.warehouse.engines.ducklake import migrating  # noqa: F401 - being there is enough


ENGINE: Engine = Ducklake()
