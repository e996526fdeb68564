"""Of what was updated, the ledger says which fields had changed."""

import sqlalchemy as sa
from alembic import op
from etl_frozen import columns_0_2 as types

revision = "20261125_08"
down_revision = "20261125_07"


def upgrade() -> None:
    """Add the column; scans of the past have none."""
    op.add_column(
        "sync_scans",
        sa.Column(
            "changed_fields",
            types.text(),
            comment="JSON object, as text: in how many of the updated bindings each column "
            "differed; NULL where none was updated.",
        ),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_column("sync_scans", "changed_fields")
