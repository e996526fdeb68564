"""A generated binding, computed from its serial number whenever somebody looks at it.

A million rows therefore cost a million integers, and the same seed gives the same rows for ever.
What a row looks like follows docs/api.md: the eleven fields (§1.1), the four types (§1.3),
endpoints that are a token or an app:identity:device string (§7.2), dates in whole seconds with a Z
(§5.1), message types in no order (§6.2).
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b
from itertools import permutations

HOME = "https://conversations.twilio.com"
"""The host in each row's `url`: the real one, so that a row is the same on every port."""

TYPES = (
    "apn",
    "fcm",
    "apn",
    "gcm",
    "fcm",
    "apn",
    "twilsock",
    "apn",
    "fcm",
    "apn",
    "fcm",
    "apn",
    "fcm",
)
"""Of 13 devices in a row, which push technology each uses (docs/api.md §1.3)."""

OWNERS = (0, 0, 1, 2, 2, 2, 3, 4, 4, 5)
"""Of ten devices in a row, which of six people owns each: one to three each (docs/api.md §7.6)."""

PEOPLE = (
    "user-{}",
    "anna.{}@example.com",
    "ben+push{}@example.com",
    "Zoë Müller {}",
    "0f{}c2a8e5-4d1b",
    "Иван-{}",
    "USER-{}",
    "李雷{}",
    "chris.{}@example.org",
    "🦊fox{}👩‍💻",
    "driver:{}",
    "o'neill/{} & co",
)

NEW, ADDED, REMOVED = "new_message", "added_to_conversation", "removed_from_conversation"
USUAL = [json.dumps(order) for order in permutations((REMOVED, NEW, ADDED))] * 9
RARE = [
    json.dumps([NEW]),
    json.dumps([ADDED, NEW]),
    json.dumps(["removed_from_channel", NEW, "added_to_channel"]),
    json.dumps(["twilio.conversations.new_message", ADDED]),
    "[]",
    "null",
]
MESSAGE_TYPES = (*USUAL, *RARE, *USUAL[:4])

FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)
DAY = 86_400
CREATED_WITHIN = 1_600 * DAY
UPDATED_WITHIN = (0, 0, 20 * DAY, 300 * DAY)


@dataclass(frozen=True, slots=True)
class Mint:
    """What the generated bindings of one service have in common, and how each is made."""

    salt: bytes
    account_sid: str
    service_sid: str
    credentials: Mapping[str, str]

    def sid(self, serial: int) -> str:
        """Name the binding with this serial number."""
        return f"BS{self._digest(serial)[:16].hex()}"

    def text(self, serial: int) -> bytes:
        """Render the binding as the JSON object that the API sends."""
        digest = self._digest(serial)
        sid = f"BS{digest[:16].hex()}"
        kind = binding_type(serial)
        created, updated = lifetime(digest)
        credential = self.credentials.get(kind)
        return (
            f'{{"sid": "{sid}", "account_sid": "{self.account_sid}",'
            f' "chat_service_sid": "{self.service_sid}",'
            f' "date_created": "{stamp(created)}", "date_updated": "{stamp(updated)}",'
            f' "endpoint": "{endpoint(kind, serial, digest)}", "identity": "{identity(serial)}",'
            f' "binding_type": "{kind}", "credential_sid": {quoted(credential)},'
            f' "message_types": {MESSAGE_TYPES[digest[20] & 63]},'
            f' "url": "{HOME}/v1/Services/{self.service_sid}/Bindings/{sid}"}}'
        ).encode()

    def date_created(self, serial: int) -> str:
        """Tell when the binding was created."""
        return stamp(lifetime(self._digest(serial))[0])

    def date_updated(self, serial: int) -> str:
        """Tell when the binding was last updated, without rendering the rest."""
        return stamp(lifetime(self._digest(serial))[1])

    def _digest(self, serial: int) -> bytes:
        return blake2b(serial.to_bytes(8, "big"), key=self.salt).digest()


def binding_type(serial: int) -> str:
    """Choose the push technology of a device."""
    return TYPES[serial % len(TYPES)]


def identity(serial: int) -> str:
    """Name the person who owns a device."""
    person = serial // len(OWNERS) * 6 + OWNERS[serial % len(OWNERS)]
    return PEOPLE[person % len(PEOPLE)].format(person)


def endpoint(kind: str, serial: int, digest: bytes) -> str:
    """Make up an endpoint: a vendor's token, or app:identity:device (docs/api.md §7.2, §7.3)."""
    if kind == "twilsock" or digest[21] < 12:
        return f"conversations:{identity(serial)}:{digest[22:28].hex()}"
    if kind == "apn":
        return digest[22:54].hex()
    prefix = urlsafe_b64encode(digest[22:37]).decode() + ":" if kind == "fcm" else ""
    return f"{prefix}APA91b{digest[22:].hex()}_{digest[:22].hex()}"


def lifetime(digest: bytes) -> tuple[int, int]:
    """Choose when a binding was created and last updated, in seconds after the first day."""
    created = int.from_bytes(digest[54:58], "big") % CREATED_WITHIN
    quiet = UPDATED_WITHIN[digest[58] & 3]
    return created, created + (int.from_bytes(digest[59:63], "big") % quiet if quiet else 0)


def stamp(seconds: int) -> str:
    """Write an instant as the API does: whole seconds and a Z (docs/api.md §5.1)."""
    day, rest = divmod(seconds, DAY)
    hour, rest = divmod(rest, 3600)
    return f"{_date(day)}T{hour:02}:{rest // 60:02}:{rest % 60:02}Z"


def quoted(text: str | None) -> str:
    """Write a plain word, or its absence, in JSON."""
    return "null" if text is None else f'"{text}"'


@cache
def _date(day: int) -> str:
    return (FIRST_DAY + timedelta(days=day)).date().isoformat()
