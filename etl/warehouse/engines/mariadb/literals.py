"""Many rows as one piece of SQL: 1 µs a row, where PyMySQL writes each value and takes 10."""

from collections.abc import Sequence
from typing import Any

from pymysql import converters

# So much, and no more, does PyMySQL itself put into one INSERT of many rows.
_MOST_BYTES = 1_000_000


class Literals:
    """The lines of a VALUES clause; as a parameter of a statement they stand in it as they are."""

    __slots__ = ("sql",)

    def __init__(self, sql: str) -> None:
        self.sql = sql


CONVERSIONS = {**converters.conversions, Literals: lambda literals, _mapping: literals.sql}
"""How PyMySQL writes parameters and reads results, and `Literals`."""


def as_literals(first: Sequence[int], rows: Sequence[tuple[str | None, ...]]) -> Literals | None:
    """Return rows as the lines of a VALUES clause, each beginning with the numbers in `first`.

    None where a value needs escaping, or it is too much for one statement: then the driver has to
    write them.
    """
    columns = [_quoted(column) for column in zip(*rows, strict=True)]
    if None in columns:
        return None
    begin = "(" + ",".join(map(str, first))
    lines = map(",".join, zip([begin] * len(rows), *columns, strict=True))
    sql = "),".join(lines) + ")"
    return Literals(sql) if len(sql.encode()) <= _MOST_BYTES else None


def _quoted(column: Sequence[Any]) -> Sequence[str] | None:
    """Return values as literals of SQL; None where one of them needs escaping."""
    text = "".join(filter(None, column))
    if "'" in text or "\\" in text:
        return None
    return ["NULL" if value is None else f"'{value}'" for value in column]
