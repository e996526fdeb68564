"""What Alembic has to know of DuckLake: tables have no keys and no indexes."""

from typing import Any

import sqlalchemy as sa
from alembic.ddl.base import ColumnComment, format_column_name, format_table_name
from duckdb_sqlalchemy.alembic_impl import DuckDBImpl
from sqlalchemy.ext.compiler import compiles

from etl.warehouse.engines.unindexed import Unindexed


class DucklakeImpl(Unindexed, DuckDBImpl):
    """See Alembic's `DefaultImpl`."""

    __dialect__ = "ducklake"


@compiles(ColumnComment, "ducklake")
def _comment_on_column(element: ColumnComment, compiler: Any, **_: Any) -> str:
    table = format_table_name(compiler, element.table_name, element.schema)
    column = format_column_name(compiler, element.column_name)
    comment = compiler.sql_compiler.render_literal_value(element.comment, sa.String())
    return f"COMMENT ON COLUMN {table}.{column} IS {comment}"
