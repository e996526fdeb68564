"""The text of the metrics file, and how the file comes to stand there."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from etl.telemetry import metrics

IS = "IS" + "1" * 32
RUN: dict[str, Any] = {
    "started_at": "2026-11-23T09:42:00.000Z",
    "finished_at": "2026-11-23T09:42:01.500Z",
    "totals": {"requests": 12, "retries": 2},
    "services": [],
}
ROWS = {
    "inserted": 1,
    "updated": 2,
    "unchanged": 3,
    "deleted": 4,
    "restored": 5,
    "rejected": 6,
}


def entry(status: str, sid: str | None = IS) -> dict[str, Any]:
    return {"account": "main", "chat_service_sid": sid, "status": status, **ROWS}


def line(**values: Any) -> dict[str, Any]:
    known = {"last_complete_at": None, "active": 7, "rejected_open": 1}
    return {"account": "main", "chat_service_sid": IS, **known, **values}


def lines_of(run: dict[str, Any], *freshness: dict[str, Any], code: int = 0) -> list[str]:
    text = metrics.render(metrics.figures(RUN | run, code, freshness))
    assert text.endswith("\n")
    return [one for one in text.splitlines() if not one.startswith("#")]


def test_a_run_without_services_still_has_its_own_figures() -> None:
    """A run that failed before it began must be seen as such, not as no run."""
    at = datetime(2026, 11, 23, 9, 42, 1, 500_000, tzinfo=UTC).timestamp()
    assert lines_of({}, code=7) == [
        f"bindings_etl_run_timestamp_seconds {at!r}",
        "bindings_etl_run_duration_seconds 1.5",
        "bindings_etl_run_exit_code 7",
        "bindings_etl_run_requests 12",
        "bindings_etl_run_retries 2",
    ]


def test_a_service_that_was_never_read_completely_is_infinitely_old() -> None:
    """With no value an alert on the age would stay silent for exactly the service that never worked."""
    name = "bindings_etl_service_last_complete_timestamp_seconds"
    assert f'{name}{{account="main",chat_service_sid="{IS}"}} 0' in lines_of({}, line())


def test_a_service_that_the_run_did_not_reach_is_down() -> None:
    """When an account cannot be read, its services are not even in the run's list."""
    run = {"services": [entry("failed", None)]}
    up = f'bindings_etl_service_up{{account="main",chat_service_sid="{IS}"}}'
    assert f"{up} 0" in lines_of(run, line())
    assert not [one for one in lines_of(run, line()) if "service_rows" in one]


@pytest.mark.parametrize(
    ("statuses", "is_up"),
    [
        (["published"], 1),
        (["refused"], 0),
        (["failed"], 0),
        (["locked"], 0),
        (["published", "skipped", "published"], 1),
        (["published", "failed"], 0),
    ],
)
def test_a_service_read_in_parts_is_up_when_all_of_them_are(
    statuses: list[str], is_up: int
) -> None:
    """A collector takes no figure twice, and one part that failed is a service that is not whole."""
    found = lines_of({"services": [entry(status) for status in statuses]})
    assert [one[-1] for one in found if "service_up" in one] == [str(is_up)]
    rows = {one.partition('change="')[2].split('"')[0]: one for one in found if "_rows" in one}
    assert {change: int(rows[change].split()[-1]) for change in ROWS} == {
        change: number * len(statuses) for change, number in ROWS.items()
    }


def test_labels_are_escaped() -> None:
    """One odd label would make the collector refuse the whole file."""
    odd = line(account='a"b\\c\nd')
    assert any('account="a\\"b\\\\c\\nd"' in one for one in lines_of({}, odd))


def test_a_file_is_replaced_whole_and_readable_by_the_collector(tmp_path: Path) -> None:
    """node_exporter runs as another user, and must never meet half a file or a temporary one."""
    real = tmp_path / "real.prom"
    link = tmp_path / "link.prom"
    link.symlink_to(real)
    before = os.umask(0o022)
    try:
        for text in ("first, and longer\n", "second\n"):
            metrics.write(link, text)
    finally:
        os.umask(before)
    assert real.read_text() == "second\n"
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.prom", "real.prom"]


@pytest.mark.parametrize("place", ["missing/run.prom", "folder", "file/run.prom", "x" * 300])
def test_a_place_that_takes_no_file_is_an_error_and_leaves_nothing(
    tmp_path: Path, place: str
) -> None:
    """A failed write must leave the old file, and no temporary ones that fill the disk run by run."""
    (tmp_path / "folder" / "kept").mkdir(parents=True)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError):
        metrics.write(tmp_path / place, "text\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
