"""The column types of 0.2.0. Frozen once that is released."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from etl_frozen.columns_0_1 import code, identifier, json_text, name, text

__all__ = ["code", "identifier", "json_text", "moment", "name", "text"]


def moment() -> TypeEngine[Any]:
    """A point in time: with a zone on PostgreSQL, DuckDB and DuckLake, UTC without one elsewhere."""
    return (
        sa.DateTime()
        .with_variant(sa.DateTime(timezone=True), "postgresql", "duckdb", "ducklake")
        .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    )
