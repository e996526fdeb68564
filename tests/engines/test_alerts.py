"""docs/alerts.md: each alert fires when it has to, and only then."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
import yaml

from etl.telemetry import metrics
from etl.warehouse.connection import Warehouse
from tests.engines.filling import fill

PAGE = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
IS = "IS" + "1" * 32
NAMES = {
    "postgresql": "PostgreSQL",
    "duckdb": "DuckDB",
    "ducklake": "DuckLake",
    "snowflake": "Snowflake",
    "mysql": "MySQL",
    "sqlite": "SQLite",
}


class Alert(NamedTuple):
    """One section of the page."""

    title: str
    blocks: dict[str, str]


def alerts() -> Iterator[Alert]:
    for section in PAGE.split("\n### ")[1:]:
        blocks = re.findall(r"```(\w+)\n(.*?)\n```", section, re.DOTALL)
        yield Alert(section.splitlines()[0], dict(blocks))


ALERTS = list(alerts())
MEASURED = [alert for alert in ALERTS if "promql" in alert.blocks]
COMMANDS = [alert for alert in ALERTS if "sh" in alert.blocks]


def half_an_hour_ago(dialect: str) -> str:
    """The page's own words for this engine."""
    rows = re.findall(r"^\| ([^|]+) \| `([^`]+)` \|$", PAGE, re.MULTILINE)
    [found] = [
        expression
        for engines, expression in rows
        if NAMES[dialect.replace("mariadb", "mysql")] in engines
    ]
    return str(found)


def service(**values: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    usual = {"state": "active", "first_seen_at": now, "last_seen_at": now, "last_complete_at": now}
    return {"chat_service_sid": IS, "account": "main", **usual, "active": 100, **values}


def run(minutes: int, status: str, **values: Any) -> dict[str, Any]:
    began = datetime.now(UTC) - timedelta(minutes=minutes)
    ended = None if status == "running" else began + timedelta(seconds=5)
    usual = {"mode": "sync", "dry_run": False, "version": "1", "host": "h"}
    return {**usual, "status": status, "started_at": began, "finished_at": ended, **values}


def scan(minutes: int, status: str, **values: Any) -> dict[str, Any]:
    began = datetime.now(UTC) - timedelta(minutes=minutes)
    usual = {"run_id": 1, "account": "main", "chat_service_sid": IS, "scope": "service"}
    times = {"started_at": began, "finished_at": began + timedelta(seconds=5)}
    return {**usual, "complete": True, "resumed": False, **times, "status": status, **values}


def drift(minutes: int) -> dict[str, Any]:
    seen = datetime.now(UTC) - timedelta(minutes=minutes)
    what = {"kind": "binding_type", "name": "webpush", "row_count": 3}
    return {"chat_service_sid": IS, "account": "main", **what, "first_seen_at": seen}


def make_well(warehouse: Warehouse) -> None:
    """Runs every five minutes; single troubles that mend themselves."""
    fill(
        warehouse,
        services=[service(), service(chat_service_sid="IS2", state="unconfigured", last_complete_at=None)],
        sync_runs=[
            run(15, "succeeded", requests=200, retries=1),
            run(10, "partial", error="HTTP 500", requests=10, retries=9),
            run(5, "locked"),
            run(1, "running"),
        ],
        sync_scans=[scan(15, "published", deleted=5, updated=40), scan(10, "failed", error="HTTP 500")],
        schema_drift=[drift(120)],
    )  # fmt: skip


def make_ill(warehouse: Warehouse) -> None:
    """All that the page knows of at once: what ended is old, what is new failed."""
    now = datetime.now(UTC)
    reject = {
        "fingerprint": "f", "run_id": 1, "account": "main", "chat_service_sid": IS, "reason": "bad",
        "payload": "{}", "first_seen_at": now, "last_seen_at": now,
    }  # fmt: skip
    fill(
        warehouse,
        services=[
            service(last_complete_at=now - timedelta(hours=1), deletes_held=30),
            service(chat_service_sid="IS2", last_complete_at=None),
        ],
        sync_runs=[
            run(90, "succeeded"),
            run(60, "running"),
            run(20, "failed", error="HTTP 500", requests=200, retries=20, finished_at=None),
        ],
        sync_scans=[
            scan(20, "failed", error="HTTP 500"),
            scan(19, "published", deleted=30, updated=150, chat_service_sid="IS2"),
        ],
        schema_drift=[drift(20)],
        rejected_bindings=[reject],
    )


def ask(warehouse: Warehouse, alert: Alert) -> list[Any]:
    sql = alert.blocks["sql"].replace(":then", half_an_hour_ago(warehouse.dialect))
    return warehouse.read(lambda conn: list(conn.execute(sa.text(sql)).all()))


def test_no_alert_fires_while_all_is_well(warehouse: Warehouse) -> None:
    """Who is woken for nothing switches the alert off."""
    make_well(warehouse)
    assert {alert.title: ask(warehouse, alert) for alert in ALERTS} == {
        alert.title: [] for alert in ALERTS
    }


def test_each_alert_fires(warehouse: Warehouse) -> None:
    """A query that an engine takes and that never finds anything is worse than none."""
    make_ill(warehouse)
    assert [alert.title for alert in ALERTS if not ask(warehouse, alert)] == []


@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
def test_where_nothing_ever_ran_that_is_told(warehouse: Warehouse) -> None:
    """A job that was never started looks, line by line, like one without trouble."""
    fired = [alert.title for alert in ALERTS if ask(warehouse, alert)]
    assert fired == ["No run ends any more"]


@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
@pytest.mark.parametrize("is_well", [pytest.param(True, marks=pytest.mark.slow), False])
def test_each_command_tells_by_its_exit_code(
    warehouse: Warehouse, warehouse_url: str, tmp_path: Path, *, is_well: bool
) -> None:
    """cron mails when a command fails, and a fault in it would mail for ever, or never."""
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    (make_well if is_well else make_ill)(warehouse)
    account = {"name": "main", "account_sid": "AC" + "0" * 32, "auth_token": "t"}
    settings = {"accounts": [account], "warehouse": {"url": warehouse_url}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    program = tmp_path / "bindings-etl"
    root = Path(__file__).parents[2]
    program.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -m etl "$@"\n')
    program.chmod(0o755)
    codes = {
        alert.title: subprocess.run(
            ["/bin/sh", "-c", alert.blocks["sh"]],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            cwd=tmp_path,
            capture_output=True,
            check=False,
        ).returncode
        for alert in COMMANDS
    }
    expected = {"The data of a service is old": 8}
    assert codes == {
        alert.title: 0 if is_well else expected.get(alert.title, 1) for alert in COMMANDS
    }


def test_each_alert_asks_for_figures_that_there_are() -> None:
    """An expression over a name that nobody exports is silent for ever."""
    totals = {"requests": 0, "retries": 0}
    moment = "2026-11-23T09:42:00.000Z"
    document = {"started_at": moment, "finished_at": moment, "totals": totals, "services": []}
    known = {metric.name for metric in metrics.figures(document, 0, [])}
    assert [one.title for one in ALERTS if one not in MEASURED] == [
        "Something is sent that is not known"
    ]
    for alert in MEASURED:
        names = set(re.findall(r"bindings_etl_\w+", alert.blocks["promql"]))
        assert names, alert.title
        assert names <= known, alert.title
        assert alert.blocks["promql"].count("(") == alert.blocks["promql"].count(")")
