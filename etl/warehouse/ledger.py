"""What was done when: `sync_runs`, `sync_scans`, and where an unfinished scan can go on."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from msgspec.structs import asdict, replace

from etl.domain.chains import MOST_LINKS
from etl.domain.counters import COUNTER_NAMES, Counters
from etl.domain.scope import Scope, overlap
from etl.domain.status import RunStatus, ScanStatus
from etl.errors import StageLost
from etl.warehouse import changed_fields
from etl.warehouse.statements import matching, of
from etl.warehouse.tables import scan_progress, sync_leases, sync_runs, sync_scans

# The ledger grows by a line per service every few minutes, for years; what was long ago is no guide
# anyhow.
_RECALLED_LINES = 2_000
_RECALLED_RUNS = 20
WITHOUT_A_WORD = "the process ended without a word"
_MOST_RIVALS = 5

_FINISH_SCAN = sa.update(sync_scans).where(matching(sync_scans, "id"))
_MOVE_PROGRESS = sa.update(scan_progress).where(matching(scan_progress, "stage_id"))
_PAGES = sa.select(scan_progress.c.pages).where(matching(scan_progress, "stage_id"))
_STAGES = sa.select(scan_progress.c.stage_id, scan_progress.c.scope).where(
    matching(scan_progress, "chat_service_sid")
)


class Beginning(msgspec.Struct, frozen=True):
    """How a run began."""

    mode: str
    version: str
    host: str
    run_group: str | None = None
    shard: str | None = None


class Ending(msgspec.Struct, frozen=True):
    """How a run or a scan ended."""

    status: str
    counters: Counters
    error: str | None = None
    complete: bool = False
    resumed: bool = False
    twilio_request_id: str | None = None
    changed_fields: Mapping[str, int] = msgspec.field(default_factory=dict)


class Published(NamedTuple):
    """What a scan has published."""

    counters: Counters
    changed_fields: Mapping[str, int]
    """In how many of the updated rows each content column differed."""


class Progress(msgspec.Struct, frozen=True):
    """Where an unfinished scan can go on."""

    stage_id: int
    next_link: str
    pages: int
    fetched: int
    rows_before: int = 0
    """Rows that lay before its chain when the listing was last read."""
    rows_read: int = 0
    """Rows that this chain had read before `next_link`."""
    first_page: str | None = None
    """How this chain began, for the one before it; None of the first chain."""


_YOUNG_ENOUGH = sa.select(*(scan_progress.c[name] for name in Progress.__struct_fields__)).where(
    scan_progress.c.updated_at >= sa.bindparam("not_before")
)
_PROGRESS = _YOUNG_ENOUGH.where(
    matching(scan_progress, "chat_service_sid", "scope", "account", "rules"),
    scan_progress.c.stage_id > 0,
).order_by(scan_progress.c.updated_at.desc())


def start_run(conn: sa.Connection, begun: Beginning, now: datetime) -> int:
    """Open the run's line; return its id."""
    line = {
        **asdict(begun),
        "status": RunStatus.RUNNING,
        "started_at": now,
        "dry_run": False,
    }
    return _insert(conn, sync_runs, line)


def finish_run(conn: sa.Connection, run_id: int, ending: Ending, now: datetime) -> None:
    """Close the run's line."""
    values = {
        "status": ending.status,
        "finished_at": now,
        "error": ending.error,
        **asdict(ending.counters),
    }
    conn.execute(sa.update(sync_runs).where(sync_runs.c.id == run_id).values(values))


def start_scan(conn: sa.Connection, run_id: int, scope: Scope, now: datetime) -> int:
    """Open the scan's line; return its id."""
    line = {
        "run_id": run_id,
        "account": scope.account,
        "chat_service_sid": scope.chat_service_sid,
        "scope": scope.label,
        "status": RunStatus.RUNNING,
        "complete": False,
        "resumed": False,
        "started_at": now,
    }
    return _insert(conn, sync_scans, line)


def finish_scan(conn: sa.Connection, scan_id: int, ending: Ending, now: datetime) -> None:
    """Close the scan's line."""
    values = {
        "status": ending.status,
        "complete": ending.complete,
        "resumed": ending.resumed,
        "finished_at": now,
        "error": ending.error,
        "twilio_request_id": ending.twilio_request_id,
        "changed_fields": changed_fields.encode(ending.changed_fields),
        **asdict(ending.counters),
    }
    conn.execute(_FINISH_SCAN, values | of(id=scan_id))


def read_group(
    conn: sa.Connection, run_group: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the lines of the runs of a group and of their scans, in order."""
    runs = sa.select(sync_runs).where(sync_runs.c.run_group == run_group).order_by(sync_runs.c.id)
    scans = (
        sa.select(sync_scans)
        .join(sync_runs, sync_runs.c.id == sync_scans.c.run_id)
        .where(sync_runs.c.run_group == run_group)
        .order_by(sync_scans.c.id)
    )
    found = [[dict(line) for line in conn.execute(query).mappings()] for query in (runs, scans)]
    return found[0], found[1]


def find_publication(conn: sa.Connection, scan_id: int) -> Published | None:
    """Return what a scan has published already: the answer to its commit may have been lost."""
    line = sa.select(sync_scans.c.changed_fields, *(sync_scans.c[name] for name in COUNTER_NAMES))
    line = line.where(
        sync_scans.c.id == scan_id,
        sync_scans.c.status.in_((ScanStatus.PUBLISHED, ScanStatus.REFUSED)),
    )
    found = conn.execute(line).first()
    if found is None:
        return None
    fields, *numbers = found
    return Published(Counters(*numbers), changed_fields.decode(fields))


def recall_sizes(conn: sa.Connection) -> dict[tuple[str, str], int]:
    """Return the rows that scopes had when they were last read completely, by service and label.

    Only the ledger's latest lines are looked at.
    """
    newest = sa.select(sa.func.max(sync_scans.c.id)).scalar_subquery()
    lines = sa.select(
        sync_scans.c.chat_service_sid, sync_scans.c.scope, sync_scans.c.fetched
    ).where(sync_scans.c.id > newest - _RECALLED_LINES, sync_scans.c.complete)
    return {
        (line.chat_service_sid, line.scope): line.fetched
        for line in conn.execute(lines.order_by(sync_scans.c.id))
    }


def close_abandoned_scans(
    conn: sa.Connection, run_ids: Collection[int], chat_service_sid: str, now: datetime
) -> None:
    """Mark the scans of a service that killed processes left as running."""
    conn.execute(
        sa.update(sync_scans)
        .where(
            sync_scans.c.run_id.in_(run_ids),
            sync_scans.c.status == ScanStatus.RUNNING,
            sync_scans.c.chat_service_sid == chat_service_sid,
        )
        .values(_killed(now))
    )


def close_abandoned(
    conn: sa.Connection, run_ids: Collection[int], scope: Scope, now: datetime
) -> None:
    """Mark what killed runs left as running: scans of this service, and runs without a lease."""
    close_abandoned_scans(conn, run_ids, scope.chat_service_sid, now)
    holding = sa.exists().where(
        sync_leases.c.run_id == sync_runs.c.id, sync_leases.c.expires_at > now
    )
    conn.execute(
        sa.update(sync_runs)
        .where(sync_runs.c.id.in_(run_ids), sync_runs.c.status == RunStatus.RUNNING, ~holding)
        .values(_killed(now))
    )


def close_orphaned(conn: sa.Connection, now: datetime, lease_seconds: float) -> None:
    """Mark runs whose death no lease tells: none was held, or only of a service that is gone.

    A live run that is taken for dead here, since it is long without a lease, still writes its own
    ending.
    """
    alive = sa.exists().where(
        sync_leases.c.run_id == sync_runs.c.id, sync_leases.c.expires_at > now
    )
    begun_long_ago = sync_runs.c.started_at < now - timedelta(seconds=lease_seconds)
    conn.execute(
        sa.update(sync_runs)
        .where(sync_runs.c.status == RunStatus.RUNNING, begun_long_ago, ~alive)
        .values(_killed(now))
    )
    over = sa.exists().where(
        sync_runs.c.id == sync_scans.c.run_id, sync_runs.c.status != RunStatus.RUNNING
    )
    conn.execute(
        sa.update(sync_scans)
        .where(sync_scans.c.status == ScanStatus.RUNNING, over)
        .values(_killed(now))
    )


def _killed(now: datetime) -> dict[str, object]:
    return {"status": ScanStatus.INTERRUPTED, "finished_at": now, "error": WITHOUT_A_WORD}


def find_killed(conn: sa.Connection, now: datetime, lease_seconds: float) -> set[int]:
    """Return the runs that stand as running though their process is gone.

    That is told by a lease that lapsed, or, of a run that holds none, by silence for
    `lease_seconds`.
    """
    lapsed = sa.exists().where(sync_leases.c.run_id == sync_runs.c.id)
    alive = sa.exists().where(
        sync_leases.c.run_id == sync_runs.c.id, sync_leases.c.expires_at > now
    )
    horizon = now - timedelta(seconds=lease_seconds)
    begun, ended = sync_scans.c.started_at, sync_scans.c.finished_at
    active = sa.exists().where(
        sync_scans.c.run_id == sync_runs.c.id, (begun >= horizon) | (ended >= horizon)
    )
    silent = (sync_runs.c.started_at < horizon) & ~active
    running = sync_runs.c.status == RunStatus.RUNNING
    found = sa.select(sync_runs.c.id).where(running, ~alive, lapsed | silent)
    return set(conn.execute(found).scalars())


def with_killed(
    lines: list[dict[str, Any]], killed: Collection[int], key: str = "id"
) -> list[dict[str, Any]]:
    """Return lines of runs, or of scans by run, as the next run will mark the killed ones."""
    ended = {"status": RunStatus.INTERRUPTED, "error": WITHOUT_A_WORD}
    return [
        line | ended if line[key] in killed and line["status"] == RunStatus.RUNNING else line
        for line in lines
    ]


def was_killed(line: Mapping[str, Any]) -> bool:
    """Return whether a run's or a scan's process ended without closing its line."""
    return bool(line["status"] == RunStatus.INTERRUPTED and line["error"] == WITHOUT_A_WORD)


def last_failures(conn: sa.Connection, services: int) -> dict[str, dict[str, Any]]:
    """Return by service its newest scan that failed, was interrupted or refused.

    Only the ledger's latest lines are looked at.
    """
    newest = sa.select(sa.func.max(sync_scans.c.id)).scalar_subquery()
    lines = max(_RECALLED_LINES, _RECALLED_RUNS * services)
    bad = (ScanStatus.FAILED, ScanStatus.INTERRUPTED, ScanStatus.REFUSED)
    last = (
        sa.select(sa.func.max(sync_scans.c.id))
        .where(sync_scans.c.id > newest - lines, sync_scans.c.status.in_(bad))
        .group_by(sync_scans.c.chat_service_sid)
    )
    columns = ("chat_service_sid", "status", "error", "started_at", "finished_at")
    query = sa.select(*(sync_scans.c[name] for name in columns)).where(sync_scans.c.id.in_(last))
    return {line["chat_service_sid"]: dict(line) for line in conn.execute(query).mappings()}


def find_rivals(conn: sa.Connection, now: datetime, own_run: int | None) -> list[str]:
    """Return the latest unfinished runs: at work, killed or frozen."""
    silent = (sync_runs.c.error == WITHOUT_A_WORD) & (
        sync_runs.c.finished_at > now - timedelta(days=1)
    )
    rivals = sa.select(sync_runs.c.id, sync_runs.c.host, sync_runs.c.status).where(
        (sync_runs.c.status == RunStatus.RUNNING) | silent, sync_runs.c.id != (own_run or 0)
    )
    found = conn.execute(rivals.order_by(sync_runs.c.id.desc()).limit(_MOST_RIVALS))
    return [
        f"run {run_id} on {host}{'' if status == 'running' else ' (silent)'}"
        for run_id, host, status in found
    ]


def save_progress(
    conn: sa.Connection, scope: Scope, rules: str, progress: Progress, now: datetime
) -> None:
    """Write the line from which a scan can be resumed."""
    if is_there(conn, progress.stage_id):
        move_progress(conn, progress, now)
    else:
        insert_progress(conn, scope, rules, progress, now)


def insert_progress(
    conn: sa.Connection, scope: Scope, rules: str, progress: Progress, now: datetime
) -> None:
    """Insert the line of a stage that has none yet."""
    line = {
        **asdict(progress),
        "account": scope.account,
        "chat_service_sid": scope.chat_service_sid,
        "scope": scope.label,
        "rules": rules,
        "updated_at": now,
    }
    conn.execute(sa.insert(scan_progress), line)


def move_progress(conn: sa.Connection, progress: Progress, now: datetime) -> None:
    """Update how far a scan has got, in the transaction of the batch that got there."""
    moved = {
        "next_link": progress.next_link,
        "pages": progress.pages,
        "fetched": progress.fetched,
        "rows_before": progress.rows_before,
        "rows_read": progress.rows_read,
        "updated_at": now,
    }
    conn.execute(_MOVE_PROGRESS, moved | of(stage_id=progress.stage_id))


def require_progress(conn: sa.Connection, stage_id: int) -> int:
    """Make sure that what this scan has staged is still there; return how many pages that is.

    Raises:
        StageLost: PostgreSQL empties UNLOGGED tables when it crashes, and a standby that takes over
            never had their rows. Whoever went on would publish the rest of a scan as the whole,
            and take what came before for gone.
    """
    pages = find_pages(conn, stage_id)
    if pages is None:
        raise StageLost(
            "the warehouse crashed and lost what this scan had read; nothing was published, the "
            "next run reads the service again"
        )
    return pages


def is_there(conn: sa.Connection, stage_id: int) -> bool:
    """Return whether anything is staged under this id."""
    return find_pages(conn, stage_id) is not None


def find_pages(conn: sa.Connection, stage_id: int) -> int | None:
    """Return how many pages had been read when this stage got its last batch."""
    pages: int | None = conn.scalar(_PAGES, of(stage_id=stage_id))
    return pages


def stage_apart(stage_id: int, chain: int) -> int:
    """Return the id under which a chain of a scan is staged before it is linked.

    Ids of scans are positive; below zero each has room for its chains.
    """
    return -(stage_id * (MOST_LINKS + 1) + chain)


def scan_of(stage_id: int) -> int:
    """Return the scan whose stage this is, or whose chain's."""
    return stage_id if stage_id > 0 else -stage_id // (MOST_LINKS + 1)


def find_progress(
    conn: sa.Connection, scope: Scope, rules: str, not_before: datetime
) -> list[Progress]:
    """Return how far scans of this scope, by the same rules, have got, the youngest first.

    Where its `next_link` is empty, the first chain of a scan has to begin anew.
    """
    service, account = scope.chat_service_sid, scope.account
    mine = of(chat_service_sid=service, scope=scope.label, account=account, rules=rules)
    found = conn.execute(_PROGRESS, mine | {"not_before": not_before})
    return [_read_progress(line) for line in found.mappings()]


def find_apart(conn: sa.Connection, stage_id: int, not_before: datetime) -> dict[int, Progress]:
    """Return the chains of a scan that were not linked and can go on, by their numbers."""
    first, last = stage_apart(stage_id, 1), stage_apart(stage_id, MOST_LINKS)
    query = _YOUNG_ENOUGH.where(
        scan_progress.c.stage_id.between(last, first), scan_progress.c.next_link != ""
    )
    found = conn.execute(query, {"not_before": not_before})
    lines = (_read_progress(line) for line in found.mappings())
    return {first - line.stage_id + 1: line for line in lines}


def _read_progress(line: sa.RowMapping) -> Progress:
    """Return a line as progress."""
    found = Progress(**line)
    # One that was written before there were chains has no figures of one.
    return replace(found, rows_before=found.rows_before or 0, rows_read=found.rows_read or 0)


def overlapping_stages(
    conn: sa.Connection, scope: Scope, *, besides: int | None = None
) -> list[int]:
    """Return stages of scopes that overlap this one: once it publishes, theirs are outdated."""
    mine = of(chat_service_sid=scope.chat_service_sid)
    return [
        stage_id
        for stage_id, label in conn.execute(_STAGES, mine)
        if stage_id != besides and overlap(label, scope.label)
    ]


def same_scope_stages(conn: sa.Connection, scope: Scope, *, besides: Collection[int]) -> list[int]:
    """Return stages that earlier scans of the same scope left behind."""
    mine = of(chat_service_sid=scope.chat_service_sid)
    return [
        stage_id
        for stage_id, label in conn.execute(_STAGES, mine)
        if stage_id not in besides and label == scope.label
    ]


def resume_horizon(now: datetime, seconds: float) -> datetime:
    """Return the time before which interrupted scans are not resumed."""
    return now - timedelta(seconds=seconds)


def _insert(conn: sa.Connection, table: sa.Table, values: dict[str, object]) -> int:
    key = conn.execute(sa.insert(table), values).inserted_primary_key
    assert key is not None  # noqa: S101 - one row was inserted
    return int(key[0])
