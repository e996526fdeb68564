"""Indexes for what is asked beside a run: by identity, by time of change, by what is deleted."""

import sqlalchemy as sa
from alembic import op

revision = "20261125_07"
down_revision = "20261125_06"

_OF_SERVICE = "ix_bindings_chat_service_sid"
_COVERING = "ix_bindings_chat_service_sid_sid"


def _of_people(dialect: str) -> tuple[str, ...]:
    """On SQLite it would cost a first load of `bindings` more than it gives."""
    return ("binding_versions",) if dialect == "sqlite" else ("bindings", "binding_versions")


def upgrade() -> None:
    """Make what suits the engine; DuckDB reads columns faster than it keeps indexes."""
    dialect = op.get_context().dialect.name
    if dialect == "duckdb":
        return
    if dialect == "postgresql":
        op.create_index(
            _COVERING,
            "bindings",
            ["chat_service_sid", "sid"],
            postgresql_include=["source_hash", "content_hash", "deleted_at"],
        )
        op.drop_index(_OF_SERVICE, "bindings")
    for table in _of_people(dialect):
        op.create_index(
            f"ix_{table}_identity",
            table,
            ["identity"],
            postgresql_using="hash",
            mysql_length={"identity": 64},
            mariadb_length={"identity": 64},
        )
    op.create_index("ix_bindings_changed_at", "bindings", ["changed_at"])
    op.create_index(
        "ix_bindings_deleted_at_sid",
        "bindings",
        ["deleted_at", "sid"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
        sqlite_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        "ix_binding_versions_change_valid_to", "binding_versions", ["change", "valid_to"]
    )
    op.create_index("ix_sync_runs_status", "sync_runs", ["status"])


def downgrade() -> None:
    """Leave those of before."""
    dialect = op.get_context().dialect.name
    if dialect != "duckdb":
        op.drop_index("ix_sync_runs_status", "sync_runs")
        op.drop_index("ix_binding_versions_change_valid_to", "binding_versions")
        op.drop_index("ix_bindings_deleted_at_sid", "bindings")
        op.drop_index("ix_bindings_changed_at", "bindings")
        for table in _of_people(dialect):
            op.drop_index(f"ix_{table}_identity", table)
    if dialect == "postgresql":
        op.create_index(_OF_SERVICE, "bindings", ["chat_service_sid"])
        op.drop_index(_COVERING, "bindings")
