"""What a scan did not meet is written down once, so that nothing else is deleted."""

import sqlalchemy as sa
from alembic import op
from etl_frozen import columns_0_2 as types

revision = "20261125_01"
down_revision = "20261123_02"


def upgrade() -> None:
    """Create the list."""
    op.create_table(
        "scan_absent",
        sa.Column(
            "stage_id",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="The scan's stage.",
        ),
        sa.Column("sid", types.code(34), nullable=False, comment="BS… SID of the binding."),
        sa.Column(
            "changed_at",
            types.moment(),
            nullable=False,
            comment="Its `changed_at` then; what has changed since is not deleted.",
        ),
        sa.PrimaryKeyConstraint("stage_id", "sid", name="pk_scan_absent"),
        comment="Active bindings that a scan did not meet: exactly these it may delete.",
    )
    if op.get_context().dialect.name == "postgresql":
        # As the other tables of a stage: losing it in a crash of the server costs a scan.
        op.execute("ALTER TABLE scan_absent SET UNLOGGED")


def downgrade() -> None:
    """Drop it."""
    op.drop_table("scan_absent")
