"""What the runs of one group come to."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from etl.domain.counters import COUNTER_NAMES
from etl.sync.group import add_up

BEGAN = datetime(2026, 11, 23, tzinfo=UTC)


def run(number: int, status: str, shard: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "mode": "sync",
        "shard": shard,
        "status": status,
        "started_at": BEGAN + timedelta(minutes=number),
        "finished_at": None if status == "running" else BEGAN + timedelta(minutes=number + 5),
        "host": "h",
        "error": None,
        **dict.fromkeys(COUNTER_NAMES, 1),
        **more,
    }


def scan(run_id: int, sid: str, status: str, minute: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "id": run_id * 100 + minute,
        "run_id": run_id,
        "account": "main",
        "chat_service_sid": sid,
        "scope": "service",
        "status": status,
        "complete": status == "published",
        "resumed": False,
        "started_at": BEGAN,
        "finished_at": None if status == "running" else BEGAN + timedelta(minutes=run_id + minute),
        "error": None,
        "twilio_request_id": None,
        "changed_fields": None,
        **dict.fromkeys(COUNTER_NAMES, 1),
        **more,
    }


def ended(runs: list[dict[str, Any]], scans: list[dict[str, Any]]) -> tuple[str, int]:
    document, code = add_up("g", runs, scans)
    return document["status"], code


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], ("succeeded", 0)),
        (["published", "published"], ("succeeded", 0)),
        (["published", "skipped"], ("succeeded", 0)),
        (["failed", "failed"], ("failed", 4)),
        (["failed", "published"], ("partial", 3)),
        (["failed", "refused"], ("partial", 3)),
        (["refused", "locked", "published"], ("refused", 5)),
        (["locked", "published"], ("partial", 6)),
        (["locked"], ("locked", 6)),
        (["interrupted", "published"], ("interrupted", 3)),
        (["running", "published"], ("running", 3)),
    ],
)
def test_a_group_ends_as_one_run_would(statuses: list[str], expected: tuple[str, int]) -> None:
    """A scheduler that fans out asks once, by the exit codes that it knows (docs/commands.md)."""
    scans = [scan(number, f"IS{number}", status) for number, status in enumerate(statuses)]
    names = {"published": "succeeded", "skipped": "succeeded"}
    runs = [run(number, names.get(status, status)) for number, status in enumerate(statuses)]
    assert ended(runs or [run(1, "succeeded")], scans) == expected


def test_counters_are_added_up_and_times_span_all() -> None:
    """The sum is what a run over everything would have shown."""
    runs = [run(1, "succeeded"), run(2, "succeeded")]
    document, _ = add_up("g", runs, [scan(1, "IS1", "published"), scan(2, "IS2", "published")])
    assert document["totals"] == dict.fromkeys(COUNTER_NAMES, 2)
    assert document["started_at"] == runs[0]["started_at"]
    assert document["finished_at"] == runs[1]["finished_at"]
    assert [one["id"] for one in document["runs"]] == [1, 2]


def test_of_a_service_that_was_tried_again_the_last_try_counts() -> None:
    """A Job tries a failed shard again; what then worked is no reason to call somebody."""
    runs = [run(1, "failed"), run(2, "succeeded")]
    first, second = scan(1, "IS1", "failed"), scan(2, "IS1", "published")
    assert ended(runs, [first, second]) == ("succeeded", 0)
    document, _ = add_up("g", runs, [first, second])
    assert [one["fetched"] for one in document["services"]] == [2]


def test_a_try_that_found_the_lease_taken_does_not_undo_what_was_published_after_it() -> None:
    """A second pod may begin while the first one still works, and is the first one to end."""
    runs = [run(1, "succeeded"), run(2, "locked")]
    scans = [scan(1, "IS1", "published", minute=9), scan(2, "IS1", "locked")]
    assert ended(runs, scans) == ("succeeded", 0)


def test_a_run_whose_account_could_not_be_read_has_failed() -> None:
    """It leaves no scan behind that would say so."""
    good = (run(1, "succeeded", "0/2"), scan(1, "IS1", "published"))
    assert ended([good[0], run(2, "failed", "1/2")], [good[1]]) == ("partial", 3)
    assert ended([run(1, "failed")], []) == ("failed", 4)
    assert ended([run(1, "partial")], [good[1]]) == ("partial", 3)


def test_a_shard_that_was_tried_again_counts_by_its_last_run() -> None:
    """The first pod of a shard may fail before its first scan, or be killed without a word."""
    for status in ("failed", "interrupted", "running"):
        runs = [run(1, status, "0/2"), run(2, "succeeded", "0/2"), run(3, "succeeded", "1/2")]
        scans = [scan(2, "IS1", "published"), scan(3, "IS2", "published")]
        assert ended(runs, scans) == ("succeeded", 0)
        assert ended(runs[:1] + runs[2:], scans[1:])[1] == 3


def test_errors_and_notes_are_told_apart() -> None:
    """The ledger has one column for both; a note is no failure."""
    scans = [
        scan(1, "IS1", "published", error="resumed: nothing deleted"),
        scan(1, "IS2", "failed", error="HTTP 500", twilio_request_id="RQ1"),
    ]
    document, _ = add_up("g", [run(1, "partial")], scans)
    good, bad = document["services"]
    assert (good["error"], good["note"]) == (None, "resumed: nothing deleted")
    assert (bad["error"]["message"], bad["error"]["request_id"], bad["note"]) == (
        "HTTP 500",
        "RQ1",
        None,
    )
