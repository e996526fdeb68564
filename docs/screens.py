"""Writes docs/screens.md, what the screens look like at 80 columns, from made-up figures: `make docs`."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from etl import errors
from etl.cli import check, render, status
from etl.cli.screen import Part, draw
from etl.domain.counters import Counters
from etl.domain.scope import Scope
from etl.domain.status import RunStatus, ScanStatus
from etl.sync.health import OLD, judge
from etl.sync.outcome import RunOutcome, ScanOutcome
from etl.sync.preflight import Finding
from etl.warehouse.overview import Overview

PAGE = Path(__file__).with_name("screens.md")
_NOW = datetime(2026, 11, 25, 9, 45, tzinfo=UTC)
_WIDTH, _NARROW = 80, 60
_REFUSED = (
    "600 of 1230 active bindings were absent, more than deletes.max_fraction and deletes.min_rows "
    "allow: nothing was deleted; if that many are really gone, run once with --allow-mass-delete"
)

_HEAD = """\
# Screens

What the commands show on a terminal, from made-up figures. Columns without a figure are left out, SIDs are
shortened where that keeps them apart and there is no room for whole ones, and below 80 columns each row stands
upright. States have colours, unless `NO_COLOR` is set. A pipe or a file gets plain lines instead, one a row, with
every column and whole SIDs, for `grep` and `awk`; programs take `--json`. This page is written by `make docs`."""


def render_page() -> str:
    """The whole page as Markdown."""
    sync = render.run_summary(_outcome())
    screens = [
        ("`sync`", _WIDTH, sync),
        ("`sync` at 60 columns", _NARROW, sync),
        ("`status`", _WIDTH, _status(_services(4, 2))),
        ("`status` with 60 services, five of them in trouble", _WIDTH, _status(_services(60, 5))),
        ("`check`", _WIDTH, check.describe(_findings())),
    ]
    return "\n\n".join([_HEAD, *(_screen(*one) for one in screens)]) + "\n"


def _screen(title: str, width: int, parts: list[Part]) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", draw(parts, width))
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```"


def _sid(number: int) -> str:
    return f"IS{(number * 0x9E3779B97F4A7C15F39CC0605CEDC834 + 0xA1) % 16**32:032x}"


def _outcome() -> RunOutcome:
    def scan(
        number: int, state: ScanStatus, error: Exception | None, **counted: int
    ) -> ScanOutcome:
        counters = Counters(**counted)
        return ScanOutcome(Scope("main", _sid(number)), state, counters=counters, error=error)

    gone = errors.Unavailable("HTTP 503 after 6 tries", request_id="RQ" + "5" * 32)
    refused = errors.DeletesRefused(_REFUSED)
    scans = [
        scan(1, ScanStatus.PUBLISHED, None, pages=126, requests=127, fetched=12_580, updated=31, unchanged=12_548, rejected=1),
        scan(2, ScanStatus.REFUSED, refused, pages=7, requests=7, fetched=630, unchanged=630),
        scan(3, ScanStatus.FAILED, gone, pages=2, requests=14, retries=10, fetched=200),
        scan(4, ScanStatus.FAILED, gone, requests=6, retries=5),
    ]  # fmt: skip
    began = _NOW - timedelta(seconds=41)
    return RunOutcome(7, "sync", began, _NOW, dry_run=False, scans=scans)


def _services(number: int, troubled: int) -> list[dict[str, Any]]:
    def line(at: int) -> dict[str, Any]:
        age = timedelta(minutes=4) if at >= troubled or at % 2 else timedelta(hours=31 * (at + 1))
        return {
            "account": "main",
            "chat_service_sid": _sid(at),
            "last_complete_at": _NOW - age,
            "active": 1_230 + at * at * 211,
            "deleted": 17 * at,
            "rejected_open": 0,
            "friendly_name": f"Shop {at + 1}",
            "state": "active",
            "deletes_held": 600 if at < troubled and at % 2 else 0,
        }

    return [line(at) for at in range(number)]


def _status(services: list[dict[str, Any]]) -> list[Part]:
    failures = {
        _sid(0): _failure(ScanStatus.FAILED, "HTTP 503 after 6 tries"),
        _sid(1): _failure(ScanStatus.REFUSED, _REFUSED),
    }
    runs = [
        _run(7, RunStatus.PARTIAL, 0, f"{_sid(0)}: HTTP 503 after 6 tries (and 1 more)"),
        _run(6, RunStatus.INTERRUPTED, 30, "the process ended without a word"),
        _run(5, RunStatus.SUCCEEDED, 60, None),
    ]
    overview = Overview(services, runs, [], [], [], failures, _NOW)
    judged = judge(services, failures, _NOW, OLD)
    shown = status.describe_services(judged, None, show_all=False)
    return status.describe(overview, runs, shown)


def _failure(state: ScanStatus, error: str) -> dict[str, Any]:
    return {"status": state, "error": error, "finished_at": _NOW}


def _run(number: int, state: RunStatus, minutes: int, error: str | None) -> dict[str, Any]:
    began = _NOW - timedelta(minutes=minutes, seconds=41)
    counted = {"fetched": 13_410, "inserted": 0, "updated": 31, "deleted": 0, "restored": 0}
    return {
        "id": number,
        "mode": "sync",
        "status": state,
        "started_at": began,
        "finished_at": began + timedelta(seconds=41),
        **counted,
        "rejected": 0,
        "error": error,
    }


def _findings() -> list[Finding]:
    warehouse = "postgresql://etl:***@db/analytics"
    return [
        Finding("configuration", "config.yaml", True, "is valid"),
        Finding("account", "main", True, "2 services at https://conversations.twilio.com"),
        Finding("service", _sid(1), True, "can be read"),
        Finding("service", _sid(2), False, "HTTP 403, code 20006: access denied", 3),
        Finding("warehouse", warehouse, True, "reachable and at the newest revision"),
    ]


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
