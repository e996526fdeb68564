"""Who passes a gate can write it: where a conflict is found at COMMIT only, a lock keeps nobody out."""

import sqlalchemy as sa
from alembic import op

revision = "20261128_01"
down_revision = "20261127_04"


def upgrade() -> None:
    """Add the counter."""
    op.add_column(
        "sync_gates",
        sa.Column(
            "passed",
            sa.BigInteger(),
            server_default="0",
            comment="Counted up by whoever passes, where conflicts are found at COMMIT.",
        ),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_column("sync_gates", "passed")
