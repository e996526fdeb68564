"""docs/analysts.md and docs/dbt in an environment of their own, with the tools that analysts have."""

import json
import os
import re
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.scenario import Scenario

DOCS = Path(__file__).parents[2] / "docs"
# dbt-core 1.12 wants a file from elsewhere when it is installed.
TOOLS = ("dbt-core>=1.11,<1.12", "dbt-duckdb", "pandas", "polars", "sqlalchemy")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs."""
    folder = tmp_path_factory.mktemp("tools")
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin/pip", "install", "-q", *TOOLS], check=True)
    return folder / "bin"


class Dbt:
    """The project of docs/dbt upon one DuckDB file."""

    def __init__(self, program: Path, folder: Path, warehouse: Path) -> None:
        shutil.copytree(DOCS / "dbt", folder)
        shutil.copy(folder / "profiles.example.yml", folder / "profiles.yml")
        self._program, self._folder = program, folder
        self._environment = {**os.environ, "BINDINGS_FILE": str(warehouse), "DO_NOT_TRACK": "1"}

    def run(self, *command: str, expect: int = 0) -> dict[str, str]:
        """Run a command; returns the status of each thing it did, by its name."""
        ended = subprocess.run(
            [self._program, "--no-use-colors", *command, "--profiles-dir", "."],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == expect, ended.stdout + ended.stderr
        name = "sources" if command[0] == "source" else "run_results"
        results: list[dict[str, Any]] = json.loads(
            (self._folder / "target" / f"{name}.json").read_text(encoding="utf-8")
        )["results"]
        return {one["unique_id"].split(".")[2]: one["status"] for one in results}


@pytest.fixture
def scenario(scenario_on: Callable[..., Scenario], duckdb_url: str) -> Scenario:
    scenario = scenario_on(duckdb_url, (40, 12))
    scenario.sync()
    return scenario


@pytest.fixture
def dbt(tools: Path, tmp_path: Path, duckdb_url: str) -> Dbt:
    return Dbt(tools / "dbt", tmp_path / "dbt", Path(duckdb_url.removeprefix("duckdb:///")))


def test_dbt_builds_what_the_project_says(scenario: Scenario, dbt: Dbt) -> None:
    """Who copies the project gets models that are right, and is warned of what is odd without being stopped."""
    statuses = dbt.run("build")
    assert set(statuses.values()) == {"success", "pass"}
    (counted,) = scenario.query(
        "SELECT (SELECT SUM(devices) FROM analytics.stg_reachable_users) AS devices, "
        "(SELECT SUM(active) FROM analytics.stg_daily_bindings) AS active, COUNT(*) AS there FROM active_bindings"
    )
    assert counted["devices"] == counted["active"] == counted["there"] == 52
    scenario.services[0].change(scenario.services[0].sids()[0], binding_type="webpush")
    scenario.sync()
    warned = {name for name, status in dbt.run("build").items() if status == "warn"}
    assert len(warned) == 1
    assert "binding_type" in warned.pop()


@pytest.mark.parametrize(
    ("moment", "status", "code"),
    [
        ("now()", "pass", 0),
        ("now() - INTERVAL 2 HOUR", "warn", 0),
        ("now() - INTERVAL 2 DAY", "error", 1),
    ],
)
def test_dbt_sees_the_oldest_service(
    scenario: Scenario, dbt: Dbt, moment: str, status: str, code: int
) -> None:
    """Of many services the freshest says nothing about the one that nobody has read for days."""
    scenario.execute(
        f"UPDATE services SET last_complete_at = {moment} "
        "WHERE chat_service_sid = (SELECT MIN(chat_service_sid) FROM services)"
    )
    assert set(dbt.run("source", "freshness", expect=code).values()) == {status}


def test_the_python_of_the_page_runs(
    scenario_on: Callable[..., Scenario], tools: Path, tmp_path: Path
) -> None:
    """A first example that fails is the last that is tried."""
    (tmp_path / "demo").mkdir()
    scenario_on(f"sqlite:///{tmp_path / 'demo' / 'bindings.db'}", (40, 12)).sync()
    page = (DOCS / "analysts.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shown = [block for block in blocks if "import pandas" in block or "import polars" in block]
    assert len(shown) == 2
    for block in shown:
        ended = subprocess.run(
            [tools / "python", "-c", block],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout
