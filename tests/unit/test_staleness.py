"""Which services are too old."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from etl.sync.staleness import stale_services

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
AGE = timedelta(minutes=30)
OLD, FRESH = NOW - timedelta(minutes=31), NOW - timedelta(minutes=30)


def line(sid: str, moment: datetime | None, **more: Any) -> dict[str, Any]:
    return {"account": "main", "chat_service_sid": sid, "last_complete_at": moment, **more}


def stale(
    *services: dict[str, Any],
    listed: dict[str, str] | None = None,
    runs: tuple[dict[str, Any], ...] = (),
) -> list[str | None]:
    found = stale_services(services, runs, listed or {}, NOW, AGE)
    return [one["chat_service_sid"] for one in found]


def test_older_than_asked_for_or_never() -> None:
    """What was never read is older than anything."""
    assert stale(line("IS1", OLD), line("IS2", FRESH), line("IS3", None)) == ["IS1", "IS3"]


def test_ages_are_told() -> None:
    """Whoever is called wants to know for how long."""
    [one] = stale_services([line("IS1", OLD)], [], {}, NOW, AGE)
    assert (one["account"], one["last_complete_at"], one["age_seconds"]) == ("main", OLD, 1860)


def test_what_is_gone_or_configured_nowhere_does_not_count() -> None:
    """A service that nobody reads any more would call somebody every night."""
    lines = [line("IS1", OLD, state="gone"), line("IS2", OLD, state="unconfigured")]
    assert stale(*lines, line("IS3", FRESH, state="active")) == []


def test_a_service_that_is_listed_and_was_never_met_counts() -> None:
    """A new service whose first reading never works is in no table yet."""
    listed = {"IS1": "main", "IS2": "main"}
    assert stale(line("IS1", FRESH), listed=listed) == ["IS2"]
    assert stale(listed=listed) == ["IS1", "IS2"]


@pytest.mark.parametrize(
    ("status", "finished_at", "is_stale"),
    [
        ("succeeded", FRESH, False),
        ("succeeded", OLD, True),
        ("failed", FRESH, True),
        ("running", None, True),
    ],
)
def test_where_no_service_is_known_the_last_good_run_counts(
    status: str, finished_at: datetime | None, *, is_stale: bool
) -> None:
    """An empty account is fresh when it was looked at; a job that never worked is not."""
    runs = ({"status": status, "finished_at": finished_at},)
    assert stale(runs=runs) == ([None] if is_stale else [])
    assert stale() == [None]
