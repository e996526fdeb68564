"""What a run ends with: status, exit code and JSON (docs/commands.md)."""

import json
from datetime import UTC, datetime

import pytest
from msgspec.structs import asdict, replace

from etl import errors
from etl.cli import render
from etl.cli.screen import draw
from etl.domain.counters import Counters
from etl.domain.scope import Scope
from etl.domain.status import ScanStatus
from etl.sync.outcome import RunOutcome, ScanOutcome

BEGAN = datetime(2026, 11, 23, 9, 42, 0, 123456, tzinfo=UTC)
ENDED = datetime(2026, 11, 23, 9, 43, 0, tzinfo=UTC)
COUNTERS = [
    "pages",
    "requests",
    "retries",
    "fetched",
    "inserted",
    "updated",
    "unchanged",
    "deleted",
    "restored",
    "rejected",
]


def scan(
    status: str, number: int = 0, error: Exception | None = None, **counted: int
) -> ScanOutcome:
    return ScanOutcome(
        Scope("main", f"IS{number:032x}"),
        ScanStatus(status),
        counters=Counters(**counted),
        error=error,
    )


def drawn(outcome: RunOutcome) -> str:
    return draw(render.run_summary(outcome))


def run(
    *statuses: str | ScanOutcome, stopped: bool = False, exit_code: int | None = None
) -> RunOutcome:
    scans = [
        one if isinstance(one, ScanOutcome) else scan(one, error=cause(one)) for one in statuses
    ]
    return RunOutcome(
        7,
        "sync",
        BEGAN,
        ENDED,
        dry_run=False,
        scans=scans,
        stopped=stopped,
        stopped_exit_code=exit_code,
    )


def cause(status: str) -> Exception | None:
    return {"failed": errors.Unavailable("HTTP 503"), "locked": errors.LeaseHeld("held")}.get(
        status
    )


@pytest.mark.parametrize(
    ("statuses", "status", "exit_code"),
    [
        ((), "succeeded", 0),
        (("published",), "succeeded", 0),
        (("published", "skipped"), "succeeded", 0),
        (("published", "failed"), "partial", 3),
        (("refused", "failed"), "partial", 3),
        (("failed",), "failed", 4),
        (("failed", "failed"), "failed", 4),
        (("failed", "locked"), "failed", 4),
        (("refused",), "refused", 5),
        (("published", "refused"), "refused", 5),
        (("refused", "locked"), "refused", 5),
        (("locked",), "locked", 6),
        (("published", "locked"), "partial", 6),
        (("published", "failed", "refused", "locked"), "partial", 3),
    ],
)
def test_the_exit_code_says_how_it_went(
    statuses: tuple[str, ...], status: str, exit_code: int
) -> None:
    """Schedulers decide by it; of several, the first of 4, 3, 5, 6."""
    outcome = run(*statuses)
    assert (outcome.status, outcome.exit_code) == (status, exit_code)


@pytest.mark.parametrize("code", [130, 143])
def test_a_signal_is_told_by_its_own_code(code: int) -> None:
    """130 and 143 are what a shell expects of SIGINT and SIGTERM."""
    outcome = run("published", "interrupted", stopped=True, exit_code=code)
    assert (outcome.status, outcome.exit_code) == ("interrupted", code)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.WarehouseUnreachable("no connection"), 7),
        (errors.CredentialsRefused("HTTP 401"), 4),
        (ZeroDivisionError(), 1),
    ],
)
def test_where_nothing_could_be_read_the_cause_decides(error: Exception, exit_code: int) -> None:
    """A database that is down is not a fault of the API, and a bug is neither."""
    assert run(scan("failed", error=error)).exit_code == exit_code


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.EtlError, 1),
        (errors.ConfigurationError, 2),
        (errors.SourceError, 4),
        (errors.WarehouseOutdated, 7),
        (errors.WarehouseUnreachable, 7),
        (errors.LeaseHeld, 6),
    ],
)
def test_each_error_has_the_exit_code_of_the_contract(
    error: type[errors.EtlError], exit_code: int
) -> None:
    """An error that ends the program before any service is read."""
    assert error.exit_code == exit_code


def test_the_json_is_the_contract_s() -> None:
    """Names are fixed: other programs read them."""
    error = errors.Throttled(
        "HTTP 429, code 20429: …", status=429, twilio_code=20429, request_id="RQ1"
    )
    document = json.loads(
        render.to_json(
            run(
                scan("published", 1, pages=2, inserted=5), scan("failed", 2, error, pages=1)
            ).as_json()
        )
    )
    assert {
        name: document[name]
        for name in ("run_id", "mode", "status", "started_at", "finished_at", "dry_run")
    } == {
        "run_id": 7,
        "mode": "sync",
        "status": "partial",
        "started_at": "2026-11-23T09:42:00.123Z",
        "finished_at": "2026-11-23T09:43:00.000Z",
        "dry_run": False,
    }
    assert list(document["totals"]) == COUNTERS
    assert (document["totals"]["pages"], document["totals"]["inserted"]) == (3, 5)
    good, bad = document["services"]
    assert {"account", "chat_service_sid", "status", "complete", "error", *COUNTERS} <= good.keys()
    assert (good["account"], good["chat_service_sid"], good["error"]) == (
        "main",
        f"IS{1:032x}",
        None,
    )
    assert bad["error"] == {
        "type": "Throttled",
        "message": "HTTP 429, code 20429: …",
        "twilio_code": 20429,
        "request_id": "RQ1",
    }


def test_a_run_that_could_not_begin_has_the_same_shape() -> None:
    """`--json` gives one object also when the run fails."""
    failed = json.loads(
        render.to_json(
            render.failed_run(errors.WarehouseOutdated("run migrate"), "sync", BEGAN, dry_run=True)
        )
    )
    assert run().as_json().keys() <= failed.keys()
    assert (failed["status"], failed["services"], failed["totals"]) == (
        "failed",
        [],
        dict.fromkeys(COUNTERS, 0),
    )
    assert failed["error"]["message"] == "run migrate"


def test_a_foreign_error_is_told_by_its_class_only() -> None:
    """Its text may quote a row, and `error` goes to the ledger and to standard output (docs/promises.md §6)."""
    outcome = run(scan("failed", error=ValueError("row of ada@example.com")))
    assert "ada" not in f"{outcome.as_json()} {outcome.error} {drawn(outcome)}"
    assert "ValueError" in str(outcome.error)


def test_the_summary_shows_every_service_and_what_was_not_done() -> None:
    """What a person reads after a run by hand."""
    error = errors.Unavailable("HTTP 503: try again later", request_id="RQ503")
    text = drawn(run(scan("published", 1, inserted=1234567), scan("failed", 2, error)))
    assert f"IS{1:032x}" in text
    assert "1,234,567" in text
    assert "HTTP 503: try again later (request RQ503)" in text
    assert "total" in text


def test_rejected_rows_are_told_under_what_was_not_done() -> None:
    """A run that put rows aside and says `succeeded` alone lets them lie there for ever."""
    text = drawn(run(scan("published", 1, rejected=1)))
    assert "not done:\n  1 row in quarantine: bindings-etl rejects list" in text
    text = drawn(run(scan("published", 1, rejected=1), scan("published", 2, rejected=1200)))
    assert "  1,201 rows in quarantine: bindings-etl rejects list" in text
    assert "quarantine" not in drawn(run(scan("published", 1)))
    planned = drawn(replace(run(scan("planned", 1, rejected=2)), dry_run=True))
    assert "2 rows would go into quarantine" in planned


def test_a_sentence_that_many_services_share_stands_once() -> None:
    """Sixty copies of one sentence hide the other one."""
    held = "service {} is worked on by run 3; its lease ends at 2026-11-25T10:00:0{}Z"
    scans = [
        scan("locked", number, errors.LeaseHeld(held.format(f"IS{number:032x}", number)))
        for number in range(1, 5)
    ]
    text = drawn(run(*scans, scan("failed", 5, errors.Unavailable("HTTP 503"))))
    told = text.partition("not done:\n")[2].splitlines()
    assert told[0].startswith("  4 services: the service is worked on by run 3; its lease ends")
    assert told[1] == "    " + ", ".join(f"IS{number:032x}" for number in range(1, 5))
    assert told[2:] == [f"  IS{5:032x}: HTTP 503"]


def test_the_parts_of_one_service_are_one_service() -> None:
    """Four chains of one service that broke are not four services."""
    error = errors.Unavailable("HTTP 503")
    parts = [scan("failed", 1, error), scan("failed", 1, error)]
    assert f"\n  IS{1:032x}: HTTP 503" in drawn(run(*parts))


def test_one_is_not_many() -> None:
    """`1 requests` reads as if nobody had ever looked at the screen."""
    text = drawn(run(scan("published", 1, requests=1, retries=1)))
    assert "1 request (1 retry)" in text


def test_counters_add_up() -> None:
    """Totals of a run are sums over its scans; a counter left out would be lost."""
    totals = Counters()
    totals.add(Counters(*range(1, 11)))
    totals.add(Counters(*range(1, 11)))
    assert list(asdict(totals).items()) == list(zip(COUNTERS, range(2, 21, 2), strict=True))
