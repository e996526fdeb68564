"""A binding as the warehouse holds it, and what becomes of a row that is none."""

from typing import NamedTuple


class Row(NamedTuple):
    """One binding in normal form; the fields are the content columns of `bindings`, in their order.

    Times are UTC text `2023-05-04 09:42:00.000000`, which every engine reads; `message_types` and
    `extra` are JSON text.
    """

    sid: str
    account: str
    account_sid: str | None
    chat_service_sid: str
    credential_sid: str | None
    binding_type: str | None
    identity: str | None
    endpoint: str | None
    message_types: str | None
    date_created: str | None
    date_updated: str | None
    url: str | None
    extra: str | None
    content_hash: str
    source_hash: str


class Reject(NamedTuple):
    """One row of a page that cannot be loaded: kept whole, with the reason."""

    sid: str | None
    reason: str
    payload: str


class HashedRow(NamedTuple):
    """A row that was not looked into yet: its SID, and a hash of its bytes."""

    sid: str
    source_hash: str
    raw: bytes
