"""Results as text for people and as JSON for programs."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from etl.domain.counters import Counters
from etl.errors import Interrupted
from etl.sync.outcome import RunOutcome, as_zulu, describe, describe_in_full

SHOWN = ("pages", "fetched", "inserted", "updated", "unchanged", "deleted", "restored", "rejected")


def to_json(document: Any) -> str:
    """JSON for a program to read; times as ISO 8601. Of bytes that are no text, as in an option, JSON's own escapes are left."""
    return (
        json.dumps(document, ensure_ascii=False, default=_plain)
        .encode(errors="backslashreplace")
        .decode()
    )


def failed_run(
    error: Exception,
    mode: str,
    started_at: datetime,
    *,
    dry_run: bool,
    run_group: str | None = None,
) -> dict[str, Any]:
    """Return the object of `--json` for a run that could not begin."""
    return {
        "run_id": None,
        "mode": mode,
        "status": "interrupted" if isinstance(error, Interrupted) else "failed",
        "started_at": as_zulu(started_at),
        "finished_at": as_zulu(datetime.now(UTC)),
        "dry_run": dry_run,
        "run_group": run_group,
        "totals": vars(Counters()),
        "services": [],
        "error": describe(error),
    }


def run_summary(outcome: RunOutcome) -> str:
    """What a run did, per service, and what it did not do and why."""
    head = "plan (nothing was written)" if outcome.dry_run else f"run {outcome.run_id}"
    seconds = (outcome.finished_at - outcome.started_at).total_seconds()
    totals = outcome.totals
    rows = [
        _scan_line(
            scan.scope.chat_service_sid or "(account)",
            scan.scope.label,
            scan.status,
            scan.counters,
        )
        for scan in outcome.scans
    ]
    if len(outcome.scans) > 1:
        rows.append(_scan_line("total", "", outcome.status, totals))
    lines = [
        f"{head}: {outcome.mode} {outcome.status} in {seconds:.1f} s, {totals.requests:,} requests ({totals.retries:,} retries)",
        "",
        table(("service", "scope", "status", *SHOWN), rows),
    ]
    notes = [
        f"  {scan.scope.chat_service_sid or scan.scope.account}: {describe_in_full(scan.error) if scan.error else scan.note}"
        for scan in outcome.scans
        if scan.error or scan.note
    ]
    if notes:
        lines += ["", "not done:", *notes]
    return "\n".join(lines)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns side by side; numbers to the right."""
    body = [[_cell(value) for value in row] for row in rows]
    widths = [
        max(len(header), *(len(row[place]) for row in body)) if body else len(header)
        for place, header in enumerate(headers)
    ]
    numeric = [
        bool(body) and all(row[place][:1].isdigit() or not row[place] for row in body)
        for place in range(len(headers))
    ]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([line(list(headers)), *(line(row) for row in body)])


def _scan_line(service: str, scope: str, status: str, counters: Counters) -> tuple[object, ...]:
    return (service, scope, status, *(getattr(counters, name) for name in SHOWN))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return str(value)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return as_zulu(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
