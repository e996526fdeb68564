"""What the report shows, as plain data. Counted by the warehouse; no identity and no endpoint is among it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import chain, pairwise
from typing import Any, NamedTuple

import sqlalchemy as sa

from etl.warehouse import drift
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
    drift: list[dict[str, Any]]


class _Group(NamedTuple):
    """Bindings that have all of this in common."""

    account: str
    chat_service_sid: str
    binding_type: str | None
    age: int
    """Place among the labels of ages."""
    active: int
    """1 or 0."""
    number: int
    first_seen_at: datetime

    @property
    def kind(self) -> str:
        return self.binding_type or "none"


def read_figures(conn: sa.Connection, now: datetime) -> Figures:
    """Count everything in one connection."""
    _give_room(conn)
    groups = _groups(conn, now)
    return Figures(
        now=now,
        services=_services(conn, groups),
        days=_days(conn, now, groups),
        ages=_ages(groups),
        reachability=_reachability(conn),
        rejects=_rejects(conn),
        runs=_runs(conn),
        drift=drift.read(conn),
    )


def _give_room(conn: sa.Connection) -> None:
    """Let PostgreSQL group in memory what its usual 4 MB make it sort on disk, at twice the cost."""
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql(
            "SELECT set_config('work_mem', '64MB', true) "
            "WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('64MB')"
        )


def _groups(conn: sa.Connection, now: datetime) -> list[_Group]:
    """All bindings, read once: a pass over millions of them takes seconds."""
    table = bindings.c
    steps = [
        (table.date_updated >= now - timedelta(days=days), age) for age, days in enumerate(AGES)
    ]
    by_row = sa.select(
        table.account,
        table.chat_service_sid,
        table.binding_type,
        sa.case((table.date_updated.is_(None), len(AGES) + 1), *steps, else_=len(AGES)).label(
            "age"
        ),
        sa.case((table.deleted_at.is_(None), 1), else_=0).label("active"),
        table.first_seen_at,
    ).subquery()
    *common, first_seen_at = by_row.c
    counted = sa.select(*common, sa.func.count(), sa.func.min(first_seen_at)).group_by(*common)
    return [_Group._make(line) for line in conn.execute(counted)]


def _services(conn: sa.Connection, groups: Iterable[_Group]) -> list[Service]:
    by_type: dict[str, Counts] = {}
    for group in groups:
        if group.active:
            counts = by_type.setdefault(group.chat_service_sid, {})
            counts[group.kind] = counts.get(group.kind, 0) + group.number
    lines = conn.execute(sa.select(service_freshness)).mappings()
    services = [
        Service(**line, by_type=by_type.get(line["chat_service_sid"], {})) for line in lines
    ]
    return sorted(
        services, key=lambda service: (-service.active, service.account, service.chat_service_sid)
    )


def _days(conn: sa.Connection, now: datetime, groups: Iterable[_Group]) -> list[Day]:
    """The last days, those without a change too."""
    first = (now - timedelta(days=DAYS - 1)).replace(hour=0, minute=0, second=0, microsecond=0)
    days: dict[date, Counts] = {
        (first + timedelta(days=number)).date(): {} for number in range(DAYS)
    }
    counted = chain(_new_per_day(conn, first, groups), _changes_per_day(conn, first))
    for change, day, number in counted:
        if day in days:
            days[day][change] = days[day].get(change, 0) + number
    return [Day(day, counts) for day, counts in days.items()]


def _new_per_day(
    conn: sa.Connection, first: datetime, groups: Iterable[_Group]
) -> Iterator[tuple[str, date, int]]:
    """Bindings by the day they were first seen.

    Those of a service's first day are its first load and no change.
    """
    loaded: dict[str, datetime] = {}
    for group in groups:
        known = loaded.get(group.chat_service_sid, group.first_seen_at)
        loaded[group.chat_service_sid] = min(known, group.first_seen_at)
    by = [bindings.c.chat_service_sid, *_date_parts(bindings.c.first_seen_at)]
    counted = _count_by(by).where(bindings.c.first_seen_at >= first)
    for sid, year, month, day, number in conn.execute(counted):
        seen_on = date(int(year), int(month), int(day))
        if sid in loaded and seen_on != loaded[sid].date():
            yield "inserted", seen_on, number


def _changes_per_day(conn: sa.Connection, first: datetime) -> Iterator[tuple[str, date, int]]:
    past = binding_versions.c
    by = [past.change, *_date_parts(past.valid_to)]
    # Each kind is named, since the index begins with it.
    recent = past.change.in_(("updated", "restored", "deleted")) & (past.valid_to >= first)
    for change, year, month, day, number in conn.execute(_count_by(by).where(recent)):
        yield change, date(int(year), int(month), int(day)), number


def _count_by(columns: list[sa.ColumnElement[Any]]) -> sa.Select[Any]:
    shown: list[sa.ColumnElement[Any]] = [*columns, sa.func.count()]
    return sa.select(*shown).group_by(*columns)


def _date_parts(moment: sa.ColumnElement[Any]) -> list[sa.ColumnElement[Any]]:
    """Year, month and day: each engine has its own way to cut a time to its date, and all can extract."""
    return [sa.extract(part, moment) for part in ("year", "month", "day")]


def _ages(groups: Iterable[_Group]) -> dict[str, Counts]:
    labels = [*_age_labels(), "no date"]
    ages: dict[str, Counts] = {label: {} for label in labels}
    for group in groups:
        if group.active:
            counts = ages[labels[group.age]]
            counts[group.kind] = counts.get(group.kind, 0) + group.number
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
