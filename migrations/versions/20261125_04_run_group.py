"""Runs that are one to whoever started them share a name, and say which shard they were."""

import sqlalchemy as sa
from alembic import op
from etl_frozen import columns_0_2 as types

revision = "20261125_04"
down_revision = "20261125_03"


def upgrade() -> None:
    """Add both columns; runs of the past have neither."""
    op.add_column(
        "sync_runs",
        sa.Column(
            "run_group",
            types.name(128),
            comment="What --run-group said: a name that runs share which belong together.",
        ),
    )
    op.add_column(
        "sync_runs",
        sa.Column(
            "shard", types.code(16), comment="What --shard said, I/N; NULL for all services."
        ),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_column("sync_runs", "shard")
    op.drop_column("sync_runs", "run_group")
