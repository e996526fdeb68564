"""The nodes of a Galera cluster: which of them a process works with, and what its sessions need."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa

from etl.errors import WarehouseConflict
from etl.warehouse.engines.base import DbErrorKind
from etl.warehouse.engines.mariadb.sessions import Session
from etl.warehouse.engines.reaching import Unreached
from etl.warehouse.tables import VERSION_TABLE

_LARGEST_FRAGMENT = 256 << 20
_FRAGMENTS_A_WRITE_SET = 4
_IN_THE_WAY = {1062, 1146, 1205, 1213}

# As Alembic makes it, which is what fills it.
_VERSIONS = sa.Table(
    VERSION_TABLE,
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)

Place = Mapping[str, Any]
"""Host and port, as the driver takes them; empty for the one that the URL names."""


class Nodes:
    """The nodes that a URL lists. All of a process's sessions are on one, until that one fails.

    Were the heartbeat on another node than what is being published, it would undo it at COMMIT.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._at = 0
        self._lock = threading.Lock()

    def connect(self, open_at: Callable[[Place], Session]) -> Session:
        """Return a session on the node that is in use, or on the next one that can be used.

        Raises:
            Unreached: none can be used; it says why for the last one.
        """
        for _ in self._places[1:]:
            at = self._at
            try:
                return self._open(at, open_at)
            except Unreached:
                self._leave(at)
        return self._open(self._at, open_at)

    def _open(self, at: int, open_at: Callable[[Place], Session]) -> Session:
        session = open_at(self._places[at])
        session.place = self._places[at]
        return session

    def _leave(self, at: int) -> None:
        with self._lock:
            if self._at == at:  # another thread may have left it already
                self._at = (at + 1) % len(self._places)

    def keep_together(self, engine: sa.Engine) -> None:
        """Open anew, before it is used again, a session that is on another node."""

        def ensure(session: Any, _record: Any, _fairy: Any) -> None:
            if session.place != self._places[self._at]:
                raise sa.exc.DisconnectionError

        sa.event.listen(engine, "checkout", ensure)


def places_of(url: sa.URL, usual_port: int) -> Sequence[Place]:
    """Return host and port of each node that a URL lists; one empty place where it lists none."""
    listed = [one.partition(":") for one in url.normalized_query.get("host", ())]
    places = [{"host": host, "port": int(port or usual_port)} for host, _, port in listed]
    return places or [{}]


def join(session: Session) -> None:
    """Prepare a session on a node of a cluster; do nothing on any other server.

    Raises:
        Unreached: the node has lost its cluster, or not yet joined it.
    """
    with session.cursor() as cursor:
        cursor.execute("SHOW VARIABLES WHERE variable_name IN ('wsrep_on', 'wsrep_max_ws_size')")
        settings = dict(cursor.fetchall())
        if settings.get("wsrep_on") != "ON":
            return
        cursor.execute("SHOW STATUS LIKE 'wsrep_ready'")
        if dict(cursor.fetchall()).get("wsrep_ready") != "ON":
            session.close()
            raise Unreached(DbErrorKind.UNREADY, "1047")
        session.is_on_node = True
        # A transaction begins when all is applied here that was committed on any node before; and
        # one that is larger than a write set may be goes to the others in pieces.
        fragment = min(
            _LARGEST_FRAGMENT, int(settings["wsrep_max_ws_size"]) // _FRAGMENTS_A_WRITE_SET
        )
        cursor.execute(
            "SET SESSION wsrep_sync_wait = 7, SESSION wsrep_trx_fragment_unit = 'bytes', "
            f"SESSION wsrep_trx_fragment_size = {fragment}"
        )


@contextmanager
def migrating_alone(conn: sa.Connection, seconds: float) -> Iterator[None]:
    """Keep migrations through other nodes out while the block runs; nothing on any other server.

    A row that is replicated before its transaction ends is locked on all nodes until it does, or
    until its session or node is gone. Nobody ever sees it.

    Raises:
        WarehouseConflict: somebody else migrates for longer than so many seconds.
    """
    session: Any = conn.connection.driver_connection
    if not session.is_on_node:
        yield
        return
    was_there = _has_versions(conn)
    with conn.engine.connect() as guard:
        guard.exec_driver_sql(
            "SET SESSION wsrep_trx_fragment_unit = 'statements', "
            "SESSION wsrep_trx_fragment_size = 1"
        )
        if guard.dialect.is_mariadb:  # type: ignore[attr-defined]
            guard.exec_driver_sql("SET SESSION idle_transaction_timeout = 0")
        try:
            _insert_mark(guard, time.monotonic() + seconds)
            yield
        except BaseException:
            with suppress(sa.exc.DBAPIError):
                if not was_there and conn.execute(sa.select(_VERSIONS)).first() is None:
                    _VERSIONS.drop(conn)  # who is refused leaves nothing behind
            raise
        finally:
            guard.invalidate()


def _has_versions(conn: sa.Connection) -> bool:
    return sa.inspect(conn).has_table(VERSION_TABLE)


def _insert_mark(guard: sa.Connection, give_up_at: float) -> None:
    while True:
        try:
            if not _has_versions(guard):
                guard.execute(sa.schema.CreateTable(_VERSIONS, if_not_exists=True))
            guard.execute(sa.insert(_VERSIONS).values(version_num="being migrated"))
        except sa.exc.DBAPIError as error:
            if error.orig is None or error.orig.args[0] not in _IN_THE_WAY:
                raise
            guard.rollback()
        else:
            return
        if time.monotonic() > give_up_at:
            raise WarehouseConflict(
                "somebody else has been migrating this warehouse for a long time; run again later"
            )
