"""A page as the API sends it: bytes in, raw rows and the next link out (docs/api.md §1.2, §2).

Rows stay raw slices of the page, so that a row which did not change costs a hash and no objects
(measured: 1.5 µs against 10 µs to shape one).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from etl.domain.slices import slice_array, slice_object
from etl.errors import MalformedPage, NotTheApi

# What msgspec raises for bytes that it cannot read: wrong JSON, wrong UTF-8, half a surrogate pair,
# nesting without end.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Page(NamedTuple):
    """One page of a listing."""

    rows: list[bytes]
    next_link: str | None
    page_size: int | None


class _Meta(msgspec.Struct):
    key: str | None = None
    next_page_url: str | None = None
    page_size: Any = None  # only advice, so nothing that it could be is worth a page


class _BindingsPage(msgspec.Struct):
    meta: _Meta
    bindings: list[msgspec.Raw]


_decode_bindings_page = msgspec.json.Decoder(_BindingsPage).decode
_decode_meta = msgspec.json.Decoder(_Meta).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

# Far more than can be asked for, and no more than real rows have room for in the largest body.
_MOST_ROWS = 100_000

# What other styles of paging call the way on (docs/api.md §2.7), seen in any spelling.
_leads_on = re.compile(r"(?!prev).*(next|token|cursor|more)", re.IGNORECASE).match
_NOTHING = (b"null", b'""', b"false", b"0", b"[]", b"{}")


def decode_page(body: bytes, key: str) -> Page:
    """Return the raw rows and the next link of a page.

    The list is found under `meta.key`, as Twilio's own libraries do, else under `key`. A row that
    cannot be decoded is handed on like any other: it is one bad row, not a bad page.

    Raises:
        NotTheApi: not JSON at all (a captive portal, a proxy's page).
        MalformedPage: JSON without the list or `meta`, or with a style of links that is not known.
    """
    if key == "bindings":
        try:
            page = _decode_bindings_page(body)
        except UNDECODABLE:
            pass
        else:
            if page.meta.key in ("bindings", None):
                _refuse_too_many(page.bindings)
                return _page(body, page.meta, [bytes(raw) for raw in page.bindings])
    return _decode_carefully(body, key)


def _decode_carefully(body: bytes, key: str) -> Page:
    document = _decode_top(body)
    if "meta" not in document:
        raise MalformedPage("the answer has no `meta`; it is not a page of a Twilio listing")
    try:
        meta = _decode_meta(document["meta"])
    except UNDECODABLE:
        raise MalformedPage("the `meta` of the answer is not as the API describes it") from None
    name = meta.key or key
    if name not in document:
        raise MalformedPage(f"the answer has no list `{key}`; it is not a page of this listing")
    try:
        rows = slice_array(document[name])
    except ValueError:
        raise MalformedPage(f"`{key}` in the answer is not a list") from None
    _refuse_too_many(rows)
    return _page(body, meta, rows)


def _decode_top(body: bytes) -> dict[str, bytes]:
    try:
        return slice_object(body)
    except ValueError:
        pass
    try:
        msgspec.json.decode(body)
    except UNDECODABLE:
        raise NotTheApi(
            "the answer is not JSON, so something other than the API gave it; check base_url and "
            "any proxy between"
        ) from None
    raise MalformedPage(
        "the answer is JSON, but not an object; it is not a page of a Twilio listing"
    )


def _page(body: bytes, meta: _Meta, rows: list[bytes]) -> Page:
    if not meta.next_page_url:
        _refuse_other_styles(body)
    return Page(
        rows, meta.next_page_url or None, meta.page_size if type(meta.page_size) is int else None
    )


def _refuse_too_many(rows: Sequence[bytes | msgspec.Raw]) -> None:
    if len(rows) > _MOST_ROWS:
        raise MalformedPage(
            f"the answer holds {len(rows)} rows, far more than were asked for; it is not a page "
            "of this listing"
        )


def _refuse_other_styles(body: bytes) -> None:
    """Refuse links of an unknown style, which must not look like the end of the listing.

    Newer Twilio APIs send a token and no link, older ones a link elsewhere.
    """
    document = _members(body)
    for name, value in [*document.items(), *_members(bytes(document["meta"])).items()]:
        if _leads_on(name) and bytes(value).strip() not in _NOTHING:
            raise MalformedPage(
                "the answer pages by tokens or other links than next_page_url, which this "
                "program does not know; upgrade it, or report it"
            )


def _members(raw: bytes) -> Mapping[str, bytes | msgspec.Raw]:
    try:
        return _decode_members(raw)
    except UNDECODABLE:
        return slice_object(raw)


def decode_sids(rows: list[bytes]) -> list[str | None]:
    """Return each row's `sid` where it is text, else None."""
    return [_decode_sid(raw) for raw in rows]


class _Head(msgspec.Struct):
    sid: Any = None


_decode_head = msgspec.json.Decoder(_Head).decode


def _decode_sid(raw: bytes) -> str | None:
    try:
        sid = _decode_head(raw).sid
    except UNDECODABLE:
        sid = _find_sid(raw)
    return sid if isinstance(sid, str) else None


def _find_sid(raw: bytes) -> Any:
    """Return the SID of a row that cannot be decoded, so that it is not taken for absent."""
    try:
        return msgspec.json.decode(slice_object(raw).get("sid", b"null"))
    except (ValueError, RecursionError):
        return None
