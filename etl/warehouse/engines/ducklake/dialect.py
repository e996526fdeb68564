"""SQLAlchemy's dialect of DuckDB, for tables that have no keys and no sequences."""

import hashlib
from typing import Any

import sqlalchemy as sa
from duckdb_sqlalchemy import (
    Dialect,
    DuckDBCompiler,
    DuckDBDDLCompiler,
    DuckDBExecutionContext,
)

OPTIONS = ("memory_limit",)
"""What a URL's query may say to DuckDB; the rest is for the catalog's server."""


class _Compiler(DuckDBCompiler):
    def visit_sequence(self, seq: Any, **kw: Any) -> str:  # type: ignore[override]
        """Return the next number of a column; a query's rows get one each."""
        of_query = getattr(self.statement, "select", None) is not None
        return f"{_highest(self.preparer, seq)} + {'ROW_NUMBER() OVER ()' if of_query else 1}"


class _ExecutionContext(DuckDBExecutionContext):
    def get_insert_default(self, column: sa.Column[Any]) -> Any:
        """Return the next number of a column, for a row whose number is asked for."""
        if not isinstance(column.default, sa.Sequence):
            return super().get_insert_default(column)  # type: ignore[no-untyped-call]
        query = f"SELECT {_highest(self.identifier_preparer, column.default)} + 1"
        return self._execute_scalar(query, column.type)


class _DDLCompiler(DuckDBDDLCompiler):
    def create_table_constraints(self, table: Any, *_: Any, **kw: Any) -> str:
        """Return nothing: there are no keys."""
        return ""

    def get_column_specification(self, column: Any, **kw: Any) -> str:
        """Return name, type, default and NOT NULL; no sequence stands behind a column."""
        return sa.sql.compiler.DDLCompiler.get_column_specification(self, column, **kw)


class DucklakeDialect(Dialect):
    """DuckDB in memory, which begins each transaction when it has attached the lake."""

    name = "ducklake"
    supports_statement_cache = True
    statement_compiler = _Compiler
    ddl_compiler = _DDLCompiler
    execution_ctx_cls = _ExecutionContext
    insert_returning = False
    update_returning = False
    delete_returning = False
    sequences_optional = False
    # Of many rows in one INSERT all would get one number.
    use_insertmanyvalues = False
    use_insertmanyvalues_wo_returning = False

    def create_connect_args(self, url: sa.URL) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what DuckDB is opened with; nothing is ever downloaded.

        Who opens a file twice in a process gets one DuckDB, which can attach it once only.
        """
        is_file = url.get_driver_name() == "duckdb"
        name = hashlib.sha256(str(url.database).encode()).hexdigest() if is_file else ""
        nothing_foreign = dict.fromkeys(
            ("autoinstall_known_extensions", "autoload_known_extensions"), "false"
        )
        config = nothing_foreign | {
            option: str(url.query[option]) for option in OPTIONS if option in url.query
        }
        return (), {"database": f":memory:{name}", "config": config}

    def connect(self, *args: Any, **parameters: Any) -> Any:
        """Return a session; the engine says whether it needs a lock to write."""
        session = super().connect(*args, **parameters)
        session.writer_lock = None
        return session

    def do_begin(self, dbapi_connection: Any) -> None:
        """Do nothing: the engine begins."""

    def do_commit(self, dbapi_connection: Any) -> None:
        """Commit, and let others write."""
        try:
            super().do_commit(dbapi_connection)  # type: ignore[no-untyped-call]
        finally:
            _release_writer_lock(dbapi_connection)

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Roll back, and let others write."""
        try:
            super().do_rollback(dbapi_connection)
        finally:
            _release_writer_lock(dbapi_connection)


def _release_writer_lock(session: Any) -> None:
    if session.writer_lock:
        session.writer_lock.release()


def _highest(preparer: Any, sequence: sa.Sequence) -> str:
    column = sequence.column
    assert column is not None  # noqa: S101 - each sequence is of a column
    name, table = preparer.format_column(column), preparer.format_table(column.table)
    return f"(SELECT COALESCE(MAX({name}), 0) FROM {table})"  # noqa: S608 - our names
