"""What an engine has to offer; everything else about the warehouse is the same SQL everywhere."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

from etl.domain.binding import HashedRow, Row

MAX_ROW_BYTES = "max_row_bytes"
"""Where a connection's `info` says how many bytes a row may have, if the server limits that."""

LONGEST_GREETING = 10.0
"""Seconds that a server may take to let a new connection in."""


class DbErrorKind(Enum):
    """What a driver's error means for the work in hand."""

    CONFLICT = "another transaction was in the way"
    LOST = "the connection is gone"
    UNKNOWN_HOST = "the host's name is not known"
    REFUSED = "nobody listens at the port"
    SILENT = "the host does not answer"
    STRANGER = "another kind of server answers"
    UNREADY = "the server is a node that has lost its cluster, or not yet joined it"
    TLS = "no encryption was agreed on"
    FULL = "the disk is full, or does not take what is written"
    BROKEN = "the engine has given itself up"
    READ_ONLY = "the warehouse is read-only"
    DENIED = "the role lacks a privilege"
    MISSING = "a table is missing"
    LOCKED = "another process holds the file"
    UNOPENED = "the file cannot be opened"
    FOREIGN = "the file is of another program"
    LOGIN = "the user or the password is wrong"
    ACCOUNT = "the account may not log in, whatever its password"
    METHOD = "the driver does not know the account's way to log in"
    CROWDED = "the server takes no more connections"
    NO_DATABASE = "the server has no such database"
    CANCELLED = "the server broke the statement off"
    SETTING = "a setting of the server forbids it"
    OTHER = "the statement failed"


class Limits(msgspec.Struct, frozen=True):
    """How long a session waits for what, in seconds; docs/operations.md has the reasons."""

    silence: float = 30
    """For an answer, until the server is asked whether it is still at work on it."""
    lock: float = 30
    """For a lock that another transaction holds."""
    idle: float = 120
    """Inside a transaction, for the next statement; then the server ends the session."""
    statement: float = 3600
    """For one statement that the server works on; a migration's may take as long as it takes."""
    sign: Callable[[], None] = lambda: None
    """To be called when the server says that it is still at work."""
    login: Callable[[], Mapping[str, str]] = dict
    """To be asked at each new connection for what it logs in with, besides what the URL says."""
    connections: int = 32
    """How many there are at most, besides one for the heartbeat; who comes later waits in line."""


class ColumnKind(Enum):
    """What a column holds; `types.py` has the meaning of each."""

    MOMENT = "a point in time"
    CODE = "a short identifier of ASCII"
    NAME = "a short text of any script"
    TEXT = "a text of any length"
    JSON = "JSON as text"
    IDENTIFIER = "a number that the engine counts up"


class Engine(ABC):
    """One kind of database: facts, and verbs. What has a body here suits most of them."""

    drivers: ClassVar[frozenset[str]] = frozenset()
    """Names that a URL may give for the driver, besides none."""
    url_form: ClassVar[str]
    """What a URL has to be like, as the predicate of a sentence with `{engine}` in it."""
    harmless_options: ClassVar[frozenset[str]] = frozenset()
    """Options of a URL that hold no secret; all others are masked where it is shown."""
    single_writer: ClassVar[bool] = False
    """One connection for the whole process, used by one thread at a time."""
    enforces_keys: ClassVar[bool] = True
    """PRIMARY KEY and UNIQUE hold, and the engine counts up; else `MERGE` and the program do."""
    conflicts_at_commit: ClassVar[bool] = False
    """Of two transactions that write one row, one is undone at COMMIT; to lock it is not enough."""
    has_schemas: ClassVar[bool] = True
    has_data_path: ClassVar[bool] = False
    """Rows lie in files apart from the database that the URL names."""
    commits_each_ddl: ClassVar[bool] = False
    """A migration that breaks off leaves what it has made, and is begun again from its start."""
    tidying: ClassVar[Sequence[str]] = ()
    """Statements, a transaction each, that a run ends with; they bound what is kept of the past."""
    reclaiming: ClassVar[Sequence[str]] = ()
    """Statements, a transaction each, after which nobody can read what was deleted before."""
    keeps_zones: ClassVar[bool] = False
    """Columns of times have a zone; else they hold UTC."""
    advice: ClassVar[Mapping[DbErrorKind, str]] = {}
    """What to tell people of a fault, where this engine knows more than the usual words."""

    # --- where it is ---

    def sqlalchemy_form(self, text: str) -> str:
        """Return a URL that is usual for this engine in SQLAlchemy's form."""
        return text

    @abstractmethod
    def accepts(self, url: sa.URL) -> bool:
        """Return whether a warehouse can be at `url`; `url_form` tells what else to write."""

    def file_of(self, url: sa.URL) -> str | None:
        """Return the file that one process has for itself; None where there is a server."""
        return None

    @abstractmethod
    def open(self, url: sa.URL, schema: str | None, limits: Limits) -> sa.Engine:
        """Return an engine whose sessions speak UTC, look into `schema` first and keep to `limits`.

        Raises:
            ConfigurationError: the driver is not installed, or does not take the schema's name.
        """

    def socket_of(self, session: Any) -> int | None:
        """Return the descriptor of the socket that a driver's session waits on.

        None where it has none: there, the driver itself gives up what takes too long.
        """
        descriptor: int = session.fileno()
        return descriptor

    @abstractmethod
    def error_kind(self, error: sa.exc.DBAPIError) -> DbErrorKind:
        """Return what an error of the driver means; never decided by the text of its message."""

    def error_code(self, error: sa.exc.DBAPIError) -> str:
        """Return the engine's own word for an error, to be looked up in its manual."""
        return getattr(error.orig, "sqlstate", None) or type(error.orig).__name__

    # --- its tables ---

    def column_type(
        self, kind: ColumnKind, length: int | None, dialect: sa.Dialect
    ) -> TypeEngine[Any] | None:
        """Return the type of a column; None where the usual one of SQLAlchemy is right."""
        return None

    @abstractmethod
    def migration_lock(self, conn: sa.Connection) -> AbstractContextManager[None]:
        """Wait until nobody else migrates this warehouse, and keep others out.

        To be entered first in the transaction.
        """

    def prepare_migrations(self) -> None:  # noqa: B027 - most have nothing to do
        """Load what Alembic has to know of this engine."""

    def require_own_files(self, conn: sa.Connection) -> None:  # noqa: B027 - as above
        """Look whether the files that `reclaiming` may delete are this warehouse's alone.

        Raises:
            ConfigurationError: another one has its files there too.
        """

    @abstractmethod
    def why_unfit(self, conn: sa.Connection) -> str | None:
        """Return why this server cannot hold a warehouse, and what to set; None when it can."""

    def sql_dialect(self, named: str, ask: Callable[[], sa.Dialect]) -> str:
        """Return the dialect of the SQL to print for a URL that has `named` one.

        `ask` connects, and returns what the server says of itself.
        """
        return named

    def schema_sql(self, schema: str) -> str:
        """Return statements that make a schema and go into it, for a DBA to run."""
        return ""

    def create_schema(self, conn: sa.Connection, schema: str) -> None:  # noqa: B027 - as above
        """Make the schema where it is missing, and go into it.

        Where a DBA has prepared it, the role need not be allowed to.
        """

    def require_schema(self, conn: sa.Connection) -> None:  # noqa: B027 - as above
        """Look whether the schema that sessions go into is there.

        Raises:
            WarehouseOutdated: it is not, or the role may not use it.
        """

    def unusable_sequences(self, conn: sa.Connection, sequences: Collection[str]) -> list[str]:
        """Return those that the role may not use; an INSERT of no row counts nothing up."""
        return []

    # --- its SQL ---

    @abstractmethod
    def now(self, conn: sa.Connection) -> datetime:
        """Return the one clock that leases and publishing go by, as aware UTC."""

    @abstractmethod
    def batch_table(self) -> sa.FromClause:
        """Return the rows of a batch as a table of `sid` and `source_hash`.

        It is made of the parameters that `batch_parameters` returns.
        """

    def batch_parameters(self, hashed: Collection[HashedRow]) -> dict[str, str]:
        """Return the parameters of a statement with `batch_table` in it."""
        pairs = [(one.sid, one.source_hash) for one in hashed]
        return {"batch_keys": msgspec.json.encode(pairs).decode()}

    def encode_sids(self, sids: Collection[str]) -> str:
        """Return SIDs as one text, a list in the engine's own form."""
        return msgspec.json.encode(list(sids)).decode()

    @abstractmethod
    def seen_sids(self) -> sa.FromClause:
        """Return what `scan_seen` holds of a stage, as a relation of `batch` and `sid`.

        The stage is given when the statement is executed, by `of(stage_id=…)`.
        """

    @abstractmethod
    def json_object(
        self, name: sa.ColumnElement[str], value: sa.ColumnElement[str]
    ) -> sa.ColumnElement[str]:
        """Return all lines of a query as the text of one JSON object."""

    @abstractmethod
    def has_member(self, document: sa.Column[str], name: str) -> sa.ColumnElement[bool]:
        """Return whether a column's JSON object has a member of this name."""

    @abstractmethod
    def has_item(self, document: sa.Column[str], item: str) -> sa.ColumnElement[bool]:
        """Return whether a column's JSON array has this text among its items."""

    def has_savepoints(self, conn: sa.Connection) -> bool:
        """Return whether a statement that fails can be undone, and its transaction goes on."""
        return False

    @abstractmethod
    def insert_missing(
        self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> sa.Executable:
        """Return an `INSERT … SELECT` that passes over rows whose key is there.

        Its rowcount is what was inserted.
        """

    @abstractmethod
    def insert_or_update(
        self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> sa.Executable:
        """Return an `INSERT … SELECT` that overwrites rows whose key is there.

        The key and `first_seen_at` stay.
        """

    def with_index(self, query: sa.Select[Any], table: sa.Table, index: str) -> sa.Select[Any]:
        """Return a query that looks into `table` by this index, where the engine has to be told."""
        return query

    @abstractmethod
    def stage(self, conn: sa.Connection, stage_id: int, batch: int, rows: Sequence[Row]) -> None:
        """Put a batch of rows into `scan_staged`, in bulk."""
