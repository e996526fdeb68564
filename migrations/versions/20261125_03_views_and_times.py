"""DuckDB's times have a zone; MariaDB's views work with the rights of whoever asks."""

from alembic import op
from etl_frozen import views_0_1
from etl_frozen.views import create_view, drop_view

revision = "20261125_03"
down_revision = "20261125_02"

_TIMES = {
    "bindings": ("date_created", "date_updated", "first_seen_at", "changed_at", "deleted_at"),
    "binding_versions": ("date_created", "date_updated", "first_seen_at", "valid_from", "valid_to"),
    "sync_runs": ("started_at", "finished_at"),
    "sync_scans": ("started_at", "finished_at"),
    "rejected_bindings": ("first_seen_at", "last_seen_at", "resolved_at"),
    "sync_leases": ("acquired_at", "expires_at"),
    "scan_progress": ("updated_at",),
    "scan_staged": ("date_created", "date_updated"),
}

# DuckDB changes no column of a table that has an index.
_INDEXES = (
    ("ix_bindings_chat_service_sid", "bindings", ["chat_service_sid"]),
    ("ix_binding_versions_sid_id", "binding_versions", ["sid", "id"]),
    ("ix_sync_scans_run_id", "sync_scans", ["run_id"]),
    ("ix_sync_scans_status_chat_service_sid", "sync_scans", ["status", "chat_service_sid"]),
)


def upgrade() -> None:
    """Make the views anew, on DuckDB upon columns with a zone."""
    dialect = op.get_context().dialect.name
    if dialect in ("duckdb", "mariadb", "mysql"):
        _drop_views()
        if dialect == "duckdb":
            _change_times("TIMESTAMP WITH TIME ZONE")
        for name, body in views_0_1.bodies(dialect).items():
            create_view(name, body, *views_0_1.COMMENTS[name])


def downgrade() -> None:
    """Back to times without a zone, and to views with the rights of their creator."""
    dialect = op.get_context().dialect.name
    if dialect == "duckdb":
        _drop_views()
        _change_times("TIMESTAMP")
        for name, body in views_0_1.bodies(dialect).items():
            create_view(name, body, *views_0_1.COMMENTS[name])
    elif dialect in ("mariadb", "mysql"):
        _drop_views()
        for name, body in views_0_1.bodies(dialect).items():
            op.execute(f"CREATE VIEW {name} AS{body}")


def _drop_views() -> None:
    for name in reversed(views_0_1.COMMENTS):
        drop_view(name)


def _change_times(kind: str) -> None:
    """In both directions, what has no zone is UTC."""
    for index, table, _columns in _INDEXES:
        op.drop_index(index, table)
    for table, columns in _TIMES.items():
        for column in columns:
            op.execute(
                f"ALTER TABLE {table} ALTER COLUMN {column} "
                f"SET DATA TYPE {kind} USING {column} AT TIME ZONE 'UTC'"
            )
    for index, table, names in _INDEXES:
        op.create_index(index, table, names)
