"""The tables."""

import sqlalchemy as sa
from alembic import op
from etl_frozen import columns_0_1 as types

revision = "20261123_01"
down_revision = None

_STAGING = ("scan_progress", "scan_seen", "scan_staged")
_SEQUENCES = (
    "binding_versions_id_seq",
    "sync_runs_id_seq",
    "sync_scans_id_seq",
    "rejected_bindings_id_seq",
)
_TABLES = (
    "bindings",
    "binding_versions",
    "sync_runs",
    "sync_scans",
    "rejected_bindings",
    "sync_leases",
    "sync_gates",
    *_STAGING,
)


def upgrade() -> None:
    """Create everything."""
    dialect = op.get_context().dialect.name
    if dialect in ("duckdb", "snowflake"):  # has no other way to count up, or none that tells
        for sequence in _SEQUENCES:
            op.execute(sa.schema.CreateSequence(sa.Sequence(sequence)))
    _create_tables()
    if dialect == "postgresql":
        # Losing staging in a crash of the server costs a scan, never a row of `bindings`: it need not be logged.
        for table in _STAGING:
            op.execute(f"ALTER TABLE {table} SET UNLOGGED")
        # Compressing lists that live for seconds costs more than it saves.
        op.execute("ALTER TABLE scan_seen ALTER COLUMN sids SET STORAGE EXTERNAL")


def downgrade() -> None:
    """Drop everything."""
    for table in reversed(_TABLES):
        op.drop_table(table)
    if op.get_context().dialect.name in ("duckdb", "snowflake"):
        for sequence in _SEQUENCES:
            op.execute(sa.schema.DropSequence(sa.Sequence(sequence)))


def _create_tables() -> None:
    op.create_table(
        "bindings",
        sa.Column("sid", types.code(34), nullable=False, comment="BS… SID of the binding."),
        sa.Column(
            "account", types.name(64), nullable=False, comment="Name of the configured account."
        ),
        sa.Column("account_sid", types.code(34), comment="AC… SID of the owner, as given."),
        sa.Column(
            "chat_service_sid",
            types.code(34),
            nullable=False,
            comment="IS… SID of the service that was read.",
        ),
        sa.Column("credential_sid", types.code(34), comment="CR… SID of the push credential."),
        sa.Column(
            "binding_type",
            types.name(255),
            comment="apn, fcm, gcm, twilsock or what else the API says, lower case.",
        ),
        sa.Column(
            "identity",
            types.text(),
            comment="Identity of the Conversation User (or hashed, or NULL, by privacy).",
        ),
        sa.Column(
            "endpoint",
            types.text(),
            comment="Opaque endpoint of the device (or hashed, or NULL, by privacy).",
        ),
        sa.Column(
            "message_types",
            types.json_text(),
            comment="JSON array of the subscribed types in normal form, sorted; NULL where the API said null.",
        ),
        sa.Column("date_created", types.moment(), comment="UTC."),
        sa.Column("date_updated", types.moment(), comment="UTC."),
        sa.Column("url", types.text(), comment="URL of the binding, as given."),
        sa.Column(
            "extra",
            types.json_text(),
            comment="JSON object of fields that the API sent and this table has no column for.",
        ),
        sa.Column(
            "content_hash",
            types.code(32),
            nullable=False,
            comment="Hash of the content: equal hash, equal content.",
        ),
        sa.Column(
            "source_hash",
            types.code(32),
            nullable=False,
            comment="Hash of the row as the API sent it, and of the rules applied.",
        ),
        sa.Column(
            "first_seen_at",
            types.moment(),
            nullable=False,
            comment="When a run first published this SID.",
        ),
        sa.Column(
            "changed_at",
            types.moment(),
            nullable=False,
            comment="When its content last changed here: insert, update, delete, restore.",
        ),
        sa.Column("deleted_at", types.moment(), comment="NULL while active."),
        sa.Column(
            "run_id", sa.BigInteger(), nullable=False, comment="The run that last changed it."
        ),
        sa.PrimaryKeyConstraint("sid", name="pk_bindings"),
        comment="One row per binding SID: the current truth.",
    )
    op.create_index("ix_bindings_chat_service_sid", "bindings", ["chat_service_sid"])
    op.create_table(
        "binding_versions",
        sa.Column(
            "id",
            types.identifier(),
            sa.Sequence("binding_versions_id_seq", optional=True),
            nullable=False,
            comment="Counted up.",
        ),
        sa.Column("sid", types.code(34), nullable=False, comment="BS… SID of the binding."),
        sa.Column(
            "account", types.name(64), nullable=False, comment="Name of the configured account."
        ),
        sa.Column("account_sid", types.code(34), comment="AC… SID of the owner, as given."),
        sa.Column(
            "chat_service_sid",
            types.code(34),
            nullable=False,
            comment="IS… SID of the service that was read.",
        ),
        sa.Column("credential_sid", types.code(34), comment="CR… SID of the push credential."),
        sa.Column(
            "binding_type",
            types.name(255),
            comment="apn, fcm, gcm, twilsock or what else the API says, lower case.",
        ),
        sa.Column(
            "identity",
            types.text(),
            comment="Identity of the Conversation User (or hashed, or NULL, by privacy).",
        ),
        sa.Column(
            "endpoint",
            types.text(),
            comment="Opaque endpoint of the device (or hashed, or NULL, by privacy).",
        ),
        sa.Column(
            "message_types",
            types.json_text(),
            comment="JSON array of the subscribed types in normal form, sorted; NULL where the API said null.",
        ),
        sa.Column("date_created", types.moment(), comment="UTC."),
        sa.Column("date_updated", types.moment(), comment="UTC."),
        sa.Column("url", types.text(), comment="URL of the binding, as given."),
        sa.Column(
            "extra",
            types.json_text(),
            comment="JSON object of fields that the API sent and this table has no column for.",
        ),
        sa.Column(
            "content_hash",
            types.code(32),
            nullable=False,
            comment="Hash of the content: equal hash, equal content.",
        ),
        sa.Column(
            "first_seen_at",
            types.moment(),
            nullable=False,
            comment="When a run first published this SID.",
        ),
        sa.Column(
            "valid_from",
            types.moment(),
            nullable=False,
            comment="Since when this image was the current one.",
        ),
        sa.Column("valid_to", types.moment(), nullable=False, comment="Until when."),
        sa.Column(
            "change",
            types.code(16),
            nullable=False,
            comment="What ended it: updated, deleted or restored.",
        ),
        sa.Column("run_id", sa.BigInteger(), nullable=False, comment="The run that ended it."),
        sa.PrimaryKeyConstraint("id", name="pk_binding_versions"),
        comment="The images that are past.",
    )
    op.create_index("ix_binding_versions_sid_id", "binding_versions", ["sid", "id"])
    op.create_table(
        "sync_runs",
        sa.Column(
            "id",
            types.identifier(),
            sa.Sequence("sync_runs_id_seq", optional=True),
            nullable=False,
            comment="Counted up.",
        ),
        sa.Column("mode", types.code(16), nullable=False, comment="sync, backfill or retry."),
        sa.Column(
            "status",
            types.code(16),
            nullable=False,
            comment="running, succeeded, partial, failed, refused, interrupted or locked.",
        ),
        sa.Column("started_at", types.moment(), nullable=False, comment="UTC."),
        sa.Column(
            "finished_at",
            types.moment(),
            comment="UTC; NULL while it runs, or when it was killed.",
        ),
        sa.Column(
            "dry_run",
            sa.Boolean(),
            nullable=False,
            comment="Always false: a dry run writes nothing, not even this line.",
        ),
        sa.Column(
            "pages",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Pages read by this run.",
        ),
        sa.Column(
            "requests",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Requests sent by this run, retries and confirmations included.",
        ),
        sa.Column(
            "retries",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Requests that were sent again.",
        ),
        sa.Column(
            "fetched",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Rows in those pages; a resumed scan also publishes what was read before.",
        ),
        sa.Column(
            "inserted",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Bindings that were new.",
        ),
        sa.Column(
            "updated",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Bindings whose content changed.",
        ),
        sa.Column(
            "unchanged",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Bindings that were as before.",
        ),
        sa.Column(
            "deleted",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Bindings that were gone.",
        ),
        sa.Column(
            "restored",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Bindings that came back.",
        ),
        sa.Column(
            "rejected",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Rows put into quarantine.",
        ),
        sa.Column("error", types.text(), comment="One sentence, when something went wrong."),
        sa.Column("version", types.code(64), nullable=False, comment="Version of bindings-etl."),
        sa.Column("host", types.name(255), nullable=False, comment="Where it ran."),
        sa.PrimaryKeyConstraint("id", name="pk_sync_runs"),
        comment="One row per run.",
    )
    op.create_table(
        "sync_scans",
        sa.Column(
            "id",
            types.identifier(),
            sa.Sequence("sync_scans_id_seq", optional=True),
            nullable=False,
            comment="Counted up.",
        ),
        sa.Column("run_id", sa.BigInteger(), nullable=False, comment="The run it belongs to."),
        sa.Column(
            "account", types.name(64), nullable=False, comment="Name of the configured account."
        ),
        sa.Column(
            "chat_service_sid", types.code(34), nullable=False, comment="The service that was read."
        ),
        sa.Column(
            "scope",
            types.name(255),
            nullable=False,
            comment="service, or what it was narrowed to; identities only as a hash.",
        ),
        sa.Column(
            "status",
            types.code(16),
            nullable=False,
            comment="running, published, failed, refused, interrupted, locked or skipped.",
        ),
        sa.Column(
            "complete",
            sa.Boolean(),
            nullable=False,
            comment="Read from the first page to the last in one go.",
        ),
        sa.Column(
            "resumed",
            sa.Boolean(),
            nullable=False,
            comment="Continued where an interrupted scan stopped; such a scan deletes nothing.",
        ),
        sa.Column(
            "pages",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Pages read by this run.",
        ),
        sa.Column(
            "requests",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Requests sent by this run, retries and confirmations included.",
        ),
        sa.Column(
            "retries",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Requests that were sent again.",
        ),
        sa.Column(
            "fetched",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Rows in those pages; a resumed scan also publishes what was read before.",
        ),
        sa.Column(
            "inserted",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Bindings that were new.",
        ),
        sa.Column(
            "updated",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Bindings whose content changed.",
        ),
        sa.Column(
            "unchanged",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Bindings that were as before.",
        ),
        sa.Column(
            "deleted",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Bindings that were gone.",
        ),
        sa.Column(
            "restored",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Bindings that came back.",
        ),
        sa.Column(
            "rejected",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="Rows put into quarantine.",
        ),
        sa.Column("started_at", types.moment(), nullable=False, comment="UTC."),
        sa.Column("finished_at", types.moment(), comment="UTC; NULL while it runs."),
        sa.Column(
            "error",
            types.text(),
            comment="One sentence, when something went wrong, or why deletes were withheld.",
        ),
        sa.Column(
            "twilio_request_id",
            types.code(64),
            comment="RQ… of the request that failed, for Twilio's support.",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_sync_scans"),
        comment="One row per run and scope.",
    )
    op.create_index(
        "ix_sync_scans_status_chat_service_sid", "sync_scans", ["status", "chat_service_sid"]
    )
    op.create_index("ix_sync_scans_run_id", "sync_scans", ["run_id"])
    op.create_table(
        "rejected_bindings",
        sa.Column(
            "id",
            types.identifier(),
            sa.Sequence("rejected_bindings_id_seq", optional=True),
            nullable=False,
            comment="Counted up.",
        ),
        sa.Column(
            "fingerprint",
            types.code(64),
            nullable=False,
            comment="The SID, or a hash of the payload where the SID cannot be read.",
        ),
        sa.Column(
            "run_id", sa.BigInteger(), nullable=False, comment="The run that last rejected it."
        ),
        sa.Column(
            "account", types.name(64), nullable=False, comment="Name of the configured account."
        ),
        sa.Column(
            "chat_service_sid", types.code(34), nullable=False, comment="The service that was read."
        ),
        sa.Column("sid", types.code(34), comment="BS… SID, if readable."),
        sa.Column("reason", types.text(), nullable=False, comment="Why it could not be loaded."),
        sa.Column(
            "payload",
            types.text(),
            nullable=False,
            comment="The raw JSON text, complete; what MariaDB cannot hold ends with a note of how much is cut off.",
        ),
        sa.Column(
            "first_seen_at",
            types.moment(),
            nullable=False,
            comment="When it was first rejected.",
        ),
        sa.Column(
            "last_seen_at",
            types.moment(),
            nullable=False,
            comment="When it was last rejected.",
        ),
        sa.Column("resolved_at", types.moment(), comment="NULL while open."),
        sa.PrimaryKeyConstraint("id", name="pk_rejected_bindings"),
        sa.UniqueConstraint(
            "chat_service_sid",
            "fingerprint",
            name="uq_rejected_bindings_chat_service_sid_fingerprint",
        ),
        comment="The quarantine: rows that could not be loaded.",
    )
    op.create_table(
        "sync_leases",
        sa.Column("chat_service_sid", types.code(34), nullable=False, comment="The service."),
        sa.Column("scope", types.name(255), nullable=False, comment="Which part of it."),
        sa.Column(
            "owner", types.code(36), nullable=False, comment="Token of the process that holds it."
        ),
        sa.Column("run_id", sa.BigInteger(), nullable=False, comment="The run that holds it."),
        sa.Column("host", types.name(255), nullable=False, comment="Where that run works."),
        sa.Column(
            "acquired_at",
            types.moment(),
            nullable=False,
            comment="UTC, by the warehouse's clock.",
        ),
        sa.Column(
            "expires_at",
            types.moment(),
            nullable=False,
            comment="Free for others from then on, by the warehouse's clock.",
        ),
        sa.PrimaryKeyConstraint("chat_service_sid", "scope", name="pk_sync_leases"),
        comment="Who is working on which service, until when.",
    )
    op.create_table(
        "sync_gates",
        sa.Column("chat_service_sid", types.code(34), nullable=False, comment="The service."),
        sa.PrimaryKeyConstraint("chat_service_sid", name="pk_sync_gates"),
        comment="One row per service that was ever worked on: locked for a moment by whoever takes a lease or publishes a part of it.",
    )
    op.create_table(
        "scan_progress",
        sa.Column(
            "stage_id",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="Id of the scan that began it.",
        ),
        sa.Column(
            "account", types.name(64), nullable=False, comment="Name of the configured account."
        ),
        sa.Column("chat_service_sid", types.code(34), nullable=False, comment="The service."),
        sa.Column("scope", types.name(255), nullable=False, comment="Which part of it."),
        sa.Column(
            "rules",
            types.code(64),
            nullable=False,
            comment="Digest of the normalization rules that the staged rows were made by.",
        ),
        sa.Column(
            "next_link",
            types.text(),
            nullable=False,
            comment="Where to go on; may hold a filter, so treat it as personal data.",
        ),
        sa.Column("pages", sa.BigInteger(), nullable=False, comment="Pages read so far."),
        sa.Column("fetched", sa.BigInteger(), nullable=False, comment="Rows read so far."),
        sa.Column(
            "updated_at",
            types.moment(),
            nullable=False,
            comment="When the last batch was committed.",
        ),
        sa.PrimaryKeyConstraint("stage_id", name="pk_scan_progress"),
        comment="Where an unfinished scan can go on.",
    )
    op.create_table(
        "scan_seen",
        sa.Column(
            "stage_id",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="The scan's stage.",
        ),
        sa.Column(
            "batch",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="Number of the batch, rising.",
        ),
        sa.Column(
            "sids",
            types.text(),
            nullable=False,
            comment="The SIDs that the batch met, as a list in the engine's own form.",
        ),
        sa.PrimaryKeyConstraint("stage_id", "batch", name="pk_scan_seen"),
        comment="SIDs that an unfinished scan has met.",
    )
    op.create_table(
        "scan_staged",
        sa.Column(
            "stage_id",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="The scan's stage.",
        ),
        sa.Column(
            "batch",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="Number of the batch, rising.",
        ),
        sa.Column("sid", types.code(34), nullable=False, comment="BS… SID of the binding."),
        sa.Column(
            "account", types.name(64), nullable=False, comment="Name of the configured account."
        ),
        sa.Column("account_sid", types.code(34), comment="AC… SID of the owner, as given."),
        sa.Column(
            "chat_service_sid",
            types.code(34),
            nullable=False,
            comment="IS… SID of the service that was read.",
        ),
        sa.Column("credential_sid", types.code(34), comment="CR… SID of the push credential."),
        sa.Column(
            "binding_type",
            types.name(255),
            comment="apn, fcm, gcm, twilsock or what else the API says, lower case.",
        ),
        sa.Column(
            "identity",
            types.text(),
            comment="Identity of the Conversation User (or hashed, or NULL, by privacy).",
        ),
        sa.Column(
            "endpoint",
            types.text(),
            comment="Opaque endpoint of the device (or hashed, or NULL, by privacy).",
        ),
        sa.Column(
            "message_types",
            types.json_text(),
            comment="JSON array of the subscribed types in normal form, sorted; NULL where the API said null.",
        ),
        sa.Column("date_created", types.moment(), comment="UTC."),
        sa.Column("date_updated", types.moment(), comment="UTC."),
        sa.Column("url", types.text(), comment="URL of the binding, as given."),
        sa.Column(
            "extra",
            types.json_text(),
            comment="JSON object of fields that the API sent and this table has no column for.",
        ),
        sa.Column(
            "content_hash",
            types.code(32),
            nullable=False,
            comment="Hash of the content: equal hash, equal content.",
        ),
        sa.Column(
            "source_hash",
            types.code(32),
            nullable=False,
            comment="Hash of the row as the API sent it, and of the rules applied.",
        ),
        sa.PrimaryKeyConstraint("stage_id", "batch", "sid", name="pk_scan_staged"),
        comment="New and changed rows that an unfinished scan has read.",
    )
