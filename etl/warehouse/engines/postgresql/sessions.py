"""Sessions of PostgreSQL: what a transaction sets for itself, and how an answer is waited for.

Nothing is set for a session as a whole: behind a transaction pooler (PgBouncer) the next
transaction may come to another backend, and this one's goes on to strangers.
"""

import time
import uuid
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import psycopg

from etl.errors import EtlError
from etl.warehouse.engines.base import LONGEST_GREETING, Limits

T = TypeVar("T")

_PROGRAM = "bindings-etl"
# Whoever waits for the client has answered, or has not got all of the question: both are lost.
_AT_WORK = """
SELECT state IN ('active', 'disabled') AND wait_event_type IS DISTINCT FROM 'Client', pid
FROM pg_stat_activity
WHERE application_name = %s AND datname = current_database()
"""
# Else it would keep its locks until it has been idle for too long, and we would wait for ourselves.
_END = "SELECT pg_terminate_backend(%s)"


class Session(psycopg.Connection[Any]):
    """A connection that gives up an answer on which the server no longer works."""

    patience: float = Limits().silence
    tag: str = _PROGRAM
    """The application's name in each of its transactions; by it the server knows this session."""
    again: "Callable[[], Session] | None" = None
    """Opens another connection to the same place, to ask how this one is doing."""
    sign: Callable[[], None] = staticmethod(lambda: None)
    """See `Limits`."""

    def __del__(self, *_: Any) -> None:
        """Close the connection, also of a thread that a run left behind, without a warning."""
        if hasattr(self, "pgconn"):  # it is missing where connecting failed
            self.pgconn.finish()

    def wait(self, gen: Generator[Any, Any, T], *rest: Any, **options: Any) -> T:
        """Wait for the server; every wait of the driver goes through here, COPY and COMMIT too."""
        return super().wait(self._attended(gen), *rest, **options)

    def _attended(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """Go through a wait of the driver; when it is silent for long, ask the server about it."""
        quiet_since = time.monotonic()
        try:
            state = next(gen)
            while True:
                ready = yield state
                if ready:
                    quiet_since = time.monotonic()
                elif time.monotonic() - quiet_since >= self.patience:
                    self._require_work()
                    quiet_since = time.monotonic()
                state = gen.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value

    def _require_work(self) -> None:
        if not self._is_at_work():
            self.pgconn.finish()
            raise psycopg.OperationalError("the server fell silent")

    def _is_at_work(self) -> bool:
        """Return whether the server, asked over another connection, still works for this one.

        If not, its session is ended there.
        """
        if self.again is None:
            return False
        try:
            with self.again() as other:
                found = other.execute(_AT_WORK, [self.tag]).fetchone()
                if found and not found[0]:
                    other.execute(_END, [found[1]])
        except (psycopg.Error, EtlError):
            return False
        at_work = bool(found and found[0])
        if at_work:
            self.sign()
        return at_work


def connect(parameters: Mapping[str, Any], limits: Limits) -> Session:
    """Return a connection to what `parameters` name, whose waits keep to `limits`."""
    session = Session.connect(autocommit=True, prepare_threshold=None, **parameters)

    def again() -> Session:
        login = {**parameters, **limits.login()}
        other = Session.connect(autocommit=True, prepare_threshold=None, **login)
        other.patience = limits.silence
        return other

    session.patience = limits.silence
    session.tag = f"{_PROGRAM} {uuid.uuid4().hex[:12]}"
    session.again, session.sign = again, limits.sign
    return session


def defaults(limits: Limits) -> dict[str, Any]:
    """Return the connection parameters that hold unless the URL says otherwise."""
    return {
        "connect_timeout": max(2, round(min(LONGEST_GREETING, limits.silence))),
        "application_name": _PROGRAM,
        "client_encoding": "utf8",
        # A firewall that forgets a connection, or a host that is gone, tells nobody.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    }


def beginning(
    schema: str | None, limits: Limits, tag: str, *, migrates: bool, snapshot: bool
) -> str:
    """Return the statements that begin a transaction, for one message: no journey of their own.

    READ COMMITTED whatever the database's default is: leases rely on seeing what others have
    committed, unless all is to be read as of one moment. Statements are short or bound by the
    disk, so that compiling them costs more than it gives.
    """
    path = "DEFAULT" if schema is None else quote(schema)
    settings = {
        "TimeZone": "'UTC'",
        "search_path": path,
        "application_name": f"'{tag}'",
        "jit": "off",
        "lock_timeout": _milliseconds(limits.lock),
        "statement_timeout": 0 if migrates else _milliseconds(limits.statement),
        "idle_in_transaction_session_timeout": _milliseconds(limits.idle),
    }
    lines = [f"SET LOCAL {name} TO {value}" for name, value in settings.items()]
    level = "REPEATABLE READ READ ONLY" if snapshot else "READ COMMITTED"
    return "; ".join([f"BEGIN ISOLATION LEVEL {level}", *lines])


def quote(name: str) -> str:
    """Return an identifier quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _milliseconds(seconds: float) -> int:
    return max(1, min(round(seconds * 1000), 2**31 - 1))
