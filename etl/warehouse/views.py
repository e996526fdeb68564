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
        {
            **_of_bindings(*CONTENT, "content_hash", "first_seen_at", "changed_at", "run_id"),
            "days_since_update": "Whole days since date_updated, at the moment of asking.",
        },
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
    "daily_changes": (
        "What changed on each day (UTC), by service and type.",
        {
            "day": "The day, UTC.",
            "week": "The Monday of its week.",
            "account": "Name of the configured account.",
            "chat_service_sid": "IS… SID of the service.",
            "binding_type": "apn, fcm, gcm, twilsock or what else the API says; of what was "
            "updated, the type before.",
            "first_loaded": "Bindings of the day on which the service was first loaded: what was "
            "there, and no gain.",
            "inserted": "Bindings that were new.",
            "restored": "Bindings that came back.",
            "updated": "Images that an update replaced.",
            "deleted": "Bindings that were gone.",
        },
    ),
    "shared_endpoints": (
        "Active bindings whose endpoint other identities have too: one device, several people.",
        {
            "group_sid": "Smallest SID among the bindings of one endpoint: names it without "
            "telling it.",
            **_of_bindings("sid", "account", "chat_service_sid", "binding_type", "credential_sid"),
            "bindings": "Active bindings of this endpoint.",
            "identities": "Different identities among them.",
            "services": "Different services among them.",
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
