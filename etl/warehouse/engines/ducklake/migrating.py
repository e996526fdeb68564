"""What Alembic has to know of DuckLake: tables have no keys and no indexes."""

from typing import Any

import sqlalchemy as sa
from alembic.ddl.base import ColumnComment, format_column_name, format_table_name
from duckdb_sqlalchemy.alembic_impl import DuckDBImpl
from sqlalchemy.ext.compiler import compiles


class DucklakeImpl(DuckDBImpl):
    """See Alembic's `DefaultImpl`."""

    __dialect__ = "ducklake"

    def create_index(self, index: sa.Index, **kw: Any) -> None:
        """Do nothing: the files' own statistics say where to look."""

    def drop_index(self, index: sa.Index, **kw: Any) -> None:
        """Do nothing, likewise."""

    def correct_for_autogen_constraints(
        self,
        conn_uniques: Any,
        conn_indexes: Any,
        metadata_unique_constraints: Any,
        metadata_indexes: Any,
    ) -> None:
        """Let nobody miss what cannot be there."""
        metadata_unique_constraints.clear()
        metadata_indexes.clear()


@compiles(ColumnComment, "ducklake")
def _comment_on_column(element: ColumnComment, compiler: Any, **_: Any) -> str:
    table = format_table_name(compiler, element.table_name, element.schema)
    column = format_column_name(compiler, element.column_name)
    comment = compiler.sql_compiler.render_literal_value(element.comment, sa.String())
    return f"COMMENT ON COLUMN {table}.{column} IS {comment}"
