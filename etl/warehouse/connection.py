"""The warehouse as one thing: connections, whole transactions that are tried again, errors in our own words."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
import structlog
import tenacity

from etl import config, errors
from etl.retrying import failure, persist, upcoming_wait
from etl.stopping import Stop
from etl.warehouse.engines import engine_for
from etl.warehouse.engines.contract import Engine, Fault

T = TypeVar("T")
log = structlog.get_logger()

_ADVICE = {
    Fault.FULL: "its disk is full or failing; free some space and run again",
    Fault.READ_ONLY: "it is read-only; point warehouse.url to the primary, or lift the restriction",
    Fault.DENIED: "the role lacks a privilege; see the GRANTs in docs/warehouse.md",
    Fault.MISSING: "a table or schema is missing; run `bindings-etl migrate`",
    Fault.OTHER: "a statement failed; run with --log-level debug and report it",
}


class Warehouse:
    """A database with the tables of `tables.py`. Safe to share between threads."""

    def __init__(self, engine: Engine, pool: sa.Engine, policy: config.Retry, stop: Stop) -> None:
        self.engine = engine
        self._pool = pool
        self._policy = policy
        self._stop = stop
        self._turn = threading.RLock() if engine.single_writer else None

    @property
    def name(self) -> str:
        """Where it is, without the password and without the query, which may hold one too."""
        return self._pool.url.set(query={}).render_as_string(hide_password=True)

    @property
    def dialect(self) -> str:
        """SQLAlchemy's name of the engine."""
        return self._pool.dialect.name

    def transact(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one transaction, as a whole again when a conflict or a lost connection undid it.

        Raises:
            WarehouseError: it cannot be done, or not within the retry policy.
        """
        return persist(lambda: self._transact_once(work), self._policy, self._stop, on=_is_passing, announce=_announce)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work`, which only reads, without trying again."""
        self._require_file()
        with self._exclusive(), translated(self.engine, self.name), self._pool.connect() as conn:
            return work(conn.execution_options(reading=True))

    @contextmanager
    def migrating(self) -> Iterator[sa.Connection]:
        """One connection in one transaction, for Alembic."""
        with self._exclusive(), translated(self.engine, self.name), self._pool.begin() as conn:
            yield conn

    def close(self) -> None:
        """Give all connections back."""
        self._pool.dispose()

    def _require_file(self) -> None:
        """Only `migrate` may create a database; a mistyped path must not leave an empty one behind."""
        file = self._pool.url.database
        if self.engine.single_writer and file and not file.startswith((":", "file:")) and not Path(file).exists():
            raise errors.WarehouseOutdated(
                f"there is no database {file}; check warehouse.url, or create it: `bindings-etl migrate`"
            )

    def _transact_once(self, work: Callable[[sa.Connection], T]) -> T:
        self._require_file()
        with self._exclusive(), translated(self.engine, self.name), self._pool.begin() as conn:
            return work(conn)

    def _exclusive(self) -> AbstractContextManager[object]:
        return self._turn or nullcontext()


def open_warehouse(settings: config.Warehouse, policy: config.Retry, stop: Stop) -> Warehouse:
    """Prepare the warehouse of `settings`; connects only when first used.

    Raises:
        ConfigurationError: the URL is not one, or the engine has no schemas and one is asked for.
    """
    try:
        url = sa.make_url(settings.url.get_secret_value())
    except sa.exc.ArgumentError:
        raise errors.ConfigurationError(
            "warehouse.url: is not a database URL; write e.g. sqlite:///bindings.db or postgresql://user:password@host/database"
        ) from None
    engine = engine_for(url)
    if settings.database_schema and not engine.has_schemas:
        raise errors.ConfigurationError("warehouse.schema: SQLite has no schemas; leave it null")
    return Warehouse(engine, engine.open(url, settings.database_schema), policy, stop)


@contextmanager
def translated(engine: Engine, where: str) -> Iterator[None]:
    """Turn the driver's errors into ours.

    The driver's own text stays out of the message once a connection stands: it may quote a row, and a row holds identities.
    """
    try:
        yield
    except sa.exc.DBAPIError as cause:
        raise _translate(engine.fault(cause), cause, where) from cause
    except sa.exc.SQLAlchemyError as cause:
        raise errors.WarehouseRefused(f"the warehouse {where} cannot be used: {type(cause).__name__}") from cause


def _translate(fault: Fault, cause: sa.exc.DBAPIError, where: str) -> errors.WarehouseError:
    code = getattr(cause.orig, "sqlstate", None) or getattr(cause.orig, "sqlite_errorname", None) or type(cause.orig).__name__
    if fault is Fault.CONFLICT:
        return errors.WarehouseConflict(f"the warehouse {where} is busy with another transaction ({code}); run again later")
    if fault is Fault.LOST:
        return errors.WarehouseUnreachable(
            f"the warehouse {where} cannot be reached ({code}); check that it runs, warehouse.url and the network"
        )
    if fault is Fault.LOCKED:
        return errors.WarehouseUnreachable(
            f"the warehouse {where} cannot be opened: the path is wrong, or another process holds the file "
            "(DuckDB lets one process in at a time; close the other one)"
        )
    return errors.WarehouseRefused(f"the warehouse {where} refused the work ({code}): {_ADVICE[fault]}")


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, errors.WarehouseConflict | errors.WarehouseUnreachable)


def _announce(state: tenacity.RetryCallState) -> None:
    error = failure(state)
    log.warning(
        "transaction.retried",
        reason=type(error).__name__,
        attempt=state.attempt_number,
        wait_seconds=round(upcoming_wait(state), 2),
    )
