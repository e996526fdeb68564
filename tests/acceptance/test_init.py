"""`init`: from nothing to a first run."""

import re
from pathlib import Path

import pytest
import yaml

from etl.cli.app import run
from etl.config import load
from etl.warehouse.engines import read_url
from tests.acceptance.scenario import Scenario
from tests.acceptance.test_output import shell

ROOT = Path(__file__).parents[2]
KEY = {"TWILIO_API_KEY": "SK" + "0" * 32, "TWILIO_API_SECRET": "s"}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("BINDINGS_ETL_CONFIG", raising=False)


def test_what_it_writes_is_the_example_and_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    """A newcomer's first file must not be faulty, nor say less than the documents."""
    assert run(["init"]) == 0
    told = capsys.readouterr().out
    assert told.index("migrate") < told.index("check") < told.index("sync")
    assert "TWILIO_API_KEY" in told
    text = Path("config.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Written by `bindings-etl init`")
    example = (ROOT / "config.example.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == yaml.safe_load(example)
    assert text.count("#") > 30
    assert (
        load(Path("config.yaml"), read_url, KEY).warehouse.url.get_secret_value()
        == "sqlite:///bindings.db"
    )


def test_a_file_that_is_there_stays(capsys: pytest.CaptureFixture[str]) -> None:
    """A second `init` must not cost somebody his settings."""
    Path("config.yaml").write_text("mine")
    assert run(["init"]) == 2
    assert "is there already and stays as it is" in capsys.readouterr().err
    assert Path("config.yaml").read_text() == "mine"
    assert run(["init", "--config", "other.yaml"]) == 0
    assert "--config other.yaml migrate" in capsys.readouterr().out
    assert run(["init", "--config", "no/such/folder.yaml"]) == 2


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://etl:${DB_PASSWORD}@db/analytics",
        "duckdb:///a b.duckdb",
        'sqlite:///"quoted\\.db',
    ],
)
def test_the_warehouse_can_be_named(url: str) -> None:
    """Whatever the URL holds, it comes back out of the file as it was."""
    assert run(["init", "--warehouse", url]) == 0
    settings = load(Path("config.yaml"), read_url, {**KEY, "DB_PASSWORD": "p"})
    assert settings.warehouse.url.get_secret_value() == url.replace("${DB_PASSWORD}", "p")


def test_a_warehouse_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A slip is cheaper here than in the file."""
    assert run(["init", "--warehouse", "oracle://x"]) == 2
    assert not Path("config.yaml").exists()
    run(["init", "--warehouse", "postgresql://etl:hunter2@db/analytics"])
    assert "holds the password in clear" in capsys.readouterr().err


def test_without_a_configuration_init_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The first thing that a newcomer sees has to say how to go on."""
    assert run(["sync"]) == 2
    assert "bindings-etl init" in capsys.readouterr().err


def test_migrate_erase_and_purge_give_objects(scenario: Scenario) -> None:
    """Whoever runs them from a program must not take figures out of a table for people."""
    told = scenario.run("migrate", "--json").json
    assert told["from"] == told["revision"]
    assert scenario.run("migrate", "--check", "--json").json == told
    scenario.run("migrate", "--json", "--sql", expect=2)
    told = scenario.run("erase", "--identity", "x", "--dry-run", "--json").json
    assert told["dry_run"] is True
    assert told["removed"]["bindings"] == 0
    told = scenario.run("purge", "--deleted-before", "30d", "--json").json
    assert told["dry_run"] is False


def test_the_queries_of_the_readme_run_on_sqlite(scenario: Scenario) -> None:
    """The first query that a newcomer copies must not be a syntax error."""
    scenario.sync()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    queries = re.findall(r"```sql\n(.*?)```", readme, re.DOTALL)
    assert queries
    for query in "".join(queries).strip().rstrip(";").split(";\n"):
        assert scenario.query(query) or "deleted_at" in query


def test_the_shell_completes(scenario: Scenario) -> None:
    """What the documents say about completion has to work."""
    line = "_BINDINGS_ETL_COMPLETE=bash_complete COMP_WORDS='bindings-etl st' COMP_CWORD=1 $ETL"
    assert shell(scenario, line).stdout.split() == ["plain,status"]
