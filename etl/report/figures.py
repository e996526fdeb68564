"""What the report shows, as plain data. Counted by the warehouse; no identity and no endpoint is among it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from etl.warehouse.tables import binding_versions, bindings, rejected_bindings, sync_runs
from etl.warehouse.views import service_freshness

DAYS = 30
LAST_RUNS = 15

# Days without an update, up to which a binding counts as of that age.
AGES = (30, 90, 270, 365)

_identity_reachability = sa.table(
    "identity_reachability",
    *(sa.column(name, sa.BigInteger) for name in ("apn", "fcm", "gcm", "other")),
)

Counts = dict[str, int]


@dataclass(frozen=True)
class Service:
    """One service, how fresh it is and what it holds."""

    account: str
    chat_service_sid: str
    last_complete_at: datetime | None
    active: int
    deleted: int
    rejected_open: int
    friendly_name: str | None
    state: str
    deletes_held: int
    by_type: Counts


@dataclass(frozen=True)
class Day:
    """What changed on one day (UTC)."""

    day: date
    changes: Counts


@dataclass(frozen=True)
class Figures:
    """Everything the page shows."""

    now: datetime
    services: list[Service]
    days: list[Day]
    ages: dict[str, Counts]
    """Bucket of age → active bindings by type."""
    reachability: Counts
    rejects: Counts
    runs: list[dict[str, Any]]


def read_figures(conn: sa.Connection, now: datetime) -> Figures:
    """Count everything in one connection."""
    return Figures(
        now=now,
        services=_services(conn),
        days=_days(conn, now),
        ages=_ages(conn, now),
        reachability=_reachability(conn),
        rejects=_rejects(conn),
        runs=_runs(conn),
    )


def _services(conn: sa.Connection) -> list[Service]:
    place = (bindings.c.account, bindings.c.chat_service_sid)
    counted = sa.select(*place, bindings.c.binding_type, sa.func.count()).where(
        bindings.c.deleted_at.is_(None)
    )
    by_type: dict[tuple[str, str], Counts] = {}
    for account, sid, kind, number in conn.execute(
        counted.group_by(*place, bindings.c.binding_type)
    ):
        by_type.setdefault((account, sid), {})[kind or "none"] = number
    lines = conn.execute(sa.select(service_freshness)).mappings()
    services = [
        Service(**line, by_type=by_type.get((line["account"], line["chat_service_sid"]), {}))
        for line in lines
    ]
    return sorted(
        services, key=lambda service: (-service.active, service.account, service.chat_service_sid)
    )


def _days(conn: sa.Connection, now: datetime) -> list[Day]:
    """The last days, those without a change too."""
    first = (now - timedelta(days=DAYS - 1)).replace(hour=0, minute=0, second=0, microsecond=0)
    days: dict[date, Counts] = {
        (first + timedelta(days=number)).date(): {} for number in range(DAYS)
    }
    _add_up(days, "inserted", conn.execute(_new_per_day(first)))
    for change in ("updated", "restored", "deleted"):
        ended = (binding_versions.c.change == change) & (binding_versions.c.valid_to >= first)
        day = _date_parts(binding_versions.c.valid_to)
        _add_up(
            days, change, conn.execute(sa.select(*day, sa.func.count()).where(ended).group_by(*day))
        )
    return [Day(day, counts) for day, counts in days.items()]


def _new_per_day(first: datetime) -> sa.Select[Any]:
    """Bindings by the day they were first seen. Those of a service's first day are its first load and no change."""
    loaded = (
        sa.select(bindings.c.chat_service_sid, sa.func.min(bindings.c.first_seen_at).label("at"))
        .group_by(bindings.c.chat_service_sid)
        .subquery("loaded")
    )
    day = _date_parts(bindings.c.first_seen_at)
    is_first_day = sa.and_(
        *(part == other for part, other in zip(day, _date_parts(loaded.c["at"]), strict=True))
    )
    columns: list[sa.ColumnElement[Any]] = [*day, sa.func.count()]
    return (
        sa.select(*columns)
        .join_from(bindings, loaded, loaded.c.chat_service_sid == bindings.c.chat_service_sid)
        .where(bindings.c.first_seen_at >= first, ~is_first_day)
        .group_by(*day)
    )


def _date_parts(moment: sa.ColumnElement[Any]) -> list[sa.ColumnElement[int]]:
    """Year, month and day: each engine has its own way to cut a time to its date, and all can extract."""
    return [sa.extract(part, moment) for part in ("year", "month", "day")]


def _add_up(days: dict[date, Counts], change: str, counted: Iterable[Any]) -> None:
    for year, month, day, number in counted:
        counts = days.get(date(int(year), int(month), int(day)))
        if counts is not None:
            counts[change] = number


def _ages(conn: sa.Connection, now: datetime) -> dict[str, Counts]:
    updated = bindings.c.date_updated
    steps = [(updated >= now - timedelta(days=days), place) for place, days in enumerate(AGES)]
    bucket = sa.case((updated.is_(None), len(AGES) + 1), *steps, else_=len(AGES))
    by_row = (
        sa.select(bucket.label("bucket"), bindings.c.binding_type.label("kind"))
        .where(bindings.c.deleted_at.is_(None))
        .subquery()
    )
    counted = sa.select(by_row.c.bucket, by_row.c.kind, sa.func.count()).group_by(
        by_row.c.bucket, by_row.c.kind
    )
    labels = [*_age_labels(), "no date"]
    ages: dict[str, Counts] = {label: {} for label in labels}
    for place, kind, number in conn.execute(counted):
        ages[labels[place]][kind or "none"] = number
    return ages if ages["no date"] else {label: ages[label] for label in _age_labels()}


def _age_labels() -> list[str]:
    between = [f"{low}-{high} days" for low, high in pairwise(AGES)]
    return [f"under {AGES[0]} days", *between, f"over {AGES[-1]} days"]


def _reachability(conn: sa.Connection) -> Counts:
    """Identities by the kinds of push that reach them."""
    by = _identity_reachability.c
    apple, google = by.apn > 0, (by.fcm > 0) | (by.gcm > 0)
    kinds = {
        "Apple and Google": apple & google,
        "Apple only": apple & ~google,
        "Google only": google & ~apple,
        "no push": ~apple & ~google,
    }
    sums = (sa.func.sum(sa.case((condition, 1), else_=0)) for condition in kinds.values())
    line = conn.execute(sa.select(*sums).select_from(_identity_reachability)).one()
    return {kind: int(number or 0) for kind, number in zip(kinds, line, strict=True)}


def _rejects(conn: sa.Connection) -> Counts:
    reason = rejected_bindings.c.reason
    counted = (
        sa.select(reason, sa.func.count())
        .where(rejected_bindings.c.resolved_at.is_(None))
        .group_by(reason)
    )
    return dict(
        sorted(
            ((reason, number) for reason, number in conn.execute(counted)),
            key=lambda pair: (-pair[1], pair[0]),
        )
    )


def _runs(conn: sa.Connection) -> list[dict[str, Any]]:
    names = (
        "id",
        "mode",
        "status",
        "started_at",
        "finished_at",
        "fetched",
        "inserted",
        "updated",
        "deleted",
        "restored",
        "rejected",
        "error",
    )
    last = (
        sa.select(*(sync_runs.c[name] for name in names))
        .order_by(sync_runs.c.id.desc())
        .limit(LAST_RUNS)
    )
    return [dict(line) for line in conn.execute(last).mappings()]
