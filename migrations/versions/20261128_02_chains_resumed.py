"""Each chain of a reading that breaks off remembers how it began, so that it can be gone on with."""

import sqlalchemy as sa
from alembic import op
from etl_frozen.columns_0_2 import text

revision = "20261128_02"
down_revision = "20261128_01"

_STAGE_ID = "Id of the scan that began it; below zero, a chain of it that is not linked with the first one yet (chains_per_service)."
_STAGE_ID_BEFORE = "Id of the scan that began it."


def upgrade() -> None:
    """Add the columns; what is unfinished now was read by one chain, or goes on with its first one."""
    op.add_column("scan_progress", sa.Column("rows_before", sa.BigInteger(), comment="Rows that lay before its chain when the listing was last read."))  # fmt: skip
    op.add_column("scan_progress", sa.Column("rows_read", sa.BigInteger(), comment="Rows that this chain had read before next_link."))  # fmt: skip
    op.add_column("scan_progress", sa.Column("first_page", text(), comment="How this chain began, JSON array of SIDs (or hashes of rows without one): where the chain before it comes upon them, both are linked. NULL of the first chain."))  # fmt: skip
    _comment_on_stage_id(_STAGE_ID)


def downgrade() -> None:
    """Drop them, and the chains that cannot be gone on with then."""
    for table in ("scan_staged", "scan_seen", "scan_absent", "scan_progress"):
        op.execute(f"DELETE FROM {table} WHERE stage_id < 0")
    _comment_on_stage_id(_STAGE_ID_BEFORE)
    for column in ("first_page", "rows_read", "rows_before"):
        op.drop_column("scan_progress", column)


def _comment_on_stage_id(comment: str) -> None:
    """SQLite keeps no comments."""
    dialect = op.get_context().dialect.name
    if dialect in ("postgresql", "duckdb"):
        op.execute(f"COMMENT ON COLUMN scan_progress.stage_id IS '{comment}'")
    elif dialect != "sqlite":
        op.alter_column(
            "scan_progress",
            "stage_id",
            existing_type=sa.BigInteger(),
            existing_nullable=False,
            comment=comment,
        )
