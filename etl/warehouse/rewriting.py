"""Stored rows brought under other privacy rules, a portion at a time.

A portion is read and locked, rewritten by the functions that scans use, and put back in bulk by way
of the stage. Neither `changed_at` nor the history is touched: nothing has changed at Twilio.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from etl.domain.binding import Row
from etl.domain.normalize import STALE, hash_content, restore_json
from etl.domain.privacy import Rewriting
from etl.domain.timestamps import format_utc
from etl.warehouse import quarantine, staging
from etl.warehouse.engines.base import Engine
from etl.warehouse.privacy_rules import Position
from etl.warehouse.tables import (
    CARRIED,
    CONTENT,
    binding_versions,
    bindings,
    json_as_text,
    rejected_bindings,
    scan_staged,
)

AT_ONCE = 5_000

_KEYS: dict[str, sa.Column[Any]] = {
    "bindings": bindings.c.sid,
    "binding_versions": binding_versions.c.id,
    "rejected_bindings": rejected_bindings.c.id,
}
TABLES = tuple(_KEYS)
"""What is rewritten, in this order."""

_JSON = tuple(CONTENT.index(name) for name in ("message_types", "extra"))
_MOMENTS = tuple(CONTENT.index(name) for name in ("date_created", "date_updated"))

_STAGE_ID = 0  # no scan has it


class Tally(msgspec.Struct):
    """What became of the rows of a table."""

    rewritten: int = 0
    left: int = 0
    """Rows whose new form only the API can give."""

    def add(self, more: "Tally") -> None:
        """Count more rows."""
        self.rewritten += more.rewritten
        self.left += more.left


class Step(NamedTuple):
    """What came of a portion, and where to go on; None when all tables are done."""

    tally: Tally
    position: Position | None


def rewrite_some(
    conn: sa.Connection,
    engine: Engine,
    position: Position,
    rewriting: Rewriting,
    run_id: int | None,
) -> Step:
    """Rewrite a portion of a table's rows; without a run only count what that would do."""
    key = _KEYS[position.at_table]
    is_quarantine = key.table is rejected_bindings
    query = _select_rejects() if is_quarantine else _select_content(key)
    if position.at_key is not None:
        query = query.where(key > (position.at_key if key.name == "sid" else int(position.at_key)))
    if run_id is not None and not engine.single_writer:
        query = query.with_for_update()
    lines = conn.execute(query.order_by(key).limit(AT_ONCE)).all()
    if is_quarantine:
        tally = _rewrite_rejects(conn, lines, rewriting, writes=run_id is not None)
    else:
        tally = _rewrite_content(conn, engine, lines, rewriting, run_id)
    return Step(tally, _following(position, lines))


def _following(position: Position, lines: Sequence[sa.Row[Any]]) -> Position | None:
    if len(lines) == AT_ONCE:
        return Position(position.at_table, str(lines[-1].key))
    rest = TABLES[TABLES.index(position.at_table) + 1 :]
    return Position(rest[0]) if rest else None


def _select_content(key: sa.Column[Any]) -> sa.Select[Any]:
    return sa.select(*(json_as_text(key.table.c[name]) for name in CONTENT), key.label("key"))


def _select_rejects() -> sa.Select[Any]:
    return sa.select(rejected_bindings.c.payload, rejected_bindings.c.id.label("key"))


def _rewrite_content(
    conn: sa.Connection,
    engine: Engine,
    lines: Sequence[sa.Row[Any]],
    rewriting: Rewriting,
    run_id: int | None,
) -> Tally:
    tally = Tally()
    met: Counter[str] = Counter()
    staged: defaultdict[int, list[Row]] = defaultdict(list)
    for line in lines:
        content = _as_normalized(line)
        rewritten = rewriting.rewrite(content)
        # Of images of one binding each stands in a batch of its own: a batch holds a SID once.
        met[line.sid] += 1
        if rewritten != content:
            # The source hash of before was made of plain names: it might tell them to who guesses.
            row = Row._make((*rewritten, hash_content(rewritten), STALE))
            staged[met[line.sid]].append(row)
        tally.left += rewriting.leaves(line.identity, line.endpoint)
    tally.rewritten = sum(map(len, staged.values()))
    if run_id is not None and staged:
        for place, rows in staged.items():
            engine.stage(conn, _STAGE_ID, place, rows)
        _put_back(conn, engine, lines[0].key, lines[-1].key, run_id)
        staging.discard(conn, [_STAGE_ID])
    return tally


def _as_normalized(line: sa.Row[Any]) -> tuple[Any, ...]:
    """Return the content as normalizing has made it, whatever the engine has made of that."""
    content = list(line[: len(CONTENT)])
    for place in _JSON:
        if content[place] is not None:
            content[place] = restore_json(content[place])
    for place in _MOMENTS:
        if content[place] is not None:
            content[place] = format_utc(content[place])
    return tuple(content)


def _put_back(
    conn: sa.Connection, engine: Engine, first: str | int, last: str | int, run_id: int
) -> None:
    """Overwrite the rows of a portion by what is staged of them; its ends keep the join short."""
    if isinstance(first, str):
        _put_back_bindings(conn, engine, bindings.c.sid.between(first, last), run_id)
    else:
        _put_back_versions(conn, engine, binding_versions.c.id.between(first, last))


def _put_back_bindings(
    conn: sa.Connection, engine: Engine, portion: sa.ColumnElement[bool], run_id: int
) -> None:
    kept = ("first_seen_at", "changed_at", "deleted_at")
    rows = sa.select(
        *(scan_staged.c[name] for name in CARRIED),
        *(bindings.c[name] for name in kept),
        sa.literal(run_id, sa.BigInteger),
    ).join_from(bindings, scan_staged, bindings.c.sid == scan_staged.c.sid)
    rows = rows.where(portion, scan_staged.c.stage_id == _STAGE_ID)
    conn.execute(engine.insert_or_update(bindings, (*CARRIED, *kept, "run_id"), rows))


def _put_back_versions(
    conn: sa.Connection, engine: Engine, portion: sa.ColumnElement[bool]
) -> None:
    made = (*CONTENT, "content_hash")
    kept = ("first_seen_at", "valid_from", "valid_to", "change", "run_id")
    place = sa.func.row_number().over(
        partition_by=binding_versions.c.sid, order_by=binding_versions.c.id
    )
    images = sa.select(
        binding_versions.c.id,
        binding_versions.c.sid,
        *(binding_versions.c[name] for name in kept),
        place.label("place"),
    )
    images_of = images.where(portion).subquery("images")
    is_same = (scan_staged.c.sid == images_of.c.sid) & (scan_staged.c.batch == images_of.c.place)
    rows = sa.select(
        images_of.c.id,
        *(scan_staged.c[name] for name in made),
        *(images_of.c[name] for name in kept),
    ).join_from(images_of, scan_staged, is_same)
    rows = rows.where(scan_staged.c.stage_id == _STAGE_ID)
    conn.execute(engine.insert_or_update(binding_versions, ("id", *made, *kept), rows))


def _rewrite_rejects(
    conn: sa.Connection, lines: Sequence[sa.Row[Any]], rewriting: Rewriting, *, writes: bool
) -> Tally:
    tally = Tally(left=len(lines) if rewriting.lost else 0)
    for line in lines:
        payload = rewriting.rewrite_payload(line.payload)
        if payload == line.payload:
            continue
        tally.rewritten += 1
        if writes:
            quarantine.replace_payload(conn, line.key, payload)
    return tally
