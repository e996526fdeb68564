"""The nodes of a Galera cluster: which of them a process works with, and what its sessions need."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from etl.warehouse.engines.base import DbErrorKind
from etl.warehouse.engines.mariadb.sessions import Session
from etl.warehouse.engines.reaching import Unreached

_LARGEST_FRAGMENT = 256 << 20
_FRAGMENTS_A_WRITE_SET = 4
# After these a node may have lost its cluster: 1180 comes at COMMIT, 1205 where a read waits.
_DOUBTFUL = {1047, 1180, 1205}


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
        """Open anew, before it is used again, a session on another node, or on a doubtful one."""

        def doubt(context: sa.engine.ExceptionContext) -> None:
            code = next(iter(context.original_exception.args), None)
            if code in _DOUBTFUL and context.connection is not None:
                session: Any = context.connection.connection.driver_connection
                session.is_doubtful = True

        def ensure(session: Any, _record: Any, _fairy: Any) -> None:
            if session.is_doubtful or session.place != self._places[self._at]:
                raise sa.exc.DisconnectionError

        sa.event.listen(engine, "handle_error", doubt)
        sa.event.listen(engine, "checkout", ensure)


def places_of(url: sa.URL, usual_port: int) -> Sequence[Place]:
    """Return the places that a URL lists."""
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
        # A transaction begins when all is applied here that was committed on any node before; and
        # one that is larger than a write set may be goes to the others in pieces.
        fragment = min(
            _LARGEST_FRAGMENT, int(settings["wsrep_max_ws_size"]) // _FRAGMENTS_A_WRITE_SET
        )
        cursor.execute(
            "SET SESSION wsrep_sync_wait = 7, SESSION wsrep_trx_fragment_unit = 'bytes', "
            f"SESSION wsrep_trx_fragment_size = {fragment}"
        )
