"""`export`: what its files hold, loaded elsewhere, is what the warehouse holds."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.scenario import CONTENT, Scenario, plain
from tests.engines.fail_at import before

duckdb = pytest.importorskip("duckdb", reason="duckdb not installed: run `make test`")
ipc = pytest.importorskip("pyarrow.ipc", reason="pyarrow not installed: run `make test`")

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
COLUMNS = (*CONTENT, "content_hash", "first_seen_at", "changed_at", "deleted_at", "run_id")
TIMES = ("date_created", "date_updated", "first_seen_at", "changed_at", "deleted_at")
KINDS = {
    **dict.fromkeys(COLUMNS, "VARCHAR"),
    **dict.fromkeys(TIMES, "TIMESTAMPTZ"),
    "message_types": "VARCHAR[]",
    "run_id": "BIGINT",
}
FROM_JSON = (
    "(SELECT * REPLACE (extra::VARCHAR AS extra) FROM read_json('FOLDER/bindings-*.jsonl', "
    f"format = 'newline_delimited', columns = {KINDS}))"
)
Rows = dict[str, dict[str, Any]]


def statements(warehouse: str) -> list[str]:
    """What docs/export.md says of loading into another warehouse."""
    _, section = PAGE.split(f"\n### {warehouse}\n")
    [block] = re.findall(r"```sql\n(.*?)\n```", section.split("\n### ")[0], re.DOTALL)
    return re.findall(r"^[A-Z].*?(?=;$|; )", block, re.DOTALL | re.MULTILINE)


class DuckDB:
    """Another warehouse, which loads exports by one MERGE."""

    def __init__(self) -> None:
        self.conn = duckdb.connect()
        self.conn.execute("SET TimeZone = 'UTC'")
        columns = ", ".join(f"{name} {KINDS[name]}" for name in COLUMNS)
        self.conn.execute(f"CREATE TABLE bindings ({columns})")

    def load(self, folder: Path) -> None:
        """The statement of the page; of JSON lines the columns have to be said."""
        [merge] = statements("DuckDB")
        merge = merge.replace("exports/2026-11-26", "FOLDER")
        if json.loads((folder / "manifest.json").read_text())["format"] == "jsonl":
            merge = re.sub(r"read_parquet\(.*?\)", lambda _: FROM_JSON, merge)
        self.conn.execute(merge.replace("FOLDER", str(folder)))

    def rows(self, where: str = "true") -> Rows:
        found = self.conn.execute(f"SELECT {', '.join(COLUMNS)} FROM bindings WHERE {where}")
        return by_sid(dict(zip(COLUMNS, row, strict=True)) for row in found.fetchall())

    @staticmethod
    def kept(rows: Rows) -> Rows:
        """What it has of rows: all."""
        return rows


class ClickHouse:
    """Another warehouse, which has no MERGE and keeps the newest row of each SID."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.create, self.insert, self.count = statements("ClickHouse")
        session.query(self.create)

    def load(self, folder: Path) -> None:
        """The statement of the page, with a folder in place of the bucket."""
        place = re.compile(r"s3\('https://[^']*/2026-11-26/")
        assert place.search(self.insert)
        self.session.query(place.sub(f"file('{folder}/", self.insert))

    def rows(self, where: str = "true") -> Rows:
        query = f"SELECT {', '.join(COLUMNS)} FROM bindings FINAL WHERE {where}"
        found = ipc.open_stream(self.session.query(query, "ArrowStream").bytes())
        rows = by_sid(found.read_all().to_pylist())
        assert int(self.session.query(self.count, "TSV").data()) == len(rows)
        return rows

    @staticmethod
    def kept(rows: Rows) -> Rows:
        """What it has of rows: no deleted ones, and no NULL in place of an array."""
        return {
            sid: row | {"message_types": row["message_types"] or []}
            for sid, row in rows.items()
            if row["deleted_at"] is None
        }


@pytest.fixture
def clickhouse() -> Iterator[ClickHouse]:
    session = pytest.importorskip("chdb.session", reason="chdb not installed: run `make test`")
    with closing(session.Session()) as one:
        yield ClickHouse(one)


def by_sid(rows: Iterable[dict[str, Any]]) -> Rows:
    """Rows by SID, each value in its plain form."""
    return {row["sid"]: {name: form(name, row[name]) for name in COLUMNS} for row in rows}


def form(name: str, value: Any) -> Any:
    """A value in its plain form; times of SQLite are text already."""
    if name in TIMES and isinstance(value, str):
        return value
    return plain(name, value)


def held(scenario: Scenario) -> Rows:
    return by_sid(scenario.query(f"SELECT {', '.join(COLUMNS)} FROM bindings"))


class Exports:
    """Exports of one scenario, one after the other."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.folder = folder
        self.numbers = count(1)
        self.until: str | None = None

    def make(self, *arguments: str) -> tuple[Path, dict[str, Any]]:
        """The folder and its manifest."""
        out = self.folder / f"export-{next(self.numbers)}"
        manifest = self.scenario.run("export", "--out", str(out), "--json", *arguments).json
        assert json.loads((out / "manifest.json").read_text()) == manifest
        return out, manifest

    def go_on(self, *arguments: str) -> tuple[Path, dict[str, Any]]:
        """What changed since the last one."""
        since = () if self.until is None else ("--since", self.until)
        out, manifest = self.make(*since, *arguments)
        self.until = manifest["until"]
        return out, manifest


@pytest.fixture
def scenario(warehouse_url: str, scenario_on: Callable[..., Scenario]) -> Scenario:
    return scenario_on(warehouse_url, (40, 12))


@pytest.fixture
def exports(scenario: Scenario, tmp_path: Path) -> Exports:
    return Exports(scenario, tmp_path)


def stir(scenario: Scenario) -> None:
    """Changes of each kind, and values that a careless writer bends."""
    first, second = scenario.services
    first.delete(3)
    first.touch(4)
    odd, bare = second.sids()[:2]
    second.grow(2)
    second.change(odd, identity='Zoë "O\'Hara"\n日本\\N', message_types=[], hat={"a": [1, None]})
    second.change(bare, message_types=None, credential_sid=None, date_created=None)


@pytest.fixture
def overlaps(engine_name: str) -> bool:
    """Whether ids may have gaps, so that an export holds more than what changed since the one before."""
    return engine_name == "galera"


def delivered(changed: int, everything: int, *, overlaps: bool) -> range:
    """How many rows an export may hold."""
    return range(changed, (everything if overlaps else changed) + 1)


@pytest.fixture(params=["parquet", "jsonl"])
def format_(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def others(format_: str, request: pytest.FixtureRequest) -> list[Any]:
    """The warehouses that load exports of this format."""
    return [DuckDB(), *([request.getfixturevalue("clickhouse")] if format_ == "parquet" else [])]


def test_exports_loaded_twice_equal_the_table(
    exports: Exports, scenario: Scenario, format_: str, others: list[Any], overlaps: bool
) -> None:
    """A row that is missing, doubled or bent elsewhere is a figure that nobody can explain."""
    scenario.sync()
    first, manifest = exports.go_on("--format", format_)
    assert manifest["rows"] == 52
    for other in others:
        other.load(first)
    stir(scenario)
    scenario.sync()
    second, manifest = exports.go_on("--format", format_)
    assert manifest["rows"] in delivered(4 + 3 + 2 + 2, 52 + 2, overlaps=overlaps)
    for other in others:
        for folder in (second, second, first):  # an old one once more, too
            other.load(folder)
        assert other.rows() == other.kept(held(scenario))
    _, manifest = exports.go_on("--format", format_)
    assert manifest["rows"] in delivered(0, 52 + 2, overlaps=overlaps)


def test_hard_deleted_rows_are_exported_as_deleted(
    exports: Exports, scenario: Scenario, overlaps: bool
) -> None:
    """`bindings` no longer has them; another warehouse would show them as alive for ever."""
    scenario.settings["deletes"] = {"mode": "hard"}
    scenario.sync()
    elsewhere = DuckDB()
    elsewhere.load(exports.go_on()[0])
    gone = set(scenario.services[0].delete(3))
    scenario.sync()
    (back,) = scenario.services[0].bring_back(1)
    scenario.sync()
    scenario.services[0].remove([back])
    scenario.sync()
    folder, manifest = exports.go_on()
    assert manifest["rows"] in delivered(3, 52, overlaps=overlaps)
    elsewhere.load(folder)
    assert set(elsewhere.rows("deleted_at IS NOT NULL")) == gone
    assert elsewhere.rows("deleted_at IS NULL") == held(scenario)
    scenario.services[0].bring_back(3)
    scenario.sync()
    elsewhere.load(exports.go_on()[0])
    assert elsewhere.rows() == held(scenario)


def test_since_a_run_and_since_a_time(exports: Exports, scenario: Scenario) -> None:
    """What is asked for is what comes: the changes of that run, or since that moment."""
    first = scenario.sync().json["run_id"]
    between = datetime.now(UTC)
    scenario.services[0].touch(5)
    second = scenario.sync().json["run_id"]
    rows = {
        since: exports.make("--since", since)[1]["rows"]
        for since in (str(first), str(second), between.isoformat(), "2001-01-01")
    }
    assert list(rows.values()) == [52, 5, 5, 52]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for since, told in (
        ("99", f"the newest run is {second}"),
        (tomorrow, "later than"),
        ("x", "neither"),
    ):
        refused = scenario.run(
            "export", "--out", str(exports.folder / "no"), "--since", since, expect=2
        )
        assert told in refused.err
        assert not (exports.folder / "no").exists()


def test_what_a_run_publishes_after_an_export_is_in_the_next(
    exports: Exports, scenario: Scenario
) -> None:
    """A run that began before an export and commits after it has the smaller id and may have the earlier stamps."""
    if scenario.warehouse_url.startswith(("duckdb", "ducklake+duckdb")):
        pytest.skip("the file lets one process in at a time, and it has one connection")
    scenario.sync()
    elsewhere = DuckDB()
    elsewhere.load(exports.go_on()[0])
    stir(scenario)
    # In the publishing transaction, after its stamps are taken and before it commits.
    script = ("export", "--out", str(exports.folder / "amid"), "--json")
    amid: list[dict[str, Any]] = []

    def export_amid(_: Any) -> None:
        process = scenario.start(*script, "--since", str(exports.until))
        amid.append(scenario.wait_for(process).json)

    with before("INSERT INTO binding_versions", export_amid):
        scenario.sync()
    assert len(amid) == 1
    elsewhere.load(exports.folder / "amid")
    exports.until = amid[0]["until"]
    elsewhere.load(exports.go_on()[0])
    assert elsewhere.rows() == held(scenario)


def test_a_run_that_was_killed_or_is_not_seen_yet_holds_the_next_export_back(
    exports: Exports, scenario: Scenario, overlaps: bool
) -> None:
    """Ids are given before they are committed, and who is taken for dead may only be frozen."""
    if overlaps:
        pytest.skip("the gaps of its ids hold every export back")
    run_id = scenario.sync().json["run_id"]
    scenario.sync()
    assert exports.make()[1]["until"] == str(run_id + 2)
    cases = (
        (
            "status = 'running', finished_at = NULL",
            "status = 'succeeded', finished_at = started_at",
        ),
        ("error = 'the process ended without a word'", "error = NULL"),
    )
    for dead, alive in cases:
        scenario.execute(f"UPDATE sync_runs SET {dead} WHERE id = {run_id}")
        assert exports.make()[1]["until"] == str(run_id)
        scenario.execute(f"UPDATE sync_runs SET {alive} WHERE id = {run_id}")
    assert exports.make()[1]["until"] == str(run_id + 2)
    scenario.execute(f"DELETE FROM sync_runs WHERE id = {run_id}")
    assert exports.make()[1]["until"] == str(run_id)


def test_the_manifest_measures_its_files(exports: Exports, scenario: Scenario) -> None:
    """Who copies the files to a bucket checks them by the manifest."""
    scenario.sync()
    folder, manifest = exports.make()
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", *(file["name"] for file in manifest["files"])
    }  # fmt: skip
    for file in manifest["files"]:
        data = (folder / file["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])
    assert sum(file["rows"] for file in manifest["files"]) == manifest["rows"] == 52
