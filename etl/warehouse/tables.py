"""The one truth about the warehouse's tables (docs/warehouse.md). Migrations rebuild exactly this; a test holds them to it.

The comments are the data dictionary: `docs/warehouse.md` and the engines' catalogues get them from
here.
"""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from etl.domain.binding import Row
from etl.warehouse.types import UtcDateTime, code, identifier, json_text, name, text

# The newest migration. Kept here so that a run need not load Alembic to compare (a test holds it to
# the scripts).
HEAD = "20261128_02"
VERSION_TABLE = "bindings_etl_version"
"""Where the revision stands. `alembic_version`, the usual name, may be another program's."""

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

# The tables `scan_…` hold what a scan has read and not yet published. Losing it in a crash of the
# server costs a scan, never a row of `bindings`, so the first migration makes these tables UNLOGGED
# on PostgreSQL.


def _content() -> list[sa.Column[str]]:
    """Return the content columns, in the order of `Row`, without the hashes."""
    return [
        sa.Column("account", name(64), nullable=False, comment="Name of the configured account."),
        sa.Column("account_sid", code(34), comment="AC… SID of the owner, as given."),
        sa.Column("chat_service_sid", code(34), nullable=False, comment="IS… SID of the service that was read."),
        sa.Column("credential_sid", code(34), comment="CR… SID of the push credential."),
        sa.Column("binding_type", name(255), comment="apn, fcm, gcm, twilsock or what else the API says, lower case."),
        sa.Column("identity", text(), comment="Identity of the Conversation User (or hashed, or NULL, by privacy)."),
        sa.Column("endpoint", text(), comment="Opaque endpoint of the device (or hashed, or NULL, by privacy)."),
        sa.Column("message_types", json_text(), comment="JSON array of the subscribed types in normal form, sorted; NULL where the API said null."),
        sa.Column("date_created", UtcDateTime(), comment="UTC."),
        sa.Column("date_updated", UtcDateTime(), comment="UTC."),
        sa.Column("url", text(), comment="URL of the binding, as given."),
        sa.Column("extra", json_text(), comment="JSON object of fields that the API sent and this table has no column for."),
    ]  # fmt: skip


_SERVERS = frozenset({"postgresql", "mysql", "mariadb"})
_ALL_BUT_DUCKDB = _SERVERS | {"sqlite"}


def _index(
    *columns: str,
    engines: Collection[str] = _ALL_BUT_DUCKDB,
    named: str | None = None,
    **options: Any,
) -> sa.Index:
    """Return an index for the engines where it is worth its cost (docs/warehouse.md).

    There, after a kill, the rows that come back from its log are missing in every index but those
    of keys, once somebody has opened and closed the file; the next change of one of them then ends
    the process (seen with 1.5.6).
    """

    def is_one(*_: object, dialect: sa.Dialect, **__: object) -> bool:
        return dialect.name in engines

    info = {"engines": engines, "options": options}
    return sa.Index(named, *columns, info=info).ddl_if(callable_=is_one)


def give_indexes_their_options() -> sa.MetaData:
    """Return `metadata`, its indexes with the options that engines have for them.

    They matter to whoever makes or compares tables, and not to a run: SQLAlchemy loads a dialect
    as soon as an option of it is named.
    """
    for table in metadata.tables.values():
        for index in table.indexes:
            for key, value in index.info["options"].items():
                dialect, _, option = key.partition("_")
                index.dialect_options[dialect][option] = value
    return metadata


def _by_identity(engines: Collection[str]) -> sa.Index:
    """Return an index by identity: a hash on PostgreSQL, by the first 64 characters on MariaDB."""
    start = {"identity": 64}
    hashed = {"postgresql_using": "hash"}
    return _index("identity", engines=engines, mysql_length=start, mariadb_length=start, **hashed)


def _sid(*, primary: bool = False) -> sa.Column[str]:
    return sa.Column(
        "sid", code(34), primary_key=primary, nullable=False, comment="BS… SID of the binding."
    )


def _content_hash() -> sa.Column[str]:
    return sa.Column(
        "content_hash",
        code(32),
        nullable=False,
        comment="Hash of the content: equal hash, equal content.",
    )


def _source_hash() -> sa.Column[str]:
    return sa.Column(
        "source_hash",
        code(32),
        nullable=False,
        comment="Hash of the row as the API sent it, and of the rules applied.",
    )


def _counters(*names: str) -> list[sa.Column[int]]:
    return [
        sa.Column(one, sa.BigInteger(), nullable=False, server_default="0", comment=COUNTERS[one])
        for one in names or COUNTERS
    ]


COUNTERS = {
    "pages": "Pages read by this run.",
    "requests": "Requests sent by this run, retries and confirmations included.",
    "retries": "Requests that were sent again.",
    "fetched": "Rows in those pages; a resumed scan also publishes what was read before.",
    "inserted": "Bindings that were new.",
    "updated": "Bindings whose content changed.",
    "unchanged": "Bindings that were as before.",
    "deleted": "Bindings that were gone.",
    "restored": "Bindings that came back.",
    "rejected": "Rows put into quarantine.",
}

# Where a service's rows are found, compared and counted without a look at the rows themselves:
# after years they lie anywhere in the table, and a batch of 5,000 is 5,000 pages.
_COMPARED = ("source_hash", "content_hash", "deleted_at")
_IS_DELETED = sa.text("deleted_at IS NOT NULL")

bindings = sa.Table(
    "bindings",
    metadata,
    _sid(primary=True),
    *_content(),
    _content_hash(),
    _source_hash(),
    sa.Column("first_seen_at", UtcDateTime(), nullable=False, comment="When a run first published this SID."),
    sa.Column("changed_at", UtcDateTime(), nullable=False, comment="When its content last changed here: insert, update, delete, restore."),
    sa.Column("deleted_at", UtcDateTime(), comment="NULL while active."),
    sa.Column("run_id", sa.BigInteger(), nullable=False, comment="The run that last changed it."),
    _index("chat_service_sid", engines=_ALL_BUT_DUCKDB - {"postgresql"}),
    _index("chat_service_sid", "sid", engines={"postgresql"}, postgresql_include=_COMPARED),
    _by_identity(_SERVERS),
    _index("changed_at"),
    _index("deleted_at", "sid", postgresql_where=_IS_DELETED, sqlite_where=_IS_DELETED),
    comment="One row per binding SID: the current truth.",
)  # fmt: skip

binding_versions = sa.Table(
    "binding_versions",
    metadata,
    sa.Column("id", identifier(), sa.Sequence("binding_versions_id_seq", optional=True), primary_key=True, comment="Counted up."),
    _sid(),
    *_content(),
    _content_hash(),
    sa.Column("first_seen_at", UtcDateTime(), nullable=False, comment="When a run first published this SID."),
    sa.Column("valid_from", UtcDateTime(), nullable=False, comment="Since when this image was the current one."),
    sa.Column("valid_to", UtcDateTime(), nullable=False, comment="Until when."),
    sa.Column("change", code(16), nullable=False, comment="What ended it: updated, deleted or restored."),
    sa.Column("run_id", sa.BigInteger(), nullable=False, comment="The run that ended it."),
    _index("sid", "id"),
    _by_identity(_ALL_BUT_DUCKDB),
    _index("change", "valid_to", engines=_ALL_BUT_DUCKDB - {"postgresql"}),
    _index(
        "change", "valid_to", "chat_service_sid", "binding_type", "account",
        named="ix_binding_versions_change_valid_to", engines={"postgresql"},
    ),
    comment="The images that are past.",
)  # fmt: skip

sync_runs = sa.Table(
    "sync_runs",
    metadata,
    sa.Column("id", identifier(), sa.Sequence("sync_runs_id_seq", optional=True), primary_key=True, comment="Counted up."),
    sa.Column("mode", code(16), nullable=False, comment="sync, backfill, retry, retire or rekey."),
    sa.Column("status", code(16), nullable=False, comment="running, succeeded, partial, failed, refused, interrupted or locked."),
    sa.Column("started_at", UtcDateTime(), nullable=False, comment="UTC."),
    sa.Column("finished_at", UtcDateTime(), comment="UTC; NULL while it runs, or when it was killed."),
    sa.Column("dry_run", sa.Boolean(), nullable=False, comment="Always false: a dry run writes nothing, not even this line."),
    *_counters(),
    sa.Column("error", text(), comment="One sentence, when something went wrong."),
    sa.Column("version", code(64), nullable=False, comment="Version of bindings-etl."),
    sa.Column("host", name(255), nullable=False, comment="Where it ran."),
    sa.Column("run_group", name(128), comment="What --run-group said: a name that runs share which belong together."),
    sa.Column("shard", code(16), comment="What --shard said, I/N; NULL for all services."),
    _index("status"),
    comment="One row per run.",
)  # fmt: skip

sync_scans = sa.Table(
    "sync_scans",
    metadata,
    sa.Column("id", identifier(), sa.Sequence("sync_scans_id_seq", optional=True), primary_key=True, comment="Counted up."),
    sa.Column("run_id", sa.BigInteger(), nullable=False, comment="The run it belongs to."),
    sa.Column("account", name(64), nullable=False, comment="Name of the configured account."),
    sa.Column("chat_service_sid", code(34), nullable=False, comment="The service that was read."),
    sa.Column("scope", name(255), nullable=False, comment="service, or what it was narrowed to; identities only as a hash."),
    sa.Column("status", code(16), nullable=False, comment="running, published, failed, refused, interrupted, locked or skipped."),
    sa.Column("complete", sa.Boolean(), nullable=False, comment="Read from the first page to the last in one go."),
    sa.Column("resumed", sa.Boolean(), nullable=False, comment="Continued where an interrupted scan stopped; such a scan deletes nothing."),
    *_counters(),
    sa.Column("started_at", UtcDateTime(), nullable=False, comment="UTC."),
    sa.Column("finished_at", UtcDateTime(), comment="UTC; NULL while it runs."),
    sa.Column("error", text(), comment="One sentence, when something went wrong, or why deletes were withheld."),
    sa.Column("twilio_request_id", code(64), comment="RQ… of the request that failed, for Twilio's support."),
    sa.Column("changed_fields", text(), comment="JSON object, as text: in how many of the updated bindings each column differed; NULL where none was updated."),
    _index("run_id"),
    _index("status", "chat_service_sid"),
    comment="One row per run and scope.",
)  # fmt: skip

rejected_bindings = sa.Table(
    "rejected_bindings",
    metadata,
    sa.Column("id", identifier(), sa.Sequence("rejected_bindings_id_seq", optional=True), primary_key=True, comment="Counted up."),
    sa.Column("fingerprint", code(64), nullable=False, comment="The SID, or a hash of the payload where the SID cannot be read."),
    sa.Column("run_id", sa.BigInteger(), nullable=False, comment="The run that last rejected it."),
    sa.Column("account", name(64), nullable=False, comment="Name of the configured account."),
    sa.Column("chat_service_sid", code(34), nullable=False, comment="The service that was read."),
    sa.Column("sid", code(34), comment="BS… SID, if readable."),
    sa.Column("reason", text(), nullable=False, comment="Why it could not be loaded."),
    sa.Column("payload", text(), nullable=False, comment="The raw JSON text, complete; what MariaDB cannot hold ends with a note of how much is cut off."),
    sa.Column("first_seen_at", UtcDateTime(), nullable=False, comment="When it was first rejected."),
    sa.Column("last_seen_at", UtcDateTime(), nullable=False, comment="When it was last rejected."),
    sa.Column("resolved_at", UtcDateTime(), comment="NULL while open."),
    sa.UniqueConstraint("chat_service_sid", "fingerprint"),
    comment="The quarantine: rows that could not be loaded.",
)  # fmt: skip

services = sa.Table(
    "services",
    metadata,
    sa.Column("chat_service_sid", code(34), primary_key=True, comment="IS… SID of the service."),
    sa.Column("account", name(64), nullable=False, comment="Name of the configured account that reads it."),
    sa.Column("friendly_name", name(256), comment="Its name at Twilio, from the list of services (or NULL, by privacy)."),
    sa.Column("state", code(16), nullable=False, comment="active, gone (no longer listed and 404 by its SID), or unconfigured."),
    sa.Column("first_seen_at", UtcDateTime(), nullable=False, comment="When it was first listed or read."),
    sa.Column("last_seen_at", UtcDateTime(), nullable=False, comment="When it was last listed or read."),
    sa.Column("gone_at", UtcDateTime(), comment="When its rows were taken out, as it was gone or retired; else NULL."),
    sa.Column("last_complete_at", UtcDateTime(), comment="End of the last scan that read the whole service."),
    sa.Column("active", sa.BigInteger(), nullable=False, server_default="0", comment="Bindings that exist."),
    sa.Column("deleted", sa.BigInteger(), nullable=False, server_default="0", comment="Bindings that are marked as deleted."),
    sa.Column("deletes_held", sa.BigInteger(), nullable=False, server_default="0", comment="Absent bindings that the guard kept at the last reading."),
    comment="One row per service that was ever listed or read.",
)  # fmt: skip

service_parts = sa.Table(
    "service_parts",
    metadata,
    sa.Column("chat_service_sid", code(34), primary_key=True, comment="IS… SID of the service."),
    sa.Column("binding_type", code(16), primary_key=True, comment="apn, fcm, gcm or twilsock."),
    sa.Column("read_at", UtcDateTime(), nullable=False, comment="End of the last scan that read this type completely."),
    sa.Column("deletes_held", sa.BigInteger(), nullable=False, server_default="0", comment="Absent bindings of this type that the guard kept then."),
    comment="The binding types that were read since the service was last read as a whole.",
)  # fmt: skip

schema_drift = sa.Table(
    "schema_drift",
    metadata,
    sa.Column("chat_service_sid", code(34), primary_key=True, comment="The service that sends it."),
    sa.Column("kind", code(16), primary_key=True, comment="field (one without a column), binding_type, message_type or time_form."),
    sa.Column("name", name(255), primary_key=True, comment="Its name; of a time its form, with 0 for each digit. Never a value."),
    sa.Column("account", name(64), nullable=False, comment="Name of the configured account."),
    sa.Column("first_seen_at", UtcDateTime(), nullable=False, comment="When it was first seen."),
    sa.Column("row_count", sa.BigInteger(), nullable=False, server_default="0", comment="Active bindings that have it, counted whenever the service changes; of a time_form, which no row keeps, the most rows that one reading met in it."),
    comment="What the API sends that the program did not know of; up to 50 of a kind and service.",
)  # fmt: skip

shard_assignments = sa.Table(
    "shard_assignments",
    metadata,
    sa.Column("run_group", name(128), primary_key=True, comment="What --run-group said."),
    sa.Column("spread", name(64), primary_key=True, comment="Name of the configured account, or the AC… SID of all accounts with `services: all` of one owner."),
    sa.Column("shards", sa.Integer(), primary_key=True, autoincrement=False, comment="N of --shard I/N."),
    sa.Column("assigned_at", UtcDateTime(), nullable=False, comment="When the group's first process wrote it down."),
    sa.Column("places", text(), nullable=False, comment="JSON object: SID of each service and the place of the shard that reads it, counted from the account's first one."),
    comment="Which process of a run group reads which service, so that all end at about the same time.",
)  # fmt: skip

privacy_rules = sa.Table(
    "privacy_rules",
    metadata,
    sa.Column("state", code(16), primary_key=True, comment="current: what rows are written by; next: what they are being rewritten to."),
    sa.Column("identity", code(16), nullable=False, comment="keep, hmac or drop."),
    sa.Column("endpoint", code(16), nullable=False, comment="keep, hmac or drop."),
    sa.Column("key_check", code(64), comment="Tells whether a key is the one that was used; the key cannot be had from it. NULL where nothing is hashed."),
    sa.Column("past_key_checks", text(), comment="Of current: the same of earlier keys, whose hashes may still be stored; JSON array, NULL where there are none."),
    sa.Column("at_table", name(64), comment="Of next: the table that is being rewritten."),
    sa.Column("at_key", name(64), comment="Of next: the last key in it that is done; NULL before the first."),
    comment="How rows are written as far as they name people; no key and no name.",
)  # fmt: skip

sync_leases = sa.Table(
    "sync_leases",
    metadata,
    sa.Column("chat_service_sid", code(34), primary_key=True, comment="The service."),
    sa.Column("scope", name(255), primary_key=True, comment="Which part of it."),
    sa.Column("owner", code(36), nullable=False, comment="Token of the scan that holds it."),
    sa.Column("run_id", sa.BigInteger(), nullable=False, comment="The run that holds it."),
    sa.Column("host", name(255), nullable=False, comment="Where that run works."),
    sa.Column("acquired_at", UtcDateTime(), nullable=False, comment="UTC, by the warehouse's clock."),
    sa.Column("expires_at", UtcDateTime(), nullable=False, comment="Free for others from then on, by the warehouse's clock."),
    comment="Who is working on which service, until when.",
)  # fmt: skip

sync_gates = sa.Table(
    "sync_gates",
    metadata,
    sa.Column("chat_service_sid", code(34), primary_key=True, comment="The service."),
    sa.Column("passed", sa.BigInteger(), server_default="0", comment="Counted up by whoever passes, where conflicts are found at COMMIT."),
    comment="One row per service that was ever worked on: locked for a moment by whoever takes a lease or publishes a part of it.",
)  # fmt: skip

page_links = sa.Table(
    "page_links",
    metadata,
    sa.Column("chat_service_sid", code(34), primary_key=True, comment="The service."),
    sa.Column("scope", name(255), primary_key=True, comment="Which part of it was listed."),
    sa.Column("rows_before", sa.BigInteger(), primary_key=True, autoincrement=False, comment="Rows that were listed before the page."),
    sa.Column("account", name(64), nullable=False, comment="Name of the configured account."),
    sa.Column("page_size", sa.Integer(), nullable=False, comment="Rows a page that were asked for."),
    sa.Column("link", text(), nullable=False, comment="Where the page began; may hold a filter or a SID, so treat it as personal data."),
    sa.Column("scan_id", sa.BigInteger(), nullable=False, comment="The scan that read it."),
    comment="Where pages of the last complete reading began, up to 64 of a listing; only with chains_per_service.",
)  # fmt: skip

scan_progress = sa.Table(
    "scan_progress",
    metadata,
    sa.Column("stage_id", sa.BigInteger(), primary_key=True, autoincrement=False, comment="Id of the scan that began it; below zero, a chain of it that is not linked with the first one yet (chains_per_service)."),
    sa.Column("account", name(64), nullable=False, comment="Name of the configured account."),
    sa.Column("chat_service_sid", code(34), nullable=False, comment="The service."),
    sa.Column("scope", name(255), nullable=False, comment="Which part of it."),
    sa.Column("rules", code(64), nullable=False, comment="Digest of the normalization rules that the staged rows were made by."),
    sa.Column("next_link", text(), nullable=False, comment="Where to go on; may hold a filter, so treat it as personal data."),
    sa.Column("pages", sa.BigInteger(), nullable=False, comment="Pages read so far."),
    sa.Column("fetched", sa.BigInteger(), nullable=False, comment="Rows read so far."),
    sa.Column("updated_at", UtcDateTime(), nullable=False, comment="When the last batch was committed."),
    sa.Column("rows_before", sa.BigInteger(), comment="Rows that lay before its chain when the listing was last read."),
    sa.Column("rows_read", sa.BigInteger(), comment="Rows that this chain had read before next_link."),
    sa.Column("first_page", text(), comment="How this chain began, JSON array of SIDs (or hashes of rows without one): where the chain before it comes upon them, both are linked. NULL of the first chain."),
    comment="Where an unfinished scan can go on.",
)  # fmt: skip

scan_seen = sa.Table(
    "scan_seen",
    metadata,
    sa.Column(
        "stage_id",
        sa.BigInteger(),
        primary_key=True,
        autoincrement=False,
        comment="The scan's stage.",
    ),
    sa.Column(
        "batch",
        sa.BigInteger(),
        primary_key=True,
        autoincrement=False,
        comment="Number of the batch, rising.",
    ),
    # One line a batch and not one a SID: a repeat of 100,000 rows then writes 20 lines instead of
    # 100,000.
    sa.Column(
        "sids",
        text(),
        nullable=False,
        comment="The SIDs that the batch met, as a list in the engine's own form.",
    ),
    comment="SIDs that an unfinished scan has met.",
)

scan_absent = sa.Table(
    "scan_absent",
    metadata,
    sa.Column("stage_id", sa.BigInteger(), primary_key=True, autoincrement=False, comment="The scan's stage."),
    _sid(primary=True),
    sa.Column("changed_at", UtcDateTime(), nullable=False, comment="Its `changed_at` then; what has changed since is not deleted."),
    comment="Active bindings that a scan did not meet: exactly these it may delete.",
)  # fmt: skip

scan_staged = sa.Table(
    "scan_staged",
    metadata,
    sa.Column(
        "stage_id",
        sa.BigInteger(),
        primary_key=True,
        autoincrement=False,
        comment="The scan's stage.",
    ),
    sa.Column(
        "batch",
        sa.BigInteger(),
        primary_key=True,
        autoincrement=False,
        comment="Number of the batch, rising.",
    ),
    _sid(primary=True),
    *_content(),
    _content_hash(),
    _source_hash(),
    comment="New and changed rows that an unfinished scan has read.",
)

STAGE = (scan_staged, scan_seen, scan_absent, scan_progress)
"""What an unfinished scan leaves behind, each line under its `stage_id`."""

CONTENT = Row._fields[:-2]
"""Names of the content columns."""

CARRIED = Row._fields
"""What staging hands over to `bindings`: content and both hashes."""

_JSON = ("message_types", "extra")


def json_as_text(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return a column to be read: what is JSON as the text that it is."""
    return sa.cast(column, sa.Text).label(column.name) if column.name in _JSON else column
