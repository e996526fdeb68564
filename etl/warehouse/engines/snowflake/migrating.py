"""What Alembic has to know of Snowflake: no indexes, comments its own way, and no way back."""

from typing import Any

import sqlalchemy as sa
from alembic.ddl.base import ColumnComment, format_column_name, format_table_name
from alembic.ddl.impl import DefaultImpl
from sqlalchemy.ext.compiler import compiles

from etl.warehouse.engines.unindexed import Unindexed

_DONE = {
    1430,  # the column is there
    2002,  # the table, view or sequence is there
    2003,  # the table, view or sequence to drop is gone
    904,  # the column to drop is gone
}


class SnowflakeImpl(Unindexed, DefaultImpl):
    """See Alembic; a statement whose effect is there already is no fault.

    Each DDL commits at once, and a migration that broke off is begun again.
    """

    __dialect__ = "snowflake"

    def _exec(self, construct: Any, *args: Any, **options: Any) -> Any:
        try:
            return super()._exec(construct, *args, **options)
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "errno", None) not in _DONE:
                raise
            return None


@compiles(ColumnComment, "snowflake")
def _comment_on_column(element: ColumnComment, compiler: Any, **_: Any) -> str:
    table = format_table_name(compiler, element.table_name, element.schema)
    column = format_column_name(compiler, element.column_name)
    comment = compiler.sql_compiler.render_literal_value(element.comment, sa.String())
    return f"ALTER TABLE {table} ALTER COLUMN {column} COMMENT {comment}"
