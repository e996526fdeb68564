"""A dry run's sink: compares like the other one, counts what would change, and writes nothing.

What was seen is kept in a scratch database that vanishes with the run, so that the warehouse is
only read and memory stays flat.
"""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar, NamedTuple

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from etl import errors
from etl.domain.binding import HashedRow
from etl.domain.chains import ChainStart, PageLink
from etl.domain.counters import Counters
from etl.domain.guard import Sample, draw_sample
from etl.domain.normalize import Normalizer
from etl.domain.rejection import Rejections
from etl.domain.scope import Scope
from etl.sync.compare import Difference, compare
from etl.sync.context import Context
from etl.sync.prefetch import Batch
from etl.sync.steps import Absences, DeleteDecision, Kept, Opened, Reading
from etl.warehouse import changed_fields, staging
from etl.warehouse.engines.base import Engine
from etl.warehouse.ledger import Ending, Published
from etl.warehouse.publishing import count_taken_out


class _Planned(NamedTuple):
    """What a batch would do."""

    found: Difference
    taken_out: int
    """How many of its new bindings a hard delete had taken out."""
    changed_fields: Mapping[str, int]


class PreviewSink:
    """See `Sink`."""

    writes: ClassVar[bool] = False

    def __init__(self, context: Context, normalizer: Normalizer, scope: Scope) -> None:
        self._warehouse = context.warehouse
        self._normalizer = normalizer
        self._scope = scope
        self._identities = normalizer.stored_identities(scope)
        self._counted = Counters()
        self._changed_fields: Counter[str] = Counter()
        self._absent = 0
        self._seen = _SeenSids()

    def open(self, most_chains: int) -> Opened:
        self._seen.open()
        return Opened()

    def find_links(self, page_size: int) -> Sequence[PageLink]:
        """Return none: what is counted at once cannot be kept apart, so one chain reads it all."""
        return ()

    def start_over(self) -> None:
        """Do nothing: a dry run resumes nothing."""

    def keep(self, batch: Batch) -> Kept:
        hashed, unreadable = self._normalizer.hash_rows(batch.rows)
        new = [hashed[sid] for sid in self._seen.add(hashed)]
        seen = self._count(new).plus(0, [one.reason for one in unreadable], [])
        return Kept(len(unreadable), seen, next(reversed(hashed), None))

    def _count(self, hashed: Collection[HashedRow]) -> Rejections:
        if not hashed:
            return Rejections()
        found, taken_out, fields = self._warehouse.read(lambda conn: self._plan(conn, hashed))
        self._counted.add(_count_changes(found, taken_out, len(hashed)))
        self._changed_fields.update(fields)
        return Rejections().plus(
            len(hashed) - len(found.rejects),
            [one.reason for one in found.rejects],
            found.rejected_active,
        )

    def _plan(self, conn: sa.Connection, hashed: Collection[HashedRow]) -> _Planned:
        engine = self._warehouse.engine
        found = compare(conn, engine, self._normalizer, hashed, self._scope)
        new = {row.sid for row in found.changed if found.stored[row.sid].content_hash is None}
        taken_out = count_taken_out(conn, engine, [one for one in hashed if one.sid in new])
        return _Planned(found, taken_out, _count_fields(conn, engine, found, hashed))

    def link(self, chains: Sequence[int], start: ChainStart) -> None:
        """There is one chain."""

    def drop(self, chain: int) -> None:
        """There is one chain."""

    def count_expected(self) -> int:
        return self._warehouse.read(
            lambda conn: staging.count_in_scope(conn, self._scope, self._identities)
        )

    def list_absent(self, *, proven: bool, parts: int) -> Absences:
        if not proven:
            return Absences()
        missed = self._warehouse.read(self._list_absent)
        self._absent = missed.absent
        return missed

    def _list_absent(self, conn: sa.Connection) -> Absences:
        self._seen.forget_absent()  # when a lost connection lets all of this be done again
        expected = staging.iterate_active(conn, self._scope, self._identities)
        absent = sum(self._seen.list_unseen(sids) for sids in expected)
        return Absences(absent, staging.count_active(conn, self._scope.chat_service_sid))

    def sample_absent(self, limit: int) -> Sample:
        return draw_sample(self._seen.absent(), limit)

    def publish_if_none_absent(
        self, reading: Reading, decision: DeleteDecision, counters: Counters, *, proven: bool
    ) -> Published | Absences:
        missed = self.list_absent(proven=proven, parts=1)
        return missed if missed.absent else self.publish(reading, decision, counters)

    def publish(self, reading: Reading, decision: DeleteDecision, counters: Counters) -> Published:
        """Return what would change; nothing is written."""
        if decision.deletes:
            kept = len(decision.alive) + len(decision.unknown)
            self._counted.deleted = self._absent - kept
        alive, _ = self._normalizer.hash_rows(list(decision.alive))
        rejected = self._count(alive.values()).rejected
        counted = replace(counters)
        counted.add(self._counted)
        counted.rejected = counters.rejected + rejected
        return Published(counted, self._changed_fields)

    def abandon(self, ending: Ending, cause: Exception) -> None:
        """Do nothing: a dry run has nothing in the warehouse to end."""

    def close(self) -> None:
        self._seen.close()


def _count_fields(
    conn: sa.Connection, engine: Engine, found: Difference, hashed: Collection[HashedRow]
) -> dict[str, int]:
    updated = {row.sid: row for row in found.changed if found.stored[row.sid].active}
    replaced = [one for one in hashed if one.sid in updated]
    return changed_fields.count_planned(conn, engine, replaced, updated)


def _count_changes(found: Difference, taken_out: int, rows: int) -> Counters:
    """Return what the changed rows of a batch of so many would do to the warehouse."""
    before = [found.stored[row.sid] for row in found.changed]
    new = sum(one.content_hash is None for one in before)
    updated = sum(one.active for one in before)
    return Counters(
        inserted=new - taken_out,
        updated=updated,
        restored=len(before) - new - updated + taken_out,
        unchanged=rows - len(before) - len(found.skipped) - len(found.rejects),
    )


@contextmanager
def _naming_the_folder() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as cause:
        raise errors.ScratchUnusable(
            "the temporary folder cannot hold what the dry run has seen "
            f"({getattr(cause, 'sqlite_errorname', type(cause).__name__)}): "
            "make room there, or name another folder in the environment variable SQLITE_TMPDIR"
        ) from cause


class _SeenSids:
    """What a dry run has seen, and what it has not, on disk."""

    _db: sqlite3.Connection | None = None

    def open(self) -> None:
        # The empty name is SQLite's for a private file in the temporary folder.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("CREATE TABLE seen (sid TEXT PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("CREATE TABLE absent (sid TEXT PRIMARY KEY) WITHOUT ROWID")

    def close(self) -> None:
        """Close the file, by which it vanishes."""
        if self._db is not None:
            self._db.close()

    def add(self, sids: Collection[str]) -> list[str]:
        """Remember SIDs; return those that are new."""
        query = "INSERT INTO seen SELECT value FROM json_each(?) WHERE true ON CONFLICT DO NOTHING"
        with _naming_the_folder():
            return [sid for (sid,) in self._execute(f"{query} RETURNING sid", _listed(sids))]

    def list_unseen(self, sids: Collection[str]) -> int:
        """Remember which of these were not seen; return how many."""
        unseen = "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT sid FROM seen)"
        return self._execute(f"INSERT INTO absent {unseen}", _listed(sids)).rowcount

    def forget_absent(self) -> None:
        """Begin the list of what was not seen anew."""
        self._execute("DELETE FROM absent")

    def absent(self) -> Iterator[str]:
        """Yield what was not seen."""
        with _naming_the_folder():
            for (sid,) in self._execute("SELECT sid FROM absent"):
                yield sid

    def _execute(self, statement: str, *parameters: bytes) -> sqlite3.Cursor:
        assert self._db is not None  # noqa: S101 - `open` comes first
        with _naming_the_folder():
            return self._db.execute(statement, parameters)


def _listed(sids: Collection[str]) -> bytes:
    return msgspec.json.encode(list(sids))
