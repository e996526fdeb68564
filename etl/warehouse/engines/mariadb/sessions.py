"""Sessions of MariaDB and MySQL: what they keep to, and how an answer is waited for."""

import select
import ssl
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pymysql

from etl.errors import EtlError
from etl.warehouse.engines.base import LONGEST_GREETING, DbErrorKind, Limits
from etl.warehouse.engines.reaching import Unreached, kind_of

_UNREACHED, _CUT, _NO_TLS = 2003, 2013, 2026

# Whoever is at the network has answered, or has not got all of the question: both are lost.
_AT_WORK = """
SELECT command <> 'Sleep'
AND COALESCE(state, '') NOT IN ('Reading from net', 'Writing to net', 'Sending to client')
FROM information_schema.processlist WHERE id = %s
"""
# Else it would keep its locks until it has been idle for too long, and we would wait for ourselves.
_END = "KILL %s"
# A result comes in many pieces; each of them is waited for this much longer than for its beginning.
_PIECES = 4


class Session(pymysql.connections.Connection):
    """A connection that gives up an answer on which the server no longer works."""

    patience: float | None = None
    """None until it stands: greeting and login have the driver's own limit."""
    again: "Callable[[], Session] | None" = None
    """Opens another connection to the same place, to ask how this one is doing."""
    sign: Callable[[], None] = staticmethod(lambda: None)
    """See `Limits`."""
    place: Mapping[str, Any] = MappingProxyType({})
    """Which of several nodes it is on."""
    is_on_node = False
    """Whether its server belongs to a Galera cluster."""

    def attend(self, patience: float, again: "Callable[[], Session]") -> None:
        """Ask the server, after so many seconds without an answer, whether it still works on it."""
        self.patience, self.again = patience, again
        self._read_timeout = patience * _PIECES

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        number: int = self._sock.fileno()  # type: ignore[attr-defined]
        return number

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        """Send a command; every statement, COMMIT and ping of the driver goes through here."""
        super()._execute_command(command, sql)  # type: ignore[misc]
        if self.patience is not None:
            while not self._has_answered(self.patience):
                if not self._is_at_work():
                    self._force_close()  # type: ignore[attr-defined]
                    raise pymysql.err.OperationalError(2013, "the server fell silent")

    def _has_answered(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)  # type: ignore[attr-defined]
        return bool(poll.poll(seconds * 1000))

    def _is_at_work(self) -> bool:
        """Return whether the server says, over another connection, that it is still at work.

        Else it ends there.
        """
        if self.again is None:
            return False
        try:
            with self.again() as other, other.cursor() as cursor:
                number = self.thread_id()  # type: ignore[no-untyped-call]
                cursor.execute(_AT_WORK, [number])
                found = cursor.fetchone()
                if found and not found[0]:
                    cursor.execute(_END, [number])
        except (pymysql.err.Error, EtlError):
            return False
        at_work = bool(found and found[0])
        if at_work:
            self.sign()
        return at_work


def connect(parameters: Mapping[str, Any], limits: Limits) -> Session:
    """Return a connection to what `parameters` name, whose waits keep to `limits`."""
    greeting = min(LONGEST_GREETING, limits.silence)
    times = {"read_timeout": greeting, "write_timeout": limits.silence}

    def again() -> Session:
        return Session(**{**parameters, **limits.login(), **times})

    session = Session(**{**times, **parameters})
    with session.cursor() as cursor:
        version = session.get_server_info()  # type: ignore[no-untyped-call]
        cursor.execute(preparation(version, limits))
    session.sign = limits.sign
    session.attend(limits.silence, again)
    return session


def preparation(version: str, limits: Limits) -> str:
    """Return the statement that sets up a session on a server of this version."""
    seconds = max(1, round(limits.lock))
    idle = max(1, round(limits.idle))
    settings = {
        "time_zone": "'+00:00'",
        "sql_mode": "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
        "default_storage_engine": "InnoDB",  # others know no transactions
        # Row locks, and those of DDL; what the server or the URL has set shorter stands.
        "innodb_lock_wait_timeout": f"LEAST(@@innodb_lock_wait_timeout, {seconds})",
        "lock_wait_timeout": f"LEAST(@@lock_wait_timeout, {seconds})",
    }
    if "MariaDB" in version:
        settings["idle_transaction_timeout"] = str(idle)
        settings["max_statement_time"] = str(round(limits.statement))
    else:  # MySQL knows neither: it ends whoever is idle, and cuts off only what reads
        settings["wait_timeout"] = str(idle)
        settings["max_execution_time"] = str(round(limits.statement * 1000))
    return "SET " + ", ".join(f"SESSION {name} = {value}" for name, value in settings.items())


def diagnose(error: pymysql.err.MySQLError) -> Unreached | None:
    """Return why no server was reached; None where a server answered with an error number."""
    code = error.args[0] if error.args else None
    # What the operating system said; 2013 hides it behind itself.
    cause = getattr(error, "original_exception", error.__context__)
    if code == _NO_TLS or isinstance(cause, ssl.SSLError):
        return Unreached(DbErrorKind.TLS)
    if code in (_UNREACHED, _CUT) and isinstance(cause, OSError):
        return Unreached(kind_of(cause))
    return Unreached(DbErrorKind.STRANGER) if isinstance(error, pymysql.err.InternalError) else None
