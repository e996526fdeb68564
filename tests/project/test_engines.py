"""What differs between databases lies in `etl/warehouse/engines`; everything else knows none of them."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from etl.warehouse.engines import engine_named, names

ROOT = Path(__file__).parents[2]
WAREHOUSE = ROOT / "etl" / "warehouse"
KNOWN = re.compile(
    r"\b(postgres|postgresql|mariadb|mysql|duckdb|ducklake|snowflake|sqlite)\b", re.IGNORECASE
)

# What may name engines all the same: a file, what stands in the text, and why.
REASONED = (
    ("etl/config/settings.py", "in SQLAlchemy's URL form", "the schema tells people what to write"),
    ("etl/warehouse/tables.py", "", "an index is worth its cost on some; a comment tells a limit"),
)


def outside() -> Iterator[Path]:
    """The files that have to do without the names of engines."""
    yield from (ROOT / "etl" / "config").glob("*.py")
    yield from (
        file for file in WAREHOUSE.rglob("*.py") if (WAREHOUSE / "engines") not in file.parents
    )


def named(file: Path) -> list[str]:
    """The places in a file where an engine is named, without those that have a reason."""
    path = str(file.relative_to(ROOT))
    passed = [part for where, part, _ in REASONED if where == path]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [
        f"{path}:{line}: {word[:60]}"
        for line, word in words(tree)
        if KNOWN.search(word) and not any(part in word for part in passed)
    ]


def words(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names and texts of a program, without its docstrings and comments."""
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in documents:
                yield line, node.value
        elif isinstance(node, ast.Name):
            yield line, node.id
        elif isinstance(node, ast.Attribute):
            yield line, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield line, f"{node.module} {' '.join(one.name for one in node.names)}"
        elif isinstance(node, ast.Import):
            yield line, " ".join(one.name for one in node.names)


def test_only_engines_know_engines() -> None:
    """A file that asks which engine it has is one more to change for each engine that comes."""
    assert [place for file in outside() for place in named(file)] == []


def test_the_exceptions_are_needed() -> None:
    """An exception that nothing needs any more lets the next name of an engine in."""
    for path, part, _ in REASONED:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert any(KNOWN.search(word) and part in word for _, word in words(tree)), path


def test_every_engine_says_what_it_is() -> None:
    """An engine that is listed and not whole is found by the first run on it."""
    for name in names():
        engine = engine_named(name)
        assert engine is not None
        assert engine.url_form.format(engine=name)


def test_what_a_run_imports_holds_no_dialect_of_another_engine() -> None:
    """Each costs 50 ms of every start, and one option of one index in `tables.py` brings it in."""
    script = (
        "import sys, etl.sync.run; from etl.warehouse.engines import engine_named\n"
        "engine_named('sqlite')\n"
        "print(*{'sqlalchemy.dialects.mysql', 'sqlalchemy.dialects.postgresql'} & {*sys.modules})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == []
