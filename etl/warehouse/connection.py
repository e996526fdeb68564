"""The warehouse: connections, transactions that are tried again as a whole, errors in our words."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
import structlog
from msgspec.structs import replace

from etl import config, errors
from etl.retrying import FailedTry, Retries
from etl.stopping import Stop
from etl.warehouse import ledger, password
from etl.warehouse.engines import locate
from etl.warehouse.engines.base import DbErrorKind, Engine, Limits
from etl.warehouse.engines.reaching import Unreached
from etl.warehouse.signs import Signs

T = TypeVar("T")
log = structlog.get_logger()

_SHORTEST_SILENCE = 2.0
_SHORTEST_LOCK = 1.0
_SHORTEST_IDLE = 5.0
_MOST_CONNECTIONS = 32

_ADVICE = {
    DbErrorKind.CONFLICT: "is busy with another transaction; run again later",
    DbErrorKind.LOST: "cannot be reached, or cut the connection; check that it runs, and the "
    "network",
    DbErrorKind.UNKNOWN_HOST: "cannot be reached: the name of its host is not known here; check "
    "the host in "
    "warehouse.url and the name server",
    DbErrorKind.REFUSED: "cannot be reached: its host refuses the connection; check that the "
    "server runs, "
    "and the port in warehouse.url",
    DbErrorKind.SILENT: "cannot be reached: its host does not answer; check host and port in "
    "warehouse.url, firewalls, and that the server is not overloaded",
    DbErrorKind.STRANGER: "cannot be used: what answers at this port is another kind of server; "
    "check "
    "engine, host and port in warehouse.url",
    DbErrorKind.UNREADY: "cannot be used now: this node has lost the majority of its cluster, or "
    "has not yet joined it; bring the other nodes back, or name a node that is in the cluster in "
    "warehouse.url",
    DbErrorKind.TLS: "cannot be used: no encrypted connection was agreed on; check the "
    "certificates and "
    "the TLS options (sslmode, sslrootcert, ssl_ca …) in warehouse.url",
    DbErrorKind.LOCKED: "cannot be opened: another process holds the file; close the other one",
    DbErrorKind.UNOPENED: "cannot be opened: its folder is missing, or the rights of the folder "
    "or the file do not allow it; check warehouse.url",
    DbErrorKind.FOREIGN: "is a file of another program; check the path in warehouse.url",
    DbErrorKind.LOGIN: "does not take the user or the password; check both in warehouse.url",
    DbErrorKind.ACCOUNT: "does not take this login: the account is locked, its password has "
    "expired, "
    "or it may not come from this host; ask its administrator",
    DbErrorKind.METHOD: "asks for a way to log in that the driver does not know; identify the "
    "account by "
    "ed25519, caching_sha2_password or mysql_native_password",
    DbErrorKind.CROWDED: "takes no more connections; lower concurrency, or raise the limit of "
    "the server "
    "or of the account",
    DbErrorKind.NO_DATABASE: "does not exist on this server; check the database's name, or "
    "create it",
    DbErrorKind.CANCELLED: "cancelled a statement: it took longer than statement_timeout allows, "
    "or an administrator stopped it; "
    "find out what kept it, and run again",
    DbErrorKind.FULL: "refused the work: its disk is full or failing; free some space and run "
    "again",
    DbErrorKind.BROKEN: "has broken down: its disk is full or failing, or the file is damaged; "
    "free some space and run again, and if that does not help, go back to a copy of the file",
    DbErrorKind.READ_ONLY: "refused the work: it is read-only; point warehouse.url to the "
    "primary, or lift the restriction",
    DbErrorKind.DENIED: "refused the work: the role lacks a privilege; see the GRANTs in "
    "docs/warehouse.md",
    DbErrorKind.MISSING: "refused the work: a table or schema is missing; run `bindings-etl "
    "migrate`",
    DbErrorKind.SETTING: "refused the work: a setting of the server forbids it; `bindings-etl "
    "check` names it",
    DbErrorKind.OTHER: "refused the work: a statement failed; run with --log-level debug and "
    "report it",
}

_KINDS: dict[DbErrorKind, type[errors.WarehouseError]] = {
    DbErrorKind.CONFLICT: errors.WarehouseConflict,
    DbErrorKind.LOST: errors.WarehouseUnreachable,
    DbErrorKind.LOCKED: errors.WarehouseUnreachable,
    DbErrorKind.UNKNOWN_HOST: errors.WarehouseUnreachable,
    DbErrorKind.REFUSED: errors.WarehouseUnreachable,
    DbErrorKind.SILENT: errors.WarehouseUnreachable,
    DbErrorKind.UNREADY: errors.WarehouseUnreachable,
    DbErrorKind.CROWDED: errors.WarehouseUnreachable,
}


class Warehouse:
    """A database with the tables of `tables.py`. Safe to share between threads."""

    def __init__(
        self,
        engine: Engine,
        pool: sa.Engine,
        policy: config.Retry,
        stop: Stop,
        limits: Limits,
        signs: Signs,
    ) -> None:
        self.engine = engine
        self._pool = pool
        self._retries = Retries(policy, stop, _is_transient, _log_retry)
        self._turn = threading.RLock() if engine.single_writer else None
        self._places = threading.Semaphore(limits.connections)
        self._longest_line = limits.statement
        self._signs = signs
        self.own_run: int | None = None
        """The run that works here, which is never in its own way."""

    @property
    def name(self) -> str:
        """Where it is, without the password and without the query, which may hold one too."""
        url = self._pool.url
        hosts = {name: value for name, value in url.query.items() if name == "host"}
        return url.set(query=hosts).render_as_string(hide_password=True)

    @property
    def dialect(self) -> str:
        """SQLAlchemy's name of the engine."""
        return self._pool.dialect.name

    def transact(
        self, work: Callable[[sa.Connection], T], *, once: bool = False, ahead: bool = False
    ) -> T:
        """Run `work` in one transaction; all of it again if a conflict or lost connection undid it.

        With `once` it is tried only once, where a warehouse that was given up a moment ago is told.
        With `ahead` it does not wait in line for a connection; one is kept for who must not wait.

        Raises:
            WarehouseError: it cannot be done, or not within the retry policy.
        """
        try:
            with nullcontext() if ahead else self._place():
                if once:
                    return self._transact_once(work)
                return self._retries.call_with_retries(lambda: self._transact_once(work))
        except errors.WarehouseConflict as error:
            raise self._name_rivals(error) from error

    def read(self, work: Callable[[sa.Connection], T], *, snapshot: bool = False) -> T:
        """Run `work`, which only reads, and again when a lost connection broke it off.

        With `snapshot` all its queries see the warehouse as it was at one moment.

        Raises:
            WarehouseError: it cannot be done, or not within the retry policy.
        """
        with self._place():
            return self._retries.call_with_retries(lambda: self._read_once(work, snapshot=snapshot))

    def tidy(self) -> None:
        """Give up what is kept of the past for longer than readers need it."""
        self._maintain(self.engine.tidying)

    def reclaim(self) -> None:
        """Take out of the files what was deleted, where the engine keeps it until it is told."""
        if self.engine.reclaiming:
            self._try_migrating(self.engine.require_own_files)
        self._maintain(self.engine.reclaiming)

    def _maintain(self, statements: Sequence[str]) -> None:
        for one in statements:
            self._try_migrating(lambda conn, one=one: conn.exec_driver_sql(one))  # type: ignore[misc]

    def _try_migrating(self, work: Callable[[sa.Connection], object]) -> None:
        def try_once() -> None:
            with self.migrating() as conn:
                work(conn)

        self._retries.call_with_retries(try_once)

    @contextmanager
    def migrating(self) -> Iterator[sa.Connection]:
        """Yield one connection in one transaction, for what changes tables and not their rows."""
        with self._connected() as conn, conn.execution_options(migrating=True).begin():
            yield conn

    def cut_off_silent(self, seconds: float) -> int:
        """End connections whose server gave no sign of life for so long; tells how many."""
        return self._signs.cut_off(max(seconds, _SHORTEST_IDLE))

    def close(self) -> None:
        """Give all connections back."""
        self._pool.dispose()

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Hold one of the places for connections while the block runs; waiting costs no retries.

        Raises:
            WarehouseConflict: none became free, although each of those at work has a limit.
        """
        if not self._places.acquire(timeout=self._longest_line):
            raise errors.WarehouseConflict(
                f"the warehouse {self.name} {_ADVICE[DbErrorKind.CONFLICT]}"
            )
        try:
            yield
        finally:
            self._places.release()

    def _name_rivals(self, error: errors.WarehouseConflict) -> errors.WarehouseConflict:
        """Return the error with the runs named that may hold the lock."""
        try:
            rivals = self._read_once(
                lambda conn: ledger.find_rivals(conn, self.engine.now(conn), self.own_run)
            )
        except errors.EtlError:
            return error
        if not rivals:
            return error
        return errors.WarehouseConflict(f"{error}; what may be in the way: {', '.join(rivals)}")

    def _require_file(self) -> None:
        """Refuse a file that is not there: a mistyped path must not leave an empty one behind."""
        file = self.engine.file_of(self._pool.url)
        if file and not file.startswith((":", "file:")) and not Path(file).exists():
            create = (
                "create it: `bindings-etl migrate`"
                if Path(file).parent.exists()
                else "make its folder first"
            )
            raise errors.WarehouseOutdated(
                f"there is no database {file}; check warehouse.url, or {create}"
            )

    def _transact_once(self, work: Callable[[sa.Connection], T]) -> T:
        self._require_file()
        with self._connected() as conn, conn.begin():
            return work(conn)

    def _read_once(self, work: Callable[[sa.Connection], T], *, snapshot: bool = False) -> T:
        self._require_file()
        with self._connected() as conn:
            return work(conn.execution_options(reading=True, snapshot=snapshot))

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        with (
            self._exclusive(),
            translated(self.engine, self.name),
            self._connect() as conn,
            self._watched(conn),
        ):
            yield conn

    def _watched(self, conn: sa.Connection) -> AbstractContextManager[None]:
        """Let `cut_off_silent` end this connection while the block runs, if it has a server."""
        if self.engine.single_writer:
            return nullcontext()
        descriptor = self.engine.socket_of(conn.connection.driver_connection)
        return nullcontext() if descriptor is None else self._signs.awaited(descriptor)

    def _connect(self) -> sa.Connection:
        try:
            return self._pool.connect()
        except (TypeError, ValueError, sa.exc.ProgrammingError) as cause:
            # The drivers' ways to say that they do not know an option. What they say may quote its
            # value.
            raise errors.ConfigurationError(
                "warehouse.url: the driver does not take an option of its query "
                f"({type(cause).__name__}); correct what follows the ?"
            ) from None

    def _exclusive(self) -> AbstractContextManager[object]:
        return self._turn or nullcontext()


def open_warehouse(
    settings: config.Warehouse,
    policy: config.Retry,
    stop: Stop,
    lease_seconds: float = config.Run().lease_seconds,
) -> Warehouse:
    """Return the warehouse of `settings`; it connects only when it is first used.

    Raises:
        ConfigurationError: the URL names none, or the engine's driver is not installed.
    """
    engine, url = locate(settings.url.get_secret_value(), settings.data_path)
    signs = Signs()
    limits = replace(limits_of(policy, lease_seconds), sign=signs.give, login=_login(settings))
    pool = engine.open(url, settings.database_schema, limits)
    sa.event.listen(pool, "after_cursor_execute", signs.give)
    return Warehouse(engine, pool, policy, stop, limits, signs)


def _login(settings: config.Warehouse) -> Callable[[], Mapping[str, str]]:
    if settings.password_command is None:
        return dict
    command = [word.get_secret_value() for word in settings.password_command]
    return lambda: {"password": password.ask(command)}


def limits_of(policy: config.Retry, lease_seconds: float) -> Limits:
    """Return how long database sessions may wait, by the configuration.

    One wait never uses up more than all tries may take, and nobody sits in a transaction for much
    longer than their lease lasts. Below a second or two an ordinary delay would count as a silence.
    """
    one_try = min(policy.timeout_seconds, policy.max_total_seconds)
    return Limits(
        silence=max(_SHORTEST_SILENCE, min(one_try, lease_seconds / 2)),
        lock=max(_SHORTEST_LOCK, one_try),
        idle=max(_SHORTEST_IDLE, lease_seconds),
        connections=_MOST_CONNECTIONS,
    )


@contextmanager
def translated(engine: Engine, where: str) -> Iterator[None]:
    """Turn the driver's errors into ours.

    The driver's own text stays out of the message once a connection stands: it may quote a row, and
    a row holds identities.
    """
    try:
        yield
    except Unreached as cause:
        raise _word(engine, cause.kind, where, cause.code) from cause
    except sa.exc.DBAPIError as cause:
        raise _word(engine, engine.error_kind(cause), where, engine.error_code(cause)) from cause
    except sa.exc.TimeoutError as cause:  # of the pool: all connections are at work
        raise _word(engine, DbErrorKind.CONFLICT, where, type(cause).__name__) from cause
    except sa.exc.SQLAlchemyError as cause:
        raise errors.WarehouseRefused(
            f"the warehouse {where} cannot be used: {type(cause).__name__}"
        ) from cause


def _word(engine: Engine, kind: DbErrorKind, where: str, code: str) -> errors.WarehouseError:
    advice = engine.advice.get(kind) or _ADVICE[kind]
    told = f"the warehouse {where} {advice}{f' ({code})' if code else ''}"
    return _KINDS.get(kind, errors.WarehouseRefused)(told)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, errors.WarehouseConflict | errors.WarehouseUnreachable)


def _log_retry(failed: FailedTry) -> None:
    log.warning(
        "transaction.retried",
        reason=type(failed.error).__name__,
        attempt=failed.number,
        wait_seconds=round(failed.wait_seconds, 2),
    )
