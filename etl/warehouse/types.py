"""Column types that keep one meaning and suit each engine."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine

_WITH_ZONE = ("postgresql", "duckdb")


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: aware UTC in Python; `timestamptz` on PostgreSQL and DuckDB, else without a zone.

    On SQLite it is text such as `2023-05-04 09:42:00.000000`.
    """

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        if dialect.name in _WITH_ZONE:
            return dialect.type_descriptor(sa.DateTime(timezone=True))
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(sa.DateTime())

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value if dialect.name in _WITH_ZONE else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def code(length: int) -> TypeEngine[str]:
    """A short identifier of ASCII: SIDs, hashes, states. Compared byte by byte on every engine.

    PostgreSQL would otherwise compare SIDs by the rules of a language, which makes each look into an index slower.
    """
    return (
        sa.String(length)
        .with_variant(sa.String(length, collation="C"), "postgresql")
        .with_variant(
            mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
        )
    )


def name(length: int) -> TypeEngine[str]:
    """A short text of any script, compared byte by byte."""
    return sa.String(length).with_variant(_MysqlText(length), "mysql", "mariadb")


def text() -> TypeEngine[str]:
    """Text of any length, compared byte by byte."""
    return sa.Text().with_variant(_MysqlText(), "mysql", "mariadb")


def json_text() -> TypeEngine[str]:
    """JSON that is written and read as text: `jsonb` on PostgreSQL, text elsewhere."""
    return text().with_variant(_JsonbAsText(), "postgresql")


class _MysqlText(TypeDecorator[str]):
    """Text whose trailing blanks count; the usual collations pad with blanks. MariaDB and MySQL name the one that does not differently."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        collation = (
            "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
        )
        charset = {"charset": "utf8mb4", "collation": collation}
        return dialect.type_descriptor(
            mysql.VARCHAR(self.length, **charset) if self.length else mysql.LONGTEXT(**charset)
        )


class _JsonbAsText(TypeDecorator[str]):
    """`jsonb` that takes JSON text as it is, without parsing it in Python."""

    impl = postgresql.JSONB
    cache_ok = True

    def bind_expression(self, bindvalue: sa.BindParameter[str]) -> sa.ColumnElement[Any]:
        return sa.cast(sa.type_coerce(bindvalue, sa.Text), postgresql.JSONB)

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        return sa.Text()


def identifier() -> TypeEngine[int]:
    """A number that the engine counts up; SQLite does so for INTEGER only."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")
