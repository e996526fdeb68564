"""The processes of a run group share its services by size: who reads what is written down."""

import sqlalchemy as sa
from alembic import op
from etl_frozen.columns_0_2 import moment, name, text

revision = "20261127_01"
down_revision = "20261125_09"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "shard_assignments",
        sa.Column("run_group", name(128), nullable=False, comment="What --run-group said."),
        sa.Column("spread", name(64), nullable=False, comment="Name of the configured account, or the AC… SID of all accounts with `services: all` of one owner."),
        sa.Column("shards", sa.Integer(), autoincrement=False, nullable=False, comment="N of --shard I/N."),
        sa.Column("assigned_at", moment(), nullable=False, comment="When the group's first process wrote it down."),
        sa.Column("places", text(), nullable=False, comment="JSON object: SID of each service and the place of the shard that reads it, counted from the account's first one."),
        sa.PrimaryKeyConstraint("run_group", "spread", "shards", name="pk_shard_assignments"),
        comment="Which process of a run group reads which service, so that all end at about the same time.",
    )  # fmt: skip


def downgrade() -> None:
    """Drop it."""
    op.drop_table("shard_assignments")
