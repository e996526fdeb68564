"""What an engine has to offer; everything else about the warehouse is the same SQL everywhere."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import ClassVar, Protocol

import sqlalchemy as sa

from etl.domain.binding import Key, Row

ROOM = "room"
"""Under this name the `info` of a connection tells how many bytes one row may have, where the server limits that."""

LONGEST_GREETING = 10.0
"""Seconds that a server may take to let a new connection in."""


class Fault(Enum):
    """What a driver's error means for the work in hand."""

    CONFLICT = "another transaction was in the way"
    LOST = "the connection is gone"
    UNKNOWN_HOST = "the host's name is not known"
    REFUSED = "nobody listens at the port"
    SILENT = "the host does not answer"
    STRANGER = "another kind of server answers"
    TLS = "no encryption was agreed on"
    FULL = "the disk is full, or does not take what is written"
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


@dataclass(frozen=True)
class Limits:
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


class Engine(Protocol):
    """One kind of database."""

    single_writer: ClassVar[bool]
    """One connection for the whole process, used by one thread at a time."""

    def __hash__(self) -> int: ...

    def open(self, url: sa.URL, schema: str | None, limits: Limits) -> sa.Engine:
        """An engine whose sessions speak UTC, look into `schema` first and keep to `limits`."""

    def migrating_alone(self, conn: sa.Connection) -> AbstractContextManager[None]:
        """Wait until nobody else migrates this warehouse, and keep others out; to be entered first in the transaction."""

    def unfit(self, conn: sa.Connection) -> str | None:
        """Why this server cannot hold a warehouse, and what to set; None when it can."""

    def now(self, conn: sa.Connection) -> datetime:
        """The one clock that leases and publishing go by, as aware UTC."""

    def relation(self) -> sa.FromClause:
        """The keys of a batch as a relation of `sid` and `source_hash`, made of the parameters that `parameters` gives."""

    def parameters(self, keys: Collection[Key]) -> dict[str, str]:
        """What to execute a statement with `relation` in it with."""

    def pack(self, sids: Collection[str]) -> str:
        """SIDs as one text, a list in the engine's own form."""

    def unpack(self, stage_id: int) -> sa.FromClause:
        """What `scan_seen` holds of a stage, as a relation of `batch` and `sid`."""

    def as_object(
        self, name: sa.ColumnElement[str], value: sa.ColumnElement[str]
    ) -> sa.ColumnElement[str]:
        """All lines of a query as the text of one JSON object."""

    def insert_unless_there(
        self, table: sa.Table, columns: Sequence[str], rows: sa.Select[tuple[object, ...]]
    ) -> sa.Executable:
        """`INSERT … SELECT` that passes over rows whose key is there; its rowcount is what was inserted."""

    def insert_or_update(
        self, table: sa.Table, columns: Sequence[str], rows: sa.Select[tuple[object, ...]]
    ) -> sa.Executable:
        """`INSERT … SELECT` that overwrites the named columns, save the key and `first_seen_at`, of rows whose key is there."""

    def stage(self, conn: sa.Connection, stage_id: int, batch: int, rows: Sequence[Row]) -> None:
        """Put a batch of rows into `scan_staged`, in bulk."""

    def fault(self, error: sa.exc.DBAPIError) -> Fault:
        """What an error of this engine's driver means; never decided by the text of its message."""
