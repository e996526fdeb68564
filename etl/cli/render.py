"""Results as text for people and as JSON for programs."""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import asdict

from etl.cli.screen import Part, Styled, Table
from etl.domain.counters import Counters
from etl.domain.scope import WHOLE_SERVICE
from etl.errors import Interrupted
from etl.sync.outcome import RunOutcome, as_zulu, count, describe, describe_in_full

SHOWN = ("pages", "fetched", "inserted", "updated", "unchanged", "deleted", "restored", "rejected")


def to_json(document: Any) -> str:
    """Return JSON, times as ISO 8601; bytes of an option that are no text stay as escapes."""
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
        "totals": asdict(Counters()),
        "services": [],
        "error": describe(error),
    }


def run_summary(outcome: RunOutcome) -> list[Part]:
    """Return what a run did per service, then what it did not do and why."""
    seconds = (outcome.finished_at - outcome.started_at).total_seconds()
    totals = outcome.totals
    head = "plan (nothing was written)" if outcome.dry_run else f"run {outcome.run_id}"
    asked = f"{count(totals.requests, 'request')} ({count(totals.retries, 'retry', 'retries')})"
    rows = [
        _scan_line(
            scan.scope.chat_service_sid or "(account)", scan.scope.label, scan.status, scan.counters
        )
        for scan in outcome.scans
    ]
    if len(outcome.scans) > 1:
        rows.append(_scan_line("total", "", outcome.status, totals))
    parts: list[Part] = [
        Styled(
            f"{head}: {outcome.mode} {outcome.status} in {seconds:.1f} s, {asked}",
            style_of(outcome.status),
        ),
        "",
    ]
    parts.append(counted_table(rows) if rows else "there is no service to read")
    if undone := [*_not_done(outcome), *_quarantined(outcome)]:
        parts += ["", Styled("not done:", "bold"), *(f"  {line}" for line in undone)]
    return parts


def counted_table(rows: Sequence[Sequence[object]]) -> Table:
    """Return a table of services or scans with their counters."""
    return Table(
        ("service", "scope", "status", *SHOWN),
        rows,
        optional=("pages", "fetched", "scope", "unchanged"),
        defaults={"scope": WHOLE_SERVICE},
    )


def style_of(status: str) -> str:
    """Return the colour of a run's or a scan's status."""
    return _STYLES.get(status, "yellow")


def tell_once(told: Iterable[tuple[str, str]]) -> list[str]:
    """Return the lines of what services, or accounts, have to say: a sentence stands once."""
    groups: dict[str, dict[str, str]] = {}
    for name, text in told:
        groups.setdefault(_PASSING.sub("", _without_sid(text, name)), {}).setdefault(name, text)
    lines: list[str] = []
    for group in groups.values():
        name, text = next(iter(group.items()))
        if len(group) == 1:
            lines.append(f"{name}: {_without_sid(text, name)}")
        else:
            kind = "service" if _is_service(name) else "account"
            lines.append(f"{count(len(group), kind)}: {_without_sid(text, name)}")
            lines.append(f"  {listing(list(group))}")
    return lines


def listing(names: Sequence[str]) -> str:
    """Return names in a row, and how many are left out where there are very many."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _is_service(name: str) -> bool:
    return re.fullmatch(r"IS[0-9a-fA-F]{32}", name) is not None


def _without_sid(text: str, name: str) -> str:
    if not _is_service(name):
        return text
    return text.replace(f"service {name}", "the service").replace(name, "the service")


_MOST_NAMED = 10
# What differs between two tellings of one fault: the moment, and the request.
_PASSING = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z| \(request \w+\)")

_STYLES = {
    "published": "green",
    "succeeded": "green",
    "planned": "green",
    "running": "cyan",
    "failed": "red",
    "killed": "red",
}


def _not_done(outcome: RunOutcome) -> list[str]:
    return tell_once(
        (
            scan.scope.chat_service_sid or scan.scope.account,
            describe_in_full(scan.error) if scan.error else str(scan.note),
        )
        for scan in outcome.scans
        if scan.error or scan.note
    )


def _quarantined(outcome: RunOutcome) -> list[str]:
    rejected = outcome.totals.rejected
    if not rejected:
        return []
    if outcome.dry_run:
        return [
            f"{count(rejected, 'row')} would go into quarantine: nothing can load them as they are"
        ]
    return [f"{count(rejected, 'row')} in quarantine: bindings-etl rejects list"]


def _scan_line(service: str, scope: str, status: str, counters: Counters) -> tuple[object, ...]:
    shown = (getattr(counters, name) for name in SHOWN)
    return (service, scope, Styled(status, style_of(status)), *shown)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return as_zulu(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
