"""What the API's answers look like, in so few words that they can be kept here: the witness when the API's own
description is not at hand."""

SID = "^{}[0-9a-fA-F]{{32}}$"
TEXT = {"type": ["string", "null"]}
DATE = {"type": ["string", "null"], "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
LINK = {"type": ["string", "null"], "pattern": "^https?://"}


def sid(prefix: str) -> dict[str, object]:
    """Describe a SID, or its absence."""
    return {"type": ["string", "null"], "pattern": SID.format(prefix)}


BINDING = {
    "type": "object",
    "required": [
        "sid",
        "account_sid",
        "chat_service_sid",
        "credential_sid",
        "date_created",
        "date_updated",
        "endpoint",
        "identity",
        "binding_type",
        "message_types",
        "url",
    ],
    "additionalProperties": False,
    "properties": {
        "sid": sid("BS"),
        "account_sid": sid("AC"),
        "chat_service_sid": sid("IS"),
        "credential_sid": sid("CR"),
        "date_created": DATE,
        "date_updated": DATE,
        "endpoint": TEXT,
        "identity": TEXT,
        "binding_type": {"enum": ["apn", "gcm", "fcm", "twilsock"]},
        "message_types": {"type": ["array", "null"], "items": {"type": "string"}},
        "url": LINK,
    },
}

SERVICE = {
    "type": "object",
    "required": [
        "sid",
        "account_sid",
        "friendly_name",
        "date_created",
        "date_updated",
        "url",
        "links",
    ],
    "additionalProperties": False,
    "properties": {
        "sid": sid("IS"),
        "account_sid": sid("AC"),
        "friendly_name": TEXT,
        "date_created": DATE,
        "date_updated": DATE,
        "url": LINK,
        "links": {"type": "object"},
    },
}

META = {
    "type": "object",
    "required": [
        "first_page_url",
        "key",
        "next_page_url",
        "page",
        "page_size",
        "previous_page_url",
        "url",
    ],
    "additionalProperties": False,
    "properties": {
        "first_page_url": LINK,
        "key": TEXT,
        "next_page_url": LINK,
        "page": {"type": "integer"},
        "page_size": {"type": "integer"},
        "previous_page_url": LINK,
        "url": LINK,
    },
}

CONFIGURATION = {
    "type": "object",
    "required": ["account_sid", "default_chat_service_sid", "url", "links"],
    "properties": {"account_sid": sid("AC"), "default_chat_service_sid": sid("IS"), "url": LINK},
}


def listing(key: str, item: dict[str, object]) -> dict[str, object]:
    """Describe a page of a listing."""
    return {
        "type": "object",
        "required": [key, "meta"],
        "additionalProperties": False,
        "properties": {key: {"type": "array", "items": item}, "meta": META},
    }


SCHEMAS = {
    "/v1/Services": listing("services", SERVICE),
    "/v1/Services/{Sid}": SERVICE,
    "/v1/Services/{ChatServiceSid}/Bindings": listing("bindings", BINDING),
    "/v1/Services/{ChatServiceSid}/Bindings/{Sid}": BINDING,
    "/v1/Configuration": CONFIGURATION,
}
