"""Rows with fields unknown to the table are looked at again: their numbers were stored as floats."""

from alembic import op

revision = "20261125_02"
down_revision = "20261125_01"

# As wide as a hash and equal to none, so that the next reading shapes these rows anew.
_STALE = "0" * 32


def upgrade() -> None:
    """Make the source hashes of these rows stale."""
    for table in ("bindings", "scan_staged"):
        op.execute(f"UPDATE {table} SET source_hash = '{_STALE}' WHERE extra IS NOT NULL")


def downgrade() -> None:
    """Nothing to take back: a stale hash costs another look."""
