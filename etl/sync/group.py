"""The runs of one group added up, as if they had been one run (`status --run-group`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from etl.domain.counters import COUNTER_NAMES
from etl.sync.outcome import status_of_scans
from etl.warehouse import changed_fields

Line = Mapping[str, Any]

_PUBLISHED = {"published", "refused"}
_UNFINISHED = {"interrupted", "running"}
# How a scan ends that makes its run end so; a run that ended so without one failed before it.
_BLAMED = {
    "failed": {"failed"},
    "partial": {"failed", "locked"},
    "interrupted": {"interrupted"},
    "running": {"running"},
}


def add_up(
    run_group: str, runs: Sequence[Line], scans: Sequence[Line]
) -> tuple[dict[str, Any], int]:
    """Return the JSON object of all runs as of one, and its exit code.

    `runs` and `scans` are lines of the ledger. What was tried again counts by how it ended last: of
    a service the last scan, of a shard the last run.
    """
    entries = _services(scans)
    found = {entry["status"] for entry in entries} | _without_scans(runs, scans)
    finished = [run["finished_at"] for run in runs]
    document = {
        "run_id": None,
        "run_group": run_group,
        "mode": " ".join(sorted({run["mode"] for run in runs})),
        "status": status_of(found),
        "started_at": min(run["started_at"] for run in runs),
        "finished_at": None if None in finished else max(finished),
        "dry_run": False,
        "totals": _sum_up(runs),
        "runs": [
            {
                name: run[name]
                for name in (
                    "id", "mode", "shard", "status", "started_at", "finished_at", "host", "error",
                )
            }
            for run in runs
        ],
        "services": entries,
    }  # fmt: skip
    return document, exit_code_of(found)


def status_of(found: set[str]) -> str:
    """Return what a run is called whose scans ended so."""
    for unfinished in ("running", "interrupted"):
        if unfinished in found:
            return unfinished
    return status_of_scans(found)


def exit_code_of(found: set[str]) -> int:
    """Return what a run ends with whose scans ended so: the first of 4, 3, 5, 6."""
    if "failed" in found and not found & _PUBLISHED:
        return 4
    if found & {"failed", *_UNFINISHED}:
        return 3
    if "refused" in found:
        return 5
    return 6 if "locked" in found else 0


def _services(scans: Sequence[Line]) -> list[dict[str, Any]]:
    tries: dict[tuple[str, str, str], list[Line]] = {}
    for scan in sorted(scans, key=_end):
        key = (scan["account"], scan["chat_service_sid"], scan["scope"])
        tries.setdefault(key, []).append(scan)
    return [
        {
            "account": last["account"],
            "chat_service_sid": last["chat_service_sid"],
            "scope": last["scope"],
            "status": last["status"],
            "complete": bool(last["complete"]),
            "resumed": bool(last["resumed"]),
            **_sum_up(one_by_one),
            "changed_fields": _sum_fields(one_by_one),
            **_error_or_note(last),
        }
        for one_by_one in tries.values()
        for last in one_by_one[-1:]
    ]


def _end(scan: Line) -> tuple[bool, datetime, int]:
    """Return a sort key: by end, those still running last."""
    ended: datetime | None = scan["finished_at"]
    return ended is None, ended or scan["started_at"], scan["id"]


def _error_or_note(scan: Line) -> dict[str, Any]:
    """Return `error` or `note` of a scan; the ledger keeps both in one column."""
    text = scan["error"]
    if text is None or scan["status"] in ("published", "skipped"):
        return {"error": None, "note": text}
    error = {
        "type": None,
        "message": text,
        "twilio_code": None,
        "request_id": scan["twilio_request_id"],
    }
    return {"error": error, "note": None}


def _without_scans(runs: Sequence[Line], scans: Sequence[Line]) -> set[str]:
    """Return how runs ended whose scans do not explain it, as when an account was unreadable."""
    ends: dict[int, set[str]] = {}
    for scan in scans:
        ends.setdefault(scan["run_id"], set()).add(scan["status"])
    last_of_shard = {(run["mode"], run["shard"]): run["id"] for run in runs if run["shard"]}
    return {
        "failed" if run["status"] == "partial" else run["status"]
        for run in runs
        if run["status"] in _BLAMED
        and not ends.get(run["id"], set()) & _BLAMED[run["status"]]
        and last_of_shard.get((run["mode"], run["shard"]), run["id"]) == run["id"]
    }


def _sum_fields(scans: Sequence[Line]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for scan in scans:
        found.update(changed_fields.decode(scan["changed_fields"]))
    return dict(found)


def _sum_up(lines: Sequence[Line]) -> dict[str, int]:
    return {name: sum(line[name] for line in lines) for name in COUNTER_NAMES}
