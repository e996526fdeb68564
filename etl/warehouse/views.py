"""The views that analysts query: their meaning, column by column.

Their SQL stands in the migration that makes them.
"""

import sqlalchemy as sa

from etl.warehouse.tables import CONTENT, bindings, services
from etl.warehouse.types import UtcDateTime


def _of_bindings(*names: str) -> dict[str, str]:
    return {name: str(bindings.c[name].comment) for name in names}


COMMENTS: dict[str, tuple[str, dict[str, str]]] = {
    "active_bindings": (
        "Bindings that exist: `bindings` without the deleted ones.",
        _of_bindings(*CONTENT, "content_hash", "first_seen_at", "changed_at", "run_id"),
    ),
    "binding_message_types": (
        "One row per active binding and message type.",
        {"sid": "BS… SID of the binding.", "message_type": "A message type it is subscribed to."},
    ),
    "binding_history": (
        "Past versions and the current one together.",
        {
            "sid": "BS… SID of the binding.",
            "valid_from": "Since when it was so.",
            "valid_to": "Until when; NULL for the current version.",
            "is_deleted": "Whether the binding was deleted in that time.",
            **_of_bindings(*CONTENT[1:], "content_hash", "first_seen_at"),
            "run_id": "The run that ended it; of the current version, the run that last changed "
            "it.",
        },
    ),
    "service_freshness": (
        "How old and how complete the data of each service is that is not gone.",
        {
            "account": "Name of the configured account.",
            "chat_service_sid": "IS… SID of the service.",
            "last_complete_at": "End of the last scan that read the whole service.",
            "active": "Bindings that exist.",
            "deleted": "Bindings that are marked as deleted.",
            "rejected_open": "Rows in quarantine.",
            "friendly_name": str(services.c.friendly_name.comment),
            "state": str(services.c.state.comment),
            "deletes_held": str(services.c.deletes_held.comment),
        },
    ),
    "identity_reachability": (
        "By which kinds of push each identity can be reached.",
        {
            "account": "Name of the configured account.",
            "chat_service_sid": "IS… SID of the service.",
            "identity": "Identity, as stored.",
            "apn": "Active bindings of type apn.",
            "fcm": "Active bindings of type fcm.",
            "gcm": "Active bindings of type gcm.",
            "other": "Active bindings of any other type.",
            "last_updated": "Latest date_updated among them.",
        },
    ),
}

service_freshness = sa.table(
    "service_freshness",
    sa.column("account", sa.String),
    sa.column("chat_service_sid", sa.String),
    sa.column("last_complete_at", UtcDateTime()),
    sa.column("active", sa.BigInteger),
    sa.column("deleted", sa.BigInteger),
    sa.column("rejected_open", sa.BigInteger),
    sa.column("friendly_name", sa.String),
    sa.column("state", sa.String),
    sa.column("deletes_held", sa.BigInteger),
)
