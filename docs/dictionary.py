"""Writes the data dictionary in docs/warehouse.md from the comments of tables: `make docs`."""

import sys
from pathlib import Path

import sqlalchemy as sa

from etl.warehouse.tables import metadata
from etl.warehouse.views import COMMENTS

PAGE = Path(__file__).with_name("warehouse.md")
DIALECTS = [sa.make_url(f"{name}://").get_dialect()() for name in ("postgresql", "mysql", "sqlite")]
BEGIN, END = "<!-- dictionary: begin (make docs) -->", "<!-- dictionary: end -->"


def render() -> str:
    """The whole dictionary as Markdown."""
    tables = [_table(table) for table in metadata.tables.values()]
    views = [_view(name, meaning, columns) for name, (meaning, columns) in COMMENTS.items()]
    return "\n\n".join(["### Tables", *tables, "### Views", *views])


def put_into(page: str) -> str:
    """The page with today's dictionary between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{render()}\n\n{END}{after}"


def _table(table: sa.Table) -> str:
    lines = [
        f"#### `{table.name}`",
        "",
        str(table.comment),
        "",
        "| column | PostgreSQL | MariaDB | SQLite | null | meaning |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *(_column(column) for column in table.columns)])


def _column(column: sa.Column[object]) -> str:
    kinds = [_kind(column, dialect) for dialect in DIALECTS]
    cells = (f"`{column.name}`", *kinds, "yes" if column.nullable else "no", column.comment)
    return f"| {' | '.join(map(str, cells))} |"


def _kind(column: sa.Column[object], dialect: sa.Dialect) -> str:
    kind = column.type.compile(dialect=dialect).split(" CHARACTER SET")[0].split(" COLLATE")[0]
    return {
        "TIMESTAMP WITH TIME ZONE": "timestamptz",
        "DATETIME": "text (UTC)" if dialect.name == "sqlite" else kind,
    }.get(kind, kind.lower())


def _view(name: str, meaning: str, columns: dict[str, str]) -> str:
    rows = [f"| `{column}` | {comment} |" for column, comment in columns.items()]
    table = ["", "| column | meaning |", "| --- | --- |", *rows] if rows else []
    return "\n".join([f"#### `{name}`", "", meaning, *table])


if __name__ == "__main__":
    PAGE.write_text(put_into(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name} is up to date\n")
