"""How a service stands, and which one is worst off."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from etl.cli.status import age_in_words
from etl.sync.health import Health, is_in_trouble, judge

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def service(name: str, age: timedelta | None = HOUR / 2, **figures: Any) -> dict[str, Any]:
    return {
        "account": "main",
        "chat_service_sid": name,
        "last_complete_at": None if age is None else NOW - age,
        "deletes_held": 0,
        "rejected_open": 0,
        "state": "active",
        **figures,
    }


def failure(status: str, age: timedelta) -> dict[str, Any]:
    return {"status": status, "error": "HTTP 503", "finished_at": NOW - age}


def test_the_worst_come_first() -> None:
    """At night the first lines are all that is read."""
    services = [
        service("unconfigured", state="unconfigured"),
        service("fine"),
        service("older but fine", HOUR * 2),
        service("rejects", rejected_open=1),
        service("held", deletes_held=9),
        service("old", HOUR * 30),
        service("failing"),
        service("never", None),
    ]
    judged = judge(services, {"failing": failure("failed", HOUR / 4)}, NOW, HOUR * 24)
    assert [line["chat_service_sid"] for line in judged] == [
        "never", "failing", "old", "held", "rejects", "older but fine", "fine", "unconfigured",
    ]  # fmt: skip
    assert [line["chat_service_sid"] for line in judged if is_in_trouble(line)] == [
        "never", "failing", "old", "held", "rejects",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("figures", "failed", "health", "told"),
    [
        ({}, failure("failed", HOUR * 2), Health.FINE, False),
        ({}, failure("failed", HOUR / 4), Health.FAILING, True),
        ({}, failure("interrupted", HOUR / 4), Health.FAILING, True),
        ({}, failure("refused", HOUR / 4), Health.FINE, False),
        ({"deletes_held": 3}, failure("refused", HOUR / 2), Health.DELETES_HELD, True),
        ({"age": None}, failure("failed", HOUR * 99), Health.NEVER_READ, True),
    ],
)
def test_an_error_is_told_until_it_is_over(
    figures: dict[str, Any], failed: dict[str, Any], health: Health, told: bool
) -> None:
    """An error that was mended long ago wakes somebody for nothing; one that lasts must not be missing."""
    [line] = judge([service("one", **figures)], {"one": failed}, NOW, HOUR * 24)
    assert (line["health"], line["last_error"]) == (health, "HTTP 503" if told else None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (3600, "1 hour ago"),
        (86_400, "1 day ago"),
        (86_400 * 1200, "1,200 days ago"),
    ],
)
def test_an_age_is_told_in_words(seconds: int, words: str) -> None:
    """Nobody subtracts times at night."""
    assert age_in_words(seconds) == words
