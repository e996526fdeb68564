"""What `status` shows: the state of the warehouse in a few small lists."""

from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from etl.warehouse import drift, leases, ledger
from etl.warehouse.engines.base import Engine
from etl.warehouse.tables import rejected_bindings, sync_runs
from etl.warehouse.views import service_freshness

LAST_RUNS = 10
_RUN = (
    "id", "mode", "status", "started_at", "finished_at", "fetched", "inserted", "updated",
    "deleted", "restored", "rejected", "error",
)  # fmt: skip


class Overview(msgspec.Struct, frozen=True):
    """Lists of plain lines, ready to be shown."""

    services: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    leases: list[dict[str, Any]]
    drift: list[dict[str, Any]]
    failures: dict[str, dict[str, Any]]
    """By service, its newest scan that did not do all it should."""
    read_at: datetime
    """By the warehouse's clock, as all the times are."""


def read_overview(
    conn: sa.Connection, engine: Engine, lease_seconds: float, last_runs: int = LAST_RUNS
) -> Overview:
    """Read everything in one connection."""
    now = engine.now(conn)
    services = read_freshness(conn)
    runs = _lines(
        conn,
        sa.select(*(sync_runs.c[name] for name in _RUN))
        .order_by(sync_runs.c.id.desc())
        .limit(last_runs),
    )
    return Overview(
        services=services,
        runs=ledger.with_killed(runs, ledger.find_killed(conn, now, lease_seconds)),
        rejects=_lines(conn, _open_rejects()),
        leases=[_lease(one) for one in leases.live(conn, engine)],
        drift=drift.read(conn),
        failures=ledger.last_failures(conn, len(services)),
        read_at=now,
    )


def _lease(one: sa.Row[Any]) -> dict[str, Any]:
    return {
        "chat_service_sid": one.chat_service_sid,
        "scope": one.scope,
        "run_id": one.run_id,
        "host": one.host,
        "until": one.expires_at,
    }


def read_freshness(conn: sa.Connection) -> list[dict[str, Any]]:
    """Return the lines of the view `service_freshness`, in order."""
    return _lines(
        conn,
        sa.select(service_freshness).order_by(
            service_freshness.c.account, service_freshness.c.chat_service_sid
        ),
    )


def _open_rejects() -> sa.Select[Any]:
    table = rejected_bindings.c
    group = (table.chat_service_sid, table.reason)
    counted = sa.select(
        *group, sa.func.count().label("rows"), sa.func.max(table.last_seen_at).label("last_seen_at")
    )
    return counted.where(table.resolved_at.is_(None)).group_by(*group).order_by(*group)


def _lines(conn: sa.Connection, query: sa.Select[Any]) -> list[dict[str, Any]]:
    return [dict(line) for line in conn.execute(query).mappings()]
