"""`INSERT … SELECT` that meets rows whose key is there: what the engines share of it."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from etl.warehouse.engines.base import Engine


def overwritten(table: sa.Table, columns: Sequence[str]) -> list[str]:
    """Return which columns of a row that is there are changed: not the key, nor `first_seen_at`."""
    kept = {column.name for column in table.primary_key} | {"first_seen_at"}
    return [name for name in columns if name not in kept]


class OnConflictEngine(Engine):
    """An engine that speaks `INSERT … ON CONFLICT`."""

    @staticmethod
    @abstractmethod
    def insert(table: Any) -> Any:
        """Return the `INSERT` of its dialect."""

    def insert_missing(
        self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> sa.Executable:
        statement: sa.Executable = self._insert(table, columns, rows).on_conflict_do_nothing()
        return statement

    def insert_or_update(
        self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> sa.Executable:
        statement = self._insert(table, columns, rows)
        values = {name: statement.excluded[name] for name in overwritten(table, columns)}
        merged: sa.Executable = statement.on_conflict_do_update(
            index_elements=list(table.primary_key), set_=values
        )
        return merged

    def _insert(self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]) -> Any:
        # WHERE TRUE: without a WHERE, SQLite's parser takes ON CONFLICT for a join's ON.
        return self.insert(table).from_select(list(columns), rows.where(sa.true()))
