"""Migrations are frozen: what a release has made, every later one makes again."""

import ast
import hashlib
import re
from pathlib import Path

import pytest

from etl.warehouse import migration

ROOT = Path(__file__).parents[2]
MIGRATIONS = ROOT / "migrations"

# Hashes of the SQL that 0.1.0 prints (`migrate --sql`), from its first table to its last view.
RELEASED = {
    "sqlite": "83374d107cf12dce60c0368b7827a8ba31c1d45484c8ede410c58d356e255670",
    "postgresql": "77ed02bad39938471a5031d8db29559b77ad71b327c849ebef10048671414da5",
    "mariadb": "6458a99e97b2e67549b3cd6a9314ed2e231be3e1668478086f015c45533d90f3",
    "mysql": "7a677c0ea03d525de49a012b7f7c6eca336bff00bd01a2fc06da91b55f624b99",
    "duckdb": "630dd3fb44ebcbb2057f11615d2dace3febb6856cb0ca4378ac52d39ce879a8f",
}


def imported_modules(script: Path) -> set[str]:
    """The first names of all that `script` imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name.split(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("script", sorted(MIGRATIONS.rglob("*.py")), ids=lambda path: path.stem)
def test_migrations_import_nothing_that_lives(script: Path) -> None:
    """A migration that uses today's types would make other tables tomorrow than it made once."""
    assert imported_modules(script) <= {"alembic", "etl_frozen", "sqlalchemy", "typing"}


@pytest.mark.parametrize("dialect", RELEASED)
def test_the_released_migrations_make_what_they_made(dialect: str) -> None:
    """Warehouses made by 0.1.0 exist; its migrations, changed, would make others beside them."""
    sql = migration.print_sql(dialect, revision="20261123_02")
    statements = [one for one in sql.split(";\n") if "version_num" not in one]
    digest = hashlib.sha256("\n".join(" ".join(statements).split()).encode()).hexdigest()
    assert digest == RELEASED[dialect], "compare with `migrate --sql` of 0.1.0"


def test_duckdb_has_no_indexes_but_those_of_keys() -> None:
    """After a kill they miss rows, and the next change of one ends the process (DuckDB 1.5)."""
    there: set[str] = set()
    for verb, name in re.findall(r"(CREATE|DROP) INDEX (\w+)", migration.print_sql("duckdb")):
        there = there | {name} if verb == "CREATE" else there - {name}
    assert there == set()
