"""Column types that keep one meaning; each engine has its own way to hold them.

An engine is asked only when a statement is made for it: a run loads the dialect of its own
warehouse, and of no other.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator, TypeEngine

from etl.warehouse.engines import engine_named
from etl.warehouse.engines.base import ColumnKind


class _Portable(TypeDecorator[Any]):
    """A type that the engine chooses, or SQLAlchemy's usual one of `impl`."""

    kind: ClassVar[ColumnKind]
    impl: type[TypeEngine[Any]] = sa.Text
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__(*([] if length is None else [length]))
        self.length = length

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        engine = engine_named(dialect.name)
        chosen = engine.column_type(self.kind, self.length, dialect) if engine else None
        return self.impl_instance if chosen is None else chosen


class UtcDateTime(_Portable):
    """A point in time: aware UTC in Python, with a zone in the database where the engine keeps one.

    Text such as `2023-05-04 09:42:00.000000` where the engine has no type for it.
    """

    kind: ClassVar[ColumnKind] = ColumnKind.MOMENT
    impl: type[TypeEngine[Any]] = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        engine = engine_named(dialect.name)
        return value if engine and engine.keeps_zones else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _Code(_Portable):
    kind: ClassVar[ColumnKind] = ColumnKind.CODE
    impl: type[TypeEngine[Any]] = sa.String
    cache_ok = True


class _Name(_Portable):
    kind: ClassVar[ColumnKind] = ColumnKind.NAME
    impl: type[TypeEngine[Any]] = sa.String
    cache_ok = True


class _Text(_Portable):
    kind: ClassVar[ColumnKind] = ColumnKind.TEXT
    cache_ok = True


class _Json(_Portable):
    kind: ClassVar[ColumnKind] = ColumnKind.JSON
    cache_ok = True


class _Identifier(_Portable):
    kind: ClassVar[ColumnKind] = ColumnKind.IDENTIFIER
    impl: type[TypeEngine[Any]] = sa.BigInteger
    cache_ok = True


def code(length: int) -> TypeEngine[str]:
    """Return the type of SIDs, hashes and states: ASCII, compared byte by byte."""
    return _Code(length)


def name(length: int) -> TypeEngine[str]:
    """Return the type of a short text of any script, compared byte by byte."""
    return _Name(length)


def text() -> TypeEngine[str]:
    """Return the type of texts of any length, compared byte by byte."""
    return _Text()


def json_text() -> TypeEngine[str]:
    """Return the type of JSON that is written and read as text, even where it is parsed."""
    return _Json()


def identifier() -> TypeEngine[int]:
    """Return the type of a number that the engine counts up."""
    return _Identifier()
