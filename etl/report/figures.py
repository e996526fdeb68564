"""What the report shows, as plain data, counted by the warehouse: no identity and no endpoint."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from etl.warehouse import drift, ledger
from etl.warehouse.tables import bindings, rejected_bindings, sync_runs
from etl.warehouse.views import service_freshness

DAYS = 30
GROWTH_DAYS = 180
LAST_RUNS = 15
MOST_DEVICES = 5
MOST_SHARED = 20

# Days without an update, up to which a binding counts as of that age.
AGES = (30, 90, 270, 365)

_reachability = sa.table(
    "identity_reachability",
    *(sa.column(name, sa.BigInteger) for name in ("apn", "fcm", "gcm", "other")),
)
_daily_changes = sa.table(
    "daily_changes",
    sa.column("day", sa.Date),
    *(
        sa.column(name, sa.BigInteger)
        for name in ("first_loaded", "inserted", "restored", "updated", "deleted")
    ),
)
_shared_endpoints = sa.table(
    "shared_endpoints",
    *(sa.column(name, sa.String) for name in ("group_sid", "sid")),
    *(sa.column(name, sa.BigInteger) for name in ("bindings", "identities", "services")),
)

Counts = dict[str, int]


class Service(msgspec.Struct, frozen=True):
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
    failure: str | None
    """Why a reading since the last complete one did not do all it should."""


class Day(NamedTuple):
    """What changed on one day (UTC)."""

    day: date
    changes: Counts
    active: int
    """Bindings at its end."""


class UnusualSet(NamedTuple):
    """Bindings of a service that have another set of message types than most of it."""

    chat_service_sid: str
    message_types: list[str] | None
    number: int


class SharedEndpoint(NamedTuple):
    """One endpoint that several identities have, named by the smallest of its SIDs."""

    group_sid: str
    bindings: int
    identities: int
    services: int


class Shared(msgspec.Struct, frozen=True):
    """Endpoints of several identities: how many there are, and the worst of them."""

    endpoints: int = 0
    bindings: int = 0
    worst: Sequence[SharedEndpoint] = ()


class Figures(msgspec.Struct, frozen=True):
    """Everything the page shows."""

    now: datetime
    services: list[Service]
    days: list[Day]
    """From the first change on, at most `GROWTH_DAYS`, those without a change too."""
    ages: dict[str, Counts]
    """Bucket of age → active bindings by type."""
    reach: Counts
    devices: Counts
    coverage: Counts
    """Message type → active bindings that are subscribed to it."""
    unusual: list[UnusualSet]
    credentials: dict[str, Counts]
    """Credential, or an empty text → active bindings by type."""
    shared: Shared
    rejects: Counts
    runs: list[dict[str, Any]]
    drift: list[dict[str, Any]]

    @property
    def active(self) -> int:
        """Active bindings of all services."""
        return sum(service.active for service in self.services)


class _Group(NamedTuple):
    """Active bindings that have all of this in common."""

    chat_service_sid: str
    binding_type: str | None
    credential_sid: str | None
    age: int
    """Place among the labels of ages."""
    number: int

    @property
    def kind(self) -> str:
        return self.binding_type or "none"


def read_figures(conn: sa.Connection, now: datetime) -> Figures:
    """Count everything in one connection."""
    # These first: with more room PostgreSQL would not have several processes do it.
    changes = _changes_by_day(conn)
    shared = _shared(conn)
    _give_room(conn)
    groups = _groups(conn, now)
    coverage, unusual = _message_types(conn)
    reach, devices = _identities(conn)
    return Figures(
        now=now,
        services=_services(conn, groups),
        days=_days(changes, now.date(), sum(group.number for group in groups)),
        ages=_ages(groups),
        reach=reach,
        devices=devices,
        coverage=coverage,
        unusual=unusual,
        credentials=_count_kinds((group.credential_sid or "", group) for group in groups),
        shared=shared,
        rejects=_rejects(conn),
        runs=_runs(conn),
        drift=drift.read(conn),
    )


def _give_room(conn: sa.Connection) -> None:
    """Let PostgreSQL group in memory what it else sorts on disk, at twice the cost."""
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
    age = sa.case((table.date_updated.is_(None), len(AGES) + 1), *steps, else_=len(AGES))
    by_row = (
        sa.select(
            table.chat_service_sid, table.binding_type, table.credential_sid, age.label("age")
        )
        .where(table.deleted_at.is_(None))
        .subquery()
    )
    counted = sa.select(*by_row.c, sa.func.count()).group_by(*by_row.c)
    return [_Group._make(line) for line in conn.execute(counted)]


def _count_kinds(places: Iterable[tuple[str, _Group]]) -> dict[str, Counts]:
    """Bindings by type, of each place."""
    counted: dict[str, Counts] = {}
    for place, group in places:
        counts = counted.setdefault(place, {})
        counts[group.kind] = counts.get(group.kind, 0) + group.number
    return counted


def _services(conn: sa.Connection, groups: Iterable[_Group]) -> list[Service]:
    by_type = _count_kinds((group.chat_service_sid, group) for group in groups)
    lines = list(conn.execute(sa.select(service_freshness)).mappings())
    failures = ledger.last_failures(conn, len(lines))
    services = [
        Service(
            **line,
            by_type=by_type.get(line["chat_service_sid"], {}),
            failure=_failure(failures.get(line["chat_service_sid"]), line["last_complete_at"]),
        )
        for line in lines
    ]
    return sorted(
        services, key=lambda service: (-service.active, service.account, service.chat_service_sid)
    )


def _failure(scan: dict[str, Any] | None, last_complete_at: datetime | None) -> str | None:
    if scan is None or (last_complete_at and scan["started_at"] < last_complete_at):
        return None
    return str(scan["error"] or scan["status"])


def _changes_by_day(conn: sa.Connection) -> dict[date, Counts]:
    names = [column.name for column in _daily_changes.c if column.name != "day"]
    day = _daily_changes.c.day
    query = sa.select(day, *(sa.func.sum(_daily_changes.c[name]) for name in names)).group_by(day)
    return {
        line[0]: {name: int(number) for name, number in zip(names, line[1:], strict=True)}
        for line in conn.execute(query)
    }


def _days(changes: Mapping[date, Counts], today: date, active: int) -> list[Day]:
    """Counted back from what is there today, so that what was purged bends nothing."""
    oldest = max(min(changes, default=today), today - timedelta(days=GROWTH_DAYS - 1))
    found = []
    for ago in range((today - oldest).days + 1):
        one = today - timedelta(days=ago)
        counts = changes.get(one, {})
        found.append(Day(one, counts, active))
        came = sum(counts.get(name, 0) for name in ("first_loaded", "inserted", "restored"))
        active -= came - counts.get("deleted", 0)
    return found[::-1]


def _ages(groups: Iterable[_Group]) -> dict[str, Counts]:
    labels = [*_age_labels(), "no date"]
    counted = _count_kinds((labels[group.age], group) for group in groups)
    shown = labels if "no date" in counted else labels[:-1]
    return {label: counted.get(label, {}) for label in shown}


def _age_labels() -> list[str]:
    between = [f"{low}-{high} days" for low, high in pairwise(AGES)]
    return [f"under {AGES[0]} days", *between, f"over {AGES[-1]} days"]


def _message_types(conn: sa.Connection) -> tuple[Counts, list[UnusualSet]]:
    """How many bindings have each type, and which sets are not the usual one of their service."""
    table = bindings.c
    counted = (
        sa.select(table.chat_service_sid, sa.cast(table.message_types, sa.Text), sa.func.count())
        .where(table.deleted_at.is_(None))
        .group_by(table.chat_service_sid, table.message_types)
    )
    sets = [
        UnusualSet(service, None if types is None else msgspec.json.decode(types), number)
        for service, types, number in conn.execute(counted)
    ]
    coverage: Counter[str] = Counter()
    usual: dict[str, int] = {}
    for one in sets:
        coverage.update(dict.fromkeys(one.message_types or (), one.number))
        usual[one.chat_service_sid] = max(usual.get(one.chat_service_sid, 0), one.number)
    unusual = [one for one in sets if one.number < usual[one.chat_service_sid]]
    return dict(coverage.most_common()), sorted(unusual, key=lambda one: (-one.number, str(one)))


def _identities(conn: sa.Connection) -> tuple[Counts, Counts]:
    """Identities by the kinds of push that reach them, and by how many devices they have."""
    by = _reachability.c
    total = by.apn + by.fcm + by.gcm + by.other
    by_row = sa.select(
        sa.case((by.apn > 0, 1), else_=0).label("apple"),
        sa.case((by.fcm + by.gcm > 0, 1), else_=0).label("google"),
        sa.case((total < MOST_DEVICES, total), else_=MOST_DEVICES).label("devices"),
    ).subquery()
    kinds = {
        (1, 1): "Apple and Google",
        (1, 0): "Apple only",
        (0, 1): "Google only",
        (0, 0): "no push",
    }
    reach, devices = dict.fromkeys(kinds.values(), 0), dict.fromkeys(_device_labels(), 0)
    counted = sa.select(*by_row.c, sa.func.count().label("people")).group_by(*by_row.c)
    for line in conn.execute(counted):
        reach[kinds[line.apple, line.google]] += line.people
        devices[_device_labels()[int(line.devices) - 1]] += line.people
    return reach, devices


def _device_labels() -> list[str]:
    single = [f"{number} device{'s' if number > 1 else ''}" for number in range(1, MOST_DEVICES)]
    return [*single, f"{MOST_DEVICES} or more"]


def _shared(conn: sa.Connection) -> Shared:
    view = _shared_endpoints.c
    worst = (
        sa.select(
            view.group_sid,
            view.bindings,
            view.identities,
            view.services,
            sa.func.count().over().label("endpoints"),
            sa.func.sum(view.bindings).over().label("all_bindings"),
        )
        .where(view.sid == view.group_sid)
        .order_by(view.identities.desc(), view.bindings.desc(), view.group_sid)
        .limit(MOST_SHARED)
    )
    lines = conn.execute(worst).all()
    if not lines:
        return Shared()
    shown = [
        SharedEndpoint(one.group_sid, one.bindings, one.identities, one.services) for one in lines
    ]
    return Shared(int(lines[0].endpoints), int(lines[0].all_bindings), shown)


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
        "id", "mode", "status", "started_at", "finished_at", "fetched", "inserted", "updated",
        "deleted", "restored", "rejected", "error",
    )  # fmt: skip
    last = (
        sa.select(*(sync_runs.c[name] for name in names))
        .order_by(sync_runs.c.id.desc())
        .limit(LAST_RUNS)
    )
    return [dict(line) for line in conn.execute(last).mappings()]
