"""SQLAlchemy's dialect of Snowflake, for what Snowflake takes of the statements of all engines."""

from typing import Any

import sqlalchemy as sa
from snowflake.sqlalchemy.base import (
    SnowflakeCompiler,
    SnowflakeDDLCompiler,
    SnowflakeTypeCompiler,
)
from snowflake.sqlalchemy.snowdialect import SnowflakeDialect
from sqlalchemy.sql import visitors

_GIVEN_UP = frozenset({4, 14})
"""Numbers of the driver: the network failed, or an answer took too long."""
_AGGREGATES = frozenset({"count", "max", "min", "sum"})


class _Compiler(SnowflakeCompiler):
    def for_update_clause(self, select: Any, **kw: Any) -> str:
        """Return nothing: only hybrid tables have locks of rows. A gate is written instead."""
        return ""

    def visit_exists_unary_operator(self, element: Any, _operator: Any, **kw: Any) -> str:
        """Count among columns: there, Snowflake takes no EXISTS that looks at the outer query."""
        query = element.element.element
        if not kw.get("within_columns_clause"):
            return f"EXISTS ({self.process(query, **kw)})"
        return f"({self._counted(query, **kw)} > 0)"

    def _counted(self, query: sa.Select[Any], **kw: Any) -> str:
        count = query.with_only_columns(sa.func.count(), maintain_column_froms=True)
        return f"({self.process(count, **kw)})"

    def visit_in_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        return self._in(binary, "IN", **kw)

    def visit_not_in_op_binary(self, binary: Any, operator: Any, **kw: Any) -> str:
        return f"({self._in(binary, 'NOT IN', **kw)})"

    def _in(self, binary: Any, verb: str, **kw: Any) -> str:
        """Leave a subquery as it is that is asked for many rows."""
        if not isinstance(binary.right, sa.ScalarSelect):
            return self._generate_generic_binary(binary, f" {verb} ", **kw)
        kw.pop("within_columns_clause", None)
        left = self.process(binary.left, **kw)
        return f"{left} {verb} ({self.process(binary.right.element, **kw)})"

    def visit_grouping(self, grouping: Any, *rest: Any, **kw: Any) -> str:
        """Aggregate what is looked up row by row: Snowflake has to see that there is one row."""
        if isinstance(grouping, sa.ScalarSelect) and isinstance(grouping.element, sa.Select):
            return f"({self.process(_of_one_row(grouping.element), **kw)})"
        text: str = super().visit_grouping(grouping, *rest, **kw)  # type: ignore[no-untyped-call]
        return text


def _of_one_row(query: sa.Select[Any]) -> sa.Select[Any]:
    (column,) = query.selected_columns
    called = {getattr(part, "name", "") for part in visitors.iterate(column)}
    if called & _AGGREGATES:
        return query
    return query.with_only_columns(sa.func.max(column), maintain_column_froms=True)


class _DDLCompiler(SnowflakeDDLCompiler):
    def visit_create_sequence(self, create: Any, *rest: Any, **kw: Any) -> str:
        """Let numbers rise in time, whichever session takes them: the usual way is NOORDER."""
        text = super().visit_create_sequence(create, *rest, **kw)  # type: ignore[no-untyped-call]
        return f"{text} ORDER"

    def create_table_constraints(self, table: Any, *_: Any, **kw: Any) -> str:
        """Return nothing: a key is not enforced, and who declares one tells readers it is."""
        return ""

    def get_column_specification(self, column: Any, **kw: Any) -> str:
        """Return name, type, default, NOT NULL and comment, which costs no statement here.

        No sequence stands behind a column: each INSERT of the program asks for its numbers.
        """
        specification = sa.sql.compiler.DDLCompiler.get_column_specification(self, column, **kw)
        return f"{specification}{self._comment(' COMMENT ', column.comment)}"

    def get_column_default_string(self, column: Any) -> str | None:
        """Return a default of the column's own type, as Snowflake wants it."""
        text: str | None = super().get_column_default_string(column)
        return text.strip("'") if text and isinstance(column.type, sa.Integer) else text

    def post_create_table(self, table: Any) -> str:
        """Return the options and the comment of a table."""
        return f"{super().post_create_table(table)}{self._comment(' COMMENT = ', table.comment)}"

    def _comment(self, before: str, comment: str | None) -> str:
        """Return a comment behind its keyword; nothing where there is none."""
        if comment is None:
            return ""
        return before + self.sql_compiler.render_literal_value(comment, sa.String())


class _TypeCompiler(SnowflakeTypeCompiler):
    def visit_datetime(self, type_: Any, **kw: Any) -> str:
        """Return the type of UTC with microseconds; the usual one has nanoseconds."""
        return "TIMESTAMP_NTZ(6)"


class Dialect(SnowflakeDialect):
    """Snowflake; values go beside the statement and not within it, and sequences count up."""

    supports_statement_cache = False
    statement_compiler = _Compiler
    ddl_compiler = _DDLCompiler
    type_compiler = _TypeCompiler
    sequences_optional = False
    inline_comments = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"paramstyle": "qmark", **options})

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        """Return whether a session is of no use any more, also where the driver gave it up."""
        return e.errno in _GIVEN_UP or super().is_disconnect(e, connection, cursor)

    @classmethod
    def import_dbapi(cls) -> Any:
        """Return the driver; SQLAlchemy asks each class for it."""
        return super().import_dbapi()
