"""The warehouse remembers by which privacy rules its rows were written."""

import sqlalchemy as sa
from alembic import op
from etl_frozen.columns_0_2 import code, name, text

revision = "20261127_04"
down_revision = "20261127_03"

_MODE = "sync, backfill, retry, retire or rekey."
_MODE_BEFORE = "sync, backfill, retry or retire."


def upgrade() -> None:
    """Make the table; the next run finds out what to put into it."""
    op.create_table(
        "privacy_rules",
        sa.Column("state", code(16), nullable=False, comment="current: what rows are written by; next: what they are being rewritten to."),
        sa.Column("identity", code(16), nullable=False, comment="keep, hmac or drop."),
        sa.Column("endpoint", code(16), nullable=False, comment="keep, hmac or drop."),
        sa.Column("key_check", code(64), comment="Tells whether a key is the one that was used; the key cannot be had from it. NULL where nothing is hashed."),
        sa.Column("past_key_checks", text(), comment="Of current: the same of earlier keys, whose hashes may still be stored; JSON array, NULL where there are none."),
        sa.Column("at_table", name(64), comment="Of next: the table that is being rewritten."),
        sa.Column("at_key", name(64), comment="Of next: the last key in it that is done; NULL before the first."),
        sa.PrimaryKeyConstraint("state", name="pk_privacy_rules"),
        comment="How rows are written as far as they name people; no key and no name.",
    )  # fmt: skip
    _comment_on_mode(_MODE)


def downgrade() -> None:
    """Drop it."""
    _comment_on_mode(_MODE_BEFORE)
    op.drop_table("privacy_rules")


def _comment_on_mode(comment: str) -> None:
    """SQLite keeps no comments."""
    dialect = op.get_context().dialect.name
    if dialect in ("postgresql", "duckdb"):
        op.execute(f"COMMENT ON COLUMN sync_runs.mode IS '{comment}'")
    elif dialect != "sqlite":
        op.alter_column(
            "sync_runs", "mode", existing_type=code(16), existing_nullable=False, comment=comment
        )
