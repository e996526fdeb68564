"""The column types of 0.1.0. Frozen: `20261123_01` and its like must make the same for ever."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine


class _MysqlText(TypeDecorator[str]):
    """Text whose trailing blanks count: MariaDB and MySQL name that collation differently."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        is_mariadb = getattr(dialect, "is_mariadb", False)
        collation = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
        charset = {"charset": "utf8mb4", "collation": collation}
        return dialect.type_descriptor(
            mysql.VARCHAR(self.length, **charset) if self.length else mysql.LONGTEXT(**charset)
        )


def moment() -> TypeEngine[Any]:
    """A point in time: with a zone on PostgreSQL and DuckLake, UTC without one elsewhere."""
    return (
        sa.DateTime()
        .with_variant(sa.DateTime(timezone=True), "postgresql", "ducklake")
        .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    )


def code(length: int) -> TypeEngine[str]:
    """A short identifier of ASCII, compared byte by byte."""
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
    """JSON: `jsonb` on PostgreSQL, text elsewhere."""
    return text().with_variant(postgresql.JSONB(), "postgresql")


def identifier() -> TypeEngine[int]:
    """A number that the engine counts up; SQLite does so for INTEGER only."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")
