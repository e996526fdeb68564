"""What only SQLite has: a journal beside the file, and readers that may stand in a writer's way."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from etl import errors
from tests.acceptance.scenario import Scenario
from tests.engines.test_connecting import OpenOn, complaint


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.sqlite"


@pytest.fixture
def reader(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file)) as connection:
        yield connection


def journal(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_a_reader_with_an_open_cursor_keeps_nobody_waiting(
    scenario_on: Callable[..., Scenario], sqlite_url: str, file: Path, reader: sqlite3.Connection
) -> None:
    """A notebook left open over night kept a sync waiting for minutes, and failed it."""
    scenario = scenario_on(sqlite_url, (20,))
    scenario.sync()
    counting = reader.execute("SELECT sid, COUNT(*) OVER () FROM bindings")
    assert counting.fetchone()[1] == 20
    scenario.services[0].grow(5)
    assert scenario.sync().totals["inserted"] == 5
    assert len(counting.fetchall()) == 19
    assert reader.execute("SELECT COUNT(*) FROM bindings").fetchone() == (25,)
    reader.close()
    scenario.run("status")
    assert [path.name for path in file.parent.glob("warehouse.sqlite*")] == [file.name]


def test_the_journal_can_be_chosen(
    scenario_on: Callable[..., Scenario], file: Path, open_on: OpenOn
) -> None:
    """On a network file system the journal in shared memory damages what two hosts write."""
    url = f"sqlite:///{file}"
    scenario = scenario_on(url, (5,))
    assert journal(file) == "delete"
    scenario.sync("--dry-run")
    assert journal(file) == "delete"  # a dry run writes nothing
    scenario.sync()
    assert journal(file) == "wal"
    scenario.settings["warehouse"]["url"] = f"{url}?journal_mode=delete"
    scenario.sync()
    assert journal(file) == "delete"
    said = complaint(open_on, f"{url}?journal_mode=off", errors.ConfigurationError)
    assert "journal_mode is one of wal, delete" in said


def test_a_reader_that_is_there_first_costs_nothing(
    scenario_on: Callable[..., Scenario], sqlite_url: str, file: Path, reader: sqlite3.Connection
) -> None:
    """The journal cannot be changed while others use the file: it is left, and tried again later."""
    scenario = scenario_on(f"{sqlite_url}?journal_mode=delete", (5,))
    scenario.sync()
    reading = reader.execute("SELECT * FROM bindings")
    reading.fetchone()
    scenario.settings["warehouse"]["url"] = sqlite_url
    patient = scenario.settings["retry"]
    scenario.settings["retry"] = {"timeout_seconds": 1, "attempts": 1}
    scenario.sync(expect=None)
    assert journal(file) == "delete"
    reading.close()
    scenario.settings["retry"] = patient
    scenario.sync()
    assert journal(file) == "wal"


def test_a_file_system_without_shared_memory_is_taken(
    scenario_on: Callable[..., Scenario], file: Path
) -> None:
    """What cannot be had must not be asked for at the price of the run."""
    scenario = scenario_on(f"sqlite:///file:{file}?vfs=unix-dotfile&uri=true", (5,))
    assert scenario.sync().totals["inserted"] == 5
    assert journal(file) == "delete"
