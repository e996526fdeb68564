"""What the API sends that nobody knew of is written down, with when it was first seen."""

import sqlalchemy as sa
from alembic import op
from etl_frozen.columns_0_2 import code, moment, name

revision = "20261125_09"
down_revision = "20261125_08"

_INSERT = (
    "INSERT INTO schema_drift (chat_service_sid, kind, name, account, first_seen_at, row_count)"
)

_BINDING_TYPES = f"""
{_INSERT}
SELECT chat_service_sid, 'binding_type', binding_type, MIN(account), MIN(first_seen_at), COUNT(*)
FROM bindings
WHERE deleted_at IS NULL AND binding_type NOT IN ('apn', 'fcm', 'gcm', 'twilsock')
GROUP BY chat_service_sid, binding_type
"""

_MESSAGE_TYPES = f"""
{_INSERT}
SELECT chat_service_sid, 'message_type', message_type, MIN(account), MIN(first_seen_at), COUNT(*)
FROM (
    SELECT bindings.chat_service_sid, bindings.account, bindings.first_seen_at,
           SUBSTR(subscribed.message_type, 1, 255) AS message_type
    FROM binding_message_types AS subscribed
    JOIN bindings ON bindings.sid = subscribed.sid
) AS had
WHERE message_type NOT IN ('new_message', 'added_to_conversation', 'removed_from_conversation',
                           'added_to_channel', 'removed_from_channel', 'invited_to_channel')
GROUP BY chat_service_sid, message_type
"""


def upgrade() -> None:
    """Make the table, and fill it with what is there; unknown fields are met at the next run."""
    op.create_table(
        "schema_drift",
        sa.Column("chat_service_sid", code(34), nullable=False, comment="The service that sends it."),
        sa.Column("kind", code(16), nullable=False, comment="field (one without a column), binding_type, message_type or time_form."),
        sa.Column("name", name(255), nullable=False, comment="Its name; of a time its form, with 0 for each digit. Never a value."),
        sa.Column("account", name(64), nullable=False, comment="Name of the configured account."),
        sa.Column("first_seen_at", moment(), nullable=False, comment="When it was first seen."),
        sa.Column("row_count", sa.BigInteger(), nullable=False, server_default="0", comment="Active bindings that have it, counted whenever the service changes; of a time_form, which no row keeps, the most rows that one reading met in it."),
        sa.PrimaryKeyConstraint("chat_service_sid", "kind", "name", name="pk_schema_drift"),
        comment="What the API sends that the program did not know of; up to 50 of a kind and service.",
    )  # fmt: skip
    op.execute("DELETE FROM schema_drift")  # an attempt before may have been broken off
    op.execute(_BINDING_TYPES)
    op.execute(_MESSAGE_TYPES)


def downgrade() -> None:
    """Drop it."""
    op.drop_table("schema_drift")
