"""The sentences of the report: true of nothing, of one, of many."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from etl.report import findings
from etl.report.figures import Day, Figures, Service, Shared, SharedEndpoint, UnusualSet

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def service(sid: str, **values: Any) -> Service:
    usual: dict[str, Any] = {
        "account": "main", "chat_service_sid": sid, "last_complete_at": NOW - timedelta(hours=1), "active": 10, "deleted": 0,
        "rejected_open": 0, "friendly_name": None, "state": "active", "deletes_held": 0, "by_type": {"apn": 10}, "failure": None,
    }  # fmt: skip
    return Service(**(usual | values))


def figures(*services: Service, **values: Any) -> Figures:
    usual: dict[str, Any] = {
        "now": NOW, "services": list(services), "days": [Day(NOW.date(), {}, 0)], "ages": {}, "reach": {}, "devices": {},
        "coverage": {}, "unusual": [], "credentials": {}, "shared": Shared(), "rejects": {}, "runs": [], "drift": [],
    }  # fmt: skip
    return Figures(**(usual | values))


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (0, 0, "0 %"), (0, 7, "0 %"), (1, 1_000, "under 1 %"), (1, 3, "33 %"), (999, 1_000, "over 99 %"), (7, 7, "100 %"),
    ],
)  # fmt: skip
def test_a_share_is_neither_nothing_nor_all_unless_it_is(part: int, whole: int, said: str) -> None:
    """ "0 % are lost" of a million with a thousand lost is not so."""
    assert findings.share(part, whole) == said


@pytest.mark.parametrize(
    "values",
    [
        {"last_complete_at": None},
        {"last_complete_at": NOW - timedelta(days=2)},
        {"rejected_open": 1},
        {"deletes_held": 1},
        {"state": "unconfigured"},
        {"failure": "HTTP 500"},
    ],
    ids=str,
)
def test_what_bends_a_count_is_told_first(values: dict[str, Any]) -> None:
    """A page that says that all is well above a service that nobody has read is believed."""
    assert findings.trust(figures(service("IS1", **values))) == "1 of 1 service needs a look"
    good = service("IS2")
    assert findings.trust(figures(service("IS1", **values), good)) == "1 of 2 services needs a look"


def test_well_read_services_are_said_to_be() -> None:
    """Who always reads of trouble reads no further."""
    assert findings.trust(figures()) == "No service was read yet"
    one, two = service("IS1"), service("IS2")
    assert (
        findings.trust(figures(one)) == "The one service was read completely in the last 24 hours"
    )
    assert (
        findings.trust(figures(one, two))
        == "All 2 services were read completely in the last 24 hours"
    )


def test_growth_is_told_of_the_days_shown() -> None:
    """A percentage of nothing, or of one day, is no growth."""
    today = date(2026, 11, 28)
    before = today - timedelta(days=9)
    assert findings.growth([Day(today, {}, 0)]) == "There is no active binding"
    assert findings.growth([Day(today, {}, 1)]) == "1 binding today, on the first day on record"
    assert (
        findings.growth([Day(before, {}, 0), Day(today, {}, 5)])
        == "5 bindings today, none on 2026-11-19"
    )
    assert (
        findings.growth([Day(before, {}, 8), Day(today, {}, 6)])
        == "6 bindings today, -25.0 % since 2026-11-19"
    )


def test_what_a_first_load_found_is_no_gain() -> None:
    """Twelve thousand gained on the day on which somebody began to count would hide every real day."""
    today = date(2026, 11, 28)
    days = [
        Day(
            today,
            {"first_loaded": 12_000, "inserted": 3, "restored": 1, "updated": 9, "deleted": 5},
            11_999,
        )
    ]
    assert findings.changes(days) == "4 gained and 5 lost in 30 days: -1"
    assert (
        findings.changes([Day(today, {"first_loaded": 12_000}, 12_000)])
        == "Nothing came or went in 30 days"
    )


def test_of_nothing_each_card_says_so() -> None:
    """The first look is before the first run."""
    none = figures()
    empty = {"no push": 0, "1 device": 0}
    assert (
        findings.by_service(none, "")
        == findings.coverage(none)
        == findings.ages({})
        == "There is no active binding"
    )
    assert findings.reach(empty) == findings.devices(empty) == "No identity is stored"
    assert findings.shared(none) == "No endpoint belongs to several identities"
    assert findings.credentials({}) == "0 credentials in use"
    assert findings.rejects({}) == "Every row could be loaded"
    assert findings.drift([]) == "The API sends nothing that is not known"


def test_each_card_says_what_there_is() -> None:
    """A title that says another number than its chart is worse than none."""
    shared = Shared(2, 5, [SharedEndpoint("BS1", 3, 2, 1)])
    unusual = [UnusualSet("IS1", [], 3), UnusualSet("IS2", None, 1)]
    full = figures(service("IS1", active=30), service("IS2"), shared=shared, unusual=unusual)
    assert findings.by_service(full, "Shop") == "Shop has 75 % of 40 active bindings"
    assert (
        findings.by_service(figures(service("IS1")), "Shop") == "10 active bindings in one service"
    )
    assert findings.coverage(full).startswith("10 % of the bindings have other message types")
    assert findings.shared(full) == "2 endpoints belong to several identities"
    assert findings.reach({"Apple only": 3, "no push": 1}) == "Push reaches 75 % of 4 identities"
    assert findings.devices({"1 device": 3, "2 devices": 1}).startswith("25 % of the identities")
    ages = {
        "under 30 days": {"apn": 1},
        "270-365 days": {"apn": 1},
        "over 365 days": {"fcm": 2},
        "no date": {},
    }
    assert findings.ages(ages) == "75 % were not heard of for 270 days"
    assert findings.credentials({"CR1": {"apn": 5}, "": {"twilsock": 1}}) == "1 credential in use"
    assert findings.credentials({"CR1": {"gcm": 5}}).startswith("5 bindings still on gcm")
    assert findings.rejects({"bad": 1}) == "1 row could not be loaded"
    assert findings.drift([1, 2]) == "The API sends 2 things that this program does not know"
