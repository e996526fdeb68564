"""Which services were not read completely for too long (`status --max-age`)."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

Line = Mapping[str, Any]


def stale_services(
    services: Sequence[Line],
    runs: Sequence[Line],
    listed: Mapping[str, str],
    now: datetime,
    max_age: timedelta,
) -> list[dict[str, Any]]:
    """Return the services whose last complete reading is older than `max_age`, or was never.

    `services` are lines of `service_freshness`, `runs` the last ones of the ledger, `listed` the
    accounts of services that the configuration names. What is gone or no longer configured does not
    count. Where no service is known at all, the last run that succeeded stands for them: an account
    may well be empty, but it has to be looked at.
    """
    known = {line["chat_service_sid"] for line in services}
    found = [
        (line["account"], line["chat_service_sid"], line["last_complete_at"])
        for line in services
        if is_watched(line)
    ]
    found += [(account, sid, None) for sid, account in listed.items() if sid not in known]
    if not found:
        found = [(None, None, _last_success(runs))]
    return [
        {
            "account": account,
            "chat_service_sid": sid,
            "last_complete_at": moment,
            "age_seconds": None if moment is None else int((now - moment).total_seconds()),
        }
        for account, sid, moment in found
        if moment is None or now - moment > max_age
    ]


def is_watched(line: Line) -> bool:
    """Return whether a service has to be fresh: not when it is gone or no longer configured."""
    return str(line.get("state", "active")) == "active"


def _last_success(runs: Sequence[Line]) -> datetime | None:
    ends = [run["finished_at"] for run in runs if run["status"] == "succeeded"]
    return max(ends, default=None)
