"""DuckDB has no indexes but those of keys: after a kill they miss rows."""

from alembic import op

revision = "20261125_06"
down_revision = "20261125_05"

_INDEXES = (
    ("ix_bindings_chat_service_sid", "bindings", ["chat_service_sid"]),
    ("ix_binding_versions_sid_id", "binding_versions", ["sid", "id"]),
    ("ix_sync_scans_run_id", "sync_scans", ["run_id"]),
    ("ix_sync_scans_status_chat_service_sid", "sync_scans", ["status", "chat_service_sid"]),
)


def upgrade() -> None:
    """Drop them; what they miss is in the tables."""
    if op.get_context().dialect.name == "duckdb":
        for name, table, _columns in _INDEXES:
            op.drop_index(name, table)


def downgrade() -> None:
    """Make them anew."""
    if op.get_context().dialect.name == "duckdb":
        for name, table, columns in _INDEXES:
            op.create_index(name, table, columns)
