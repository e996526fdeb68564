"""A Conversations service as the list of services shows it."""

from typing import Any, NamedTuple

import msgspec

from etl.domain.wire import UNDECODABLE, decode_sids

# What the API allows (docs/api.md §1.5), and what the column takes.
_LONGEST_NAME = 256


class Service(NamedTuple):
    """One service of an account."""

    sid: str
    account_sid: str | None = None
    friendly_name: str | None = None


class _Shown(msgspec.Struct):
    account_sid: Any = None
    friendly_name: Any = None


_decode = msgspec.json.Decoder(_Shown).decode


def decode_services(rows: list[bytes]) -> list[Service | None]:
    """Return the services on a page of their list; None for each without a readable SID."""
    return [
        None if sid is None else _shape(sid, row)
        for sid, row in zip(decode_sids(rows), rows, strict=True)
    ]


def _shape(sid: str, row: bytes) -> Service:
    try:
        shown = _decode(row)
    except UNDECODABLE:
        return Service(sid)
    account_sid = shown.account_sid if isinstance(shown.account_sid, str) else None
    return Service(sid, account_sid, _clean(shown.friendly_name))


def _clean(friendly_name: Any) -> str | None:
    """Return a name that every engine can hold."""
    if not isinstance(friendly_name, str):
        return None
    return friendly_name.replace("\x00", "")[:_LONGEST_NAME]
