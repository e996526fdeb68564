"""Who passes a gate can write it: where a conflict is found at COMMIT only, a lock keeps nobody out."""

import sqlalchemy as sa
from alembic import op

revision = "20261128_01"
down_revision = "20261127_04"


def upgrade() -> None:
    """Add the counter; on Snowflake, where no key is enforced, the gate of all who write, too."""
    op.add_column(
        "sync_gates",
        sa.Column(
            "passed",
            sa.BigInteger(),
            server_default="0",
            comment="Counted up by whoever passes, where conflicts are found at COMMIT.",
        ),
    )
    if _is_snowflake():
        op.execute("INSERT INTO sync_gates (chat_service_sid, passed) VALUES ('*', 0)")


def downgrade() -> None:
    """Drop them."""
    if _is_snowflake():
        op.execute("DELETE FROM sync_gates WHERE chat_service_sid = '*'")
    op.drop_column("sync_gates", "passed")


def _is_snowflake() -> bool:
    return bool(op.get_context().dialect.name == "snowflake")
