"""Where pages of the last complete reading began is remembered, so that the next one can be cut there."""

import sqlalchemy as sa
from alembic import op
from etl_frozen.columns_0_2 import code, name, text

revision = "20261127_03"
down_revision = "20261127_02"


def upgrade() -> None:
    """Make the table; the next complete reading fills it."""
    op.create_table(
        "page_links",
        sa.Column("chat_service_sid", code(34), nullable=False, comment="The service."),
        sa.Column("scope", name(255), nullable=False, comment="Which part of it was listed."),
        sa.Column("rows_before", sa.BigInteger(), autoincrement=False, nullable=False, comment="Rows that were listed before the page."),
        sa.Column("account", name(64), nullable=False, comment="Name of the configured account."),
        sa.Column("page_size", sa.Integer(), nullable=False, comment="Rows a page that were asked for."),
        sa.Column("link", text(), nullable=False, comment="Where the page began; may hold a filter or a SID, so treat it as personal data."),
        sa.Column("scan_id", sa.BigInteger(), nullable=False, comment="The scan that read it."),
        sa.PrimaryKeyConstraint("chat_service_sid", "scope", "rows_before", name="pk_page_links"),
        comment="Where pages of the last complete reading began, up to 64 of a listing; only with chains_per_service.",
    )  # fmt: skip


def downgrade() -> None:
    """Drop it."""
    op.drop_table("page_links")
