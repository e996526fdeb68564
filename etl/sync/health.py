"""How each service stands, in a word, and which ones are worst off."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from etl.domain.status import ScanStatus
from etl.sync.staleness import is_watched

Line = Mapping[str, Any]

OLD = timedelta(days=1)
"""What counts as old where nobody said so with `--max-age`."""


class Health(StrEnum):
    """How a service stands, worst first."""

    NEVER_READ = "never read"  # no complete reading yet
    FAILING = "failing"  # what was tried since its last complete reading came to nothing
    OLD = "old"  # not read completely for too long
    DELETES_HELD = "deletes held"  # the guard keeps absent bindings
    REJECTS = "rejected rows"  # rows wait in quarantine
    FINE = "fine"
    UNCONFIGURED = "unconfigured"  # nobody reads it any more


_ORDER = list(Health)
_CALM = {Health.FINE, Health.UNCONFIGURED}


def judge(
    services: Sequence[Line], failures: Mapping[str, Line], now: datetime, max_age: timedelta
) -> list[dict[str, Any]]:
    """Return the lines of `service_freshness`, worst first, with health, age and the last error.

    `failures` holds by service its newest scan that did not do all it should.
    """
    judged = [
        _judge(line, _still_true(line, failures.get(line["chat_service_sid"])), now, max_age)
        for line in services
    ]
    return sorted(judged, key=_badness)


def is_in_trouble(line: Line) -> bool:
    """Return whether somebody should look at a service."""
    return line["health"] not in _CALM


def _judge(line: Line, failure: Line | None, now: datetime, max_age: timedelta) -> dict[str, Any]:
    moment = line["last_complete_at"]
    age = None if moment is None else now - moment
    return {
        **line,
        "health": _health(line, failure, age, max_age),
        "age_seconds": None if age is None else max(0, int(age.total_seconds())),
        "last_error": None if failure is None else failure["error"],
    }


def _health(line: Line, failure: Line | None, age: timedelta | None, max_age: timedelta) -> Health:
    if not is_watched(line):
        return Health.UNCONFIGURED
    if age is None:
        return Health.NEVER_READ
    if failure is not None and failure["status"] != ScanStatus.REFUSED:
        return Health.FAILING
    if age > max_age:
        return Health.OLD
    if line["deletes_held"]:
        return Health.DELETES_HELD
    return Health.REJECTS if line["rejected_open"] else Health.FINE


def _still_true(line: Line, failure: Line | None) -> Line | None:
    """Return the failure, unless the service was read completely since, or holds no deletes."""
    if failure is None:
        return None
    if failure["status"] == ScanStatus.REFUSED:
        return failure if line["deletes_held"] else None
    moment = line["last_complete_at"]
    return failure if moment is None or failure["finished_at"] > moment else None


def _badness(line: Line) -> tuple[int, float, str, str]:
    """Return a sort key: the worst services first, and of those the oldest."""
    age = line["age_seconds"]
    oldest_first = float("-inf") if age is None else -age
    return (
        _ORDER.index(line["health"]),
        oldest_first,
        line["account"],
        line["chat_service_sid"],
    )
