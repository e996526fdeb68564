"""MariaDB 10.6 and newer, MySQL 8, by PyMySQL: a batch as JSON, staged by multi-row INSERT."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import DATETIME, LONGTEXT, VARCHAR, insert
from sqlalchemy.types import TypeEngine

from etl.domain.binding import Row
from etl.errors import ConfigurationError, WarehouseConflict, WarehouseError
from etl.warehouse.engines.base import (
    LONGEST_GREETING,
    MAX_ROW_BYTES,
    ColumnKind,
    DbErrorKind,
    Engine,
    Limits,
)
from etl.warehouse.engines.relations import batch_of, seen_of
from etl.warehouse.engines.servers import ServerEngine, pool_options, try_idle_connections
from etl.warehouse.engines.upserts import overwritten
from etl.warehouse.portions import portions
from etl.warehouse.tables import CARRIED

# 1213 also comes at COMMIT, from the loser of two writers on a Galera cluster; 1020 is its twin
# since MariaDB 11.6.
_BY_CODE = {
    1213: DbErrorKind.CONFLICT,
    1205: DbErrorKind.CONFLICT,
    1020: DbErrorKind.CONFLICT,
    1062: DbErrorKind.CONFLICT,  # two put in one key at once; when tried again it is found
    1305: DbErrorKind.CONFLICT,  # no such savepoint: a deadlock undid the whole transaction
    1047: DbErrorKind.UNREADY,
    1180: DbErrorKind.LOST,  # at COMMIT, from a node that has just lost its cluster
    2003: DbErrorKind.LOST,
    2006: DbErrorKind.LOST,
    2013: DbErrorKind.LOST,
    2014: DbErrorKind.LOST,
    2055: DbErrorKind.LOST,
    1040: DbErrorKind.CROWDED,
    1041: DbErrorKind.CROWDED,
    1135: DbErrorKind.CROWDED,
    1203: DbErrorKind.CROWDED,
    1226: DbErrorKind.CROWDED,
    1053: DbErrorKind.LOST,
    1927: DbErrorKind.LOST,
    0: DbErrorKind.LOST,
    1317: DbErrorKind.CANCELLED,
    1969: DbErrorKind.CANCELLED,
    3024: DbErrorKind.CANCELLED,
    1021: DbErrorKind.FULL,
    1114: DbErrorKind.FULL,
    3: DbErrorKind.FULL,
    1290: DbErrorKind.READ_ONLY,
    1792: DbErrorKind.READ_ONLY,
    1836: DbErrorKind.READ_ONLY,
    1044: DbErrorKind.DENIED,
    1045: DbErrorKind.LOGIN,
    1698: DbErrorKind.LOGIN,
    1129: DbErrorKind.ACCOUNT,
    1130: DbErrorKind.ACCOUNT,
    1820: DbErrorKind.ACCOUNT,
    1862: DbErrorKind.ACCOUNT,
    3118: DbErrorKind.ACCOUNT,
    3955: DbErrorKind.ACCOUNT,
    4151: DbErrorKind.ACCOUNT,
    1251: DbErrorKind.METHOD,
    1275: DbErrorKind.METHOD,
    1524: DbErrorKind.METHOD,
    2059: DbErrorKind.METHOD,
    1142: DbErrorKind.DENIED,
    1143: DbErrorKind.DENIED,
    1049: DbErrorKind.NO_DATABASE,
    1146: DbErrorKind.MISSING,
    1665: DbErrorKind.SETTING,
}

_OLDEST_MARIADB = (10, 6)
_OLDEST_MYSQL = (8, 0, 31)
_SMALLEST_PAGE = 8192  # of a smaller one, a key of `sync_leases` is too long

_PATIENCE_SECONDS = 600
_REST_OF_STATEMENT = 2000

_ROWS_A_STATEMENT = 500
_INSERT_STAGED = f"INSERT INTO scan_staged (stage_id, batch, {', '.join(CARRIED)}) VALUES"
_ONE_LINE = f"(%s, %s{', %s' * len(CARRIED)})"


class Mariadb(ServerEngine):
    """See `Engine`."""

    drivers: ClassVar[frozenset[str]] = frozenset({"pymysql"})
    harmless_options: ClassVar[frozenset[str]] = frozenset({"charset", "connect_timeout"})
    usual_port: ClassVar[int] = 3306
    commits_each_ddl: ClassVar[bool] = True
    conflicts_at_commit: ClassVar[bool] = True  # on a Galera cluster, whose nodes share no locks

    def open(self, url: sa.URL, schema: str | None, limits: Limits) -> sa.Engine:
        try:
            import pymysql

            from etl.warehouse.engines.mariadb import literals, nodes, sessions
        except ImportError:
            raise ConfigurationError(
                "MariaDB and MySQL need a driver: pip install 'bindings-etl[mysql]'"
            ) from None
        if schema:
            url = url.set(database=schema)
        engine = sa.create_engine(
            url.set(drivername=f"{url.get_backend_name()}+pymysql").update_query_dict(
                {"charset": "utf8mb4"}
            ),
            connect_args={
                "connect_timeout": min(LONGEST_GREETING, limits.silence),
                "conv": literals.CONVERSIONS,
            },
            # Gap locks of the default level let writers of different services deadlock.
            isolation_level="READ COMMITTED",
            **pool_options(limits),
        )

        # MariaDB has sequences; the tables use AUTO_INCREMENT, as MySQL has to.
        engine.dialect.sequences_optional = True

        several = nodes.Nodes(nodes.places_of(url, self.usual_port))

        def _open(parameters: Mapping[str, Any]) -> sessions.Session:
            try:
                session = sessions.connect({**parameters, **limits.login()}, limits)
                nodes.join(session)
            except RuntimeError:  # the driver's way to say that a package of its own is not there
                raise ConfigurationError(
                    "the account of warehouse.url logs in by ed25519 or caching_sha2_password, "
                    "which "
                    "needs another package: pip install 'bindings-etl[mysql]'"
                ) from None
            except pymysql.err.MySQLError as error:
                if (unreached := sessions.diagnose(error)) is not None:
                    raise unreached from None
                raise
            return session

        @sa.event.listens_for(engine, "do_connect")
        def _connect(_dialect: Any, _record: Any, _args: Any, parameters: Any) -> Any:
            return several.connect(lambda place: _open({**parameters, **place}))

        @sa.event.listens_for(engine, "connect")
        def _look_at_room(connection: Any, record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT @@max_allowed_packet")
                # A statement is one packet, and between quotes a byte may become two.
                record.info[MAX_ROW_BYTES] = cursor.fetchone()[0] // 2 - _REST_OF_STATEMENT

        sa.event.listen(engine, "begin", _begin)
        several.keep_together(engine)
        try_idle_connections(engine)
        return engine

    def has_savepoints(self, conn: sa.Connection) -> bool:
        # What other nodes have got of a transaction cannot be undone by itself.
        session: Any = conn.connection.driver_connection
        return not session.is_on_node

    def column_type(
        self, kind: ColumnKind, length: int | None, dialect: sa.Dialect
    ) -> TypeEngine[Any] | None:
        if kind is ColumnKind.MOMENT:
            return DATETIME(fsp=6)
        if kind is ColumnKind.CODE:
            return VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
        if kind is ColumnKind.IDENTIFIER:
            return None
        # Trailing blanks count; the usual collations pad with blanks.
        is_mariadb = getattr(dialect, "is_mariadb", False)
        collation = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
        if length:
            return VARCHAR(length, charset="utf8mb4", collation=collation)
        return LONGTEXT(charset="utf8mb4", collation=collation)

    def prepare_migrations(self) -> None:
        from etl.warehouse.engines.mariadb import resuming  # noqa: F401 - being there is enough

    def sql_dialect(self, named: str, ask: Callable[[], sa.Dialect]) -> str:
        # Behind a URL that says `mysql` may be a MariaDB: only the server knows, if it answers.
        if named != "mysql":
            return named
        try:
            return "mariadb" if getattr(ask(), "is_mariadb", False) else named
        except WarehouseError:
            return named

    def schema_sql(self, schema: str) -> str:
        return "USE `" + schema.replace("`", "``") + "`;\n\n"

    @contextmanager
    def migration_lock(self, conn: sa.Connection) -> Iterator[None]:
        from etl.warehouse.engines.mariadb import nodes

        name = sa.func.concat(
            "bindings-etl ", sa.func.md5(sa.func.database())
        )  # such locks belong to the whole server
        if not conn.scalar(sa.select(sa.func.get_lock(name, _PATIENCE_SECONDS))):
            raise WarehouseConflict(
                "somebody else has been migrating this warehouse for a long time; run again later"
            )
        try:
            with nodes.migrating_alone(conn, _PATIENCE_SECONDS):
                conn.exec_driver_sql("COMMIT")  # or we would not see what others have done
                yield
                conn.exec_driver_sql("COMMIT")  # or who is waiting would not yet see the revision
        finally:
            with suppress(sa.exc.DBAPIError):  # a lost connection has given it back
                conn.execute(sa.select(sa.func.release_lock(name)))

    def why_unfit(self, conn: sa.Connection) -> str | None:
        oldest = _OLDEST_MARIADB if getattr(conn.dialect, "is_mariadb", False) else _OLDEST_MYSQL
        version = conn.dialect.server_version_info or oldest
        if version < oldest:
            return f"its version is {_dotted(version)}; use {_dotted(oldest)} or newer"
        rows = conn.exec_driver_sql(
            "SHOW VARIABLES WHERE variable_name IN "
            "('log_bin', 'binlog_format', 'innodb_default_row_format', 'innodb_page_size')"
        )
        return _why_unfit_setting({str(name): str(value).upper() for name, value in rows})

    def now(self, conn: sa.Connection) -> datetime:
        moment: datetime = conn.scalar(sa.text("SELECT UTC_TIMESTAMP(6)"))
        return moment.replace(tzinfo=UTC)

    def batch_table(self) -> sa.FromClause:
        # Columns of JSON_TABLE take the database's collation; utf8mb4_bin is what the tables
        # compare codes by, and what an index needs.
        return batch_of(
            "SELECT CONVERT(sid USING utf8mb4) COLLATE utf8mb4_bin AS sid, "
            "CONVERT(source_hash USING utf8mb4) COLLATE utf8mb4_bin AS source_hash "
            "FROM JSON_TABLE(:batch_keys, '$[*]' COLUMNS ("
            "sid CHAR(34) PATH '$[0]', source_hash CHAR(32) PATH '$[1]')) AS listed"
        )

    def seen_sids(self) -> sa.FromClause:
        return seen_of(
            "SELECT scan_seen.batch, "
            "CONVERT(listed.sid USING utf8mb4) COLLATE utf8mb4_bin AS sid FROM scan_seen "
            "CROSS JOIN JSON_TABLE("
            "scan_seen.sids, '$[*]' COLUMNS (sid CHAR(34) PATH '$')) AS listed "
            "WHERE scan_seen.stage_id = :of_stage_id"
        )

    def json_object(
        self, name: sa.ColumnElement[str], value: sa.ColumnElement[str]
    ) -> sa.ColumnElement[str]:
        return sa.func.json_objectagg(name, value)

    def has_member(self, document: sa.Column[str], name: str) -> sa.ColumnElement[bool]:
        return sa.func.json_contains(sa.func.json_keys(document), sa.func.json_quote(name)) == 1

    def has_item(self, document: sa.Column[str], item: str) -> sa.ColumnElement[bool]:
        return sa.func.json_contains(document, sa.func.json_quote(item)) == 1

    def insert_missing(
        self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> sa.Executable:
        return insert(table).prefix_with("IGNORE").from_select(list(columns), rows)

    def insert_or_update(
        self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> sa.Executable:
        statement = insert(table).from_select(list(columns), rows)
        values = {
            name: sa.func.values(statement.table.c[name]) for name in overwritten(table, columns)
        }
        return statement.on_duplicate_key_update(values)

    def with_index(self, query: sa.Select[Any], table: sa.Table, index: str) -> sa.Select[Any]:
        # After a purge the statistics know no rows, and it would read the whole table each time.
        for dialect in ("mariadb", "mysql"):
            query = query.with_hint(table, f"FORCE INDEX ({index})", dialect)
        return query

    def stage(self, conn: sa.Connection, stage_id: int, batch: int, rows: Sequence[Row]) -> None:
        from etl.warehouse.engines.mariadb import literals

        for some in portions(rows, _ROWS_A_STATEMENT):
            lines = literals.as_literals((stage_id, batch), some)
            if lines is None:
                values = [(stage_id, batch, *row) for row in some]
                conn.exec_driver_sql(f"{_INSERT_STAGED} {_ONE_LINE}", values)
            else:
                conn.exec_driver_sql(f"{_INSERT_STAGED} %s", (lines,))

    def error_kind(self, error: sa.exc.DBAPIError) -> DbErrorKind:
        code = error.orig.args[0] if error.orig is not None and error.orig.args else None
        if error.connection_invalidated:
            return DbErrorKind.LOST
        return _BY_CODE.get(code, DbErrorKind.OTHER) if isinstance(code, int) else DbErrorKind.OTHER


ENGINE: Engine = Mariadb()


def _begin(conn: sa.Connection) -> None:
    options = conn.get_execution_options()
    if options.get("migrating") and conn.dialect.is_mariadb:  # type: ignore[attr-defined]
        conn.exec_driver_sql("SET SESSION max_statement_time = 0")
    if options.get("snapshot"):
        conn.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        conn.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT")


def _why_unfit_setting(settings: Mapping[str, str]) -> str | None:
    if settings.get("log_bin") == "ON" and settings.get("binlog_format") == "STATEMENT":
        return (
            "binlog_format is STATEMENT, which takes no write at READ COMMITTED; "
            "set it to MIXED or ROW (SET GLOBAL binlog_format = 'ROW', and in the server's file)"
        )
    if settings.get("innodb_default_row_format") in ("COMPACT", "REDUNDANT"):
        return (
            "innodb_default_row_format is too narrow for the tables' keys; "
            "set it to DYNAMIC (SET GLOBAL innodb_default_row_format = DYNAMIC)"
        )
    if int(settings.get("innodb_page_size", _SMALLEST_PAGE)) < _SMALLEST_PAGE:
        return (
            f"innodb_page_size is too small for the tables' keys; it takes {_SMALLEST_PAGE} or more"
        )
    return None


def _dotted(version: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in version)
