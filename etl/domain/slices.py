"""The members of a JSON object or array as raw slices, found by brackets and strings alone.

A decoder gives up on a whole page for the sake of one row: half a surrogate pair, nesting without
end. Here such a row stays one slice among the others, and costs no more than itself.
"""

import re
from collections.abc import Iterator

import msgspec

# Everything that decides where a slice ends. A quotation mark that opens no whole string stands for
# itself.
_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
_CLOSING = {b"[": b"]", b"{": b"}"}
_MEMBER = re.compile(rb'\s*("(?:[^"\\]++|\\.)*+")\s*:', re.DOTALL)


def slice_object(raw: bytes) -> dict[str, bytes]:
    """Return raw values by name; of a name that comes twice the last, and none without a name.

    Raises:
        ValueError: not one object.
    """
    members: dict[str, bytes] = {}
    for member in _slices(raw, b"{"):
        if (head := _MEMBER.match(member)) and (name := _decode_name(head[1])) is not None:
            members[name] = member[head.end() :]
    return members


def slice_array(raw: bytes) -> list[bytes]:
    """Return the raw elements of a JSON array, in their order.

    Raises:
        ValueError: not one array.
    """
    elements = [element.strip() for element in _slices(raw, b"[")]
    return [] if elements == [b""] else elements


def _slices(raw: bytes, opening: bytes) -> Iterator[bytes]:
    raw = raw.strip()
    if not raw.startswith(opening):
        raise ValueError("does not begin as it should")
    start = 1
    for end in _ends(raw):
        yield raw[start:end]
        start = end + 1


def _ends(raw: bytes) -> Iterator[int]:
    """Return where the slices of the outermost brackets end: at their commas, and at the last."""
    awaited: list[bytes] = []
    for mark in _MARK.finditer(raw):
        sign = mark[0]
        if sign in _CLOSING:
            awaited.append(_CLOSING[sign])
        elif sign == b"," and len(awaited) == 1:
            yield mark.start()
        elif sign in (b"]", b"}", b'"'):
            if sign != awaited.pop():
                raise ValueError("brackets do not match, or a string has no end")
            if not awaited:
                yield mark.start()
                if mark.end() == len(raw):
                    return
                break
    raise ValueError("does not end as it should")


def _decode_name(raw: bytes) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
