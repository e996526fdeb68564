"""What a row becomes where privacy hides its identity, its endpoint or both (docs/promises.md §14).

A name that is hidden is hidden wherever it stands in the row, whatever the rule of that place is:
endpoints are made of identities, and URLs and fields unknown today may hold either. In doubt a text
is hidden; in the quarantine nothing is lost by it, since a reject is asked for again by its SID.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import msgspec

from etl.domain.binding import Row
from etl.domain.message_types import KNOWN_MESSAGE_TYPES
from etl.domain.naming import Members, Name, texts
from etl.domain.scope import KNOWN_TYPES

Treatment = Literal["keep", "hmac", "drop"]

# What every link to a binding is made of, and no more: it names nobody.
_is_plain_link = re.compile(
    r"https?://[a-z0-9.:-]*/v[12]/Services/IS[0-9a-fA-F]{32}/Bindings/BS[0-9a-fA-F]{32}"
).fullmatch
_is_sid = re.compile(r"(?:AC|BS|CR|IS)[0-9a-fA-F]{32}").fullmatch
_is_digest = re.compile(r"[0-9a-f]{64}").fullmatch


# Somebody may be called `iden`: that is no reason to take `identity` out.
_COLUMNS = frozenset(Row._fields)


class _Number(str):
    """A number, spelled as it was sent."""

    __slots__ = ()


_decode = json.JSONDecoder(
    object_pairs_hook=Members,
    parse_int=_Number,
    parse_float=_Number,
    parse_constant=_Number,
    strict=False,
).decode


def treat(treatment: Treatment, key: bytes, value: str | None) -> str | None:
    """Return a value kept, hashed or dropped (None); equal values have equal hashes."""
    if value is None or treatment == "drop":
        return None
    if treatment == "keep":
        return value
    return hmac.digest(key, value.encode("utf-8", "surrogatepass"), "sha256").hex()


def looks_hashed(value: str) -> bool:
    """Return whether `treat` may have hashed a stored value; others may look so by themselves."""
    return _is_digest(value) is not None


class Hiding(msgspec.Struct, frozen=True, dict=True):
    """How identity and endpoint are treated, and whatever else holds them."""

    identity: Treatment = "keep"
    endpoint: Treatment = "keep"
    key: bytes = b""

    @cached_property
    def fields(self) -> frozenset[str]:
        """Names of the fields that are hidden."""
        modes = {"identity": self.identity, "endpoint": self.endpoint}
        return frozenset(name for name, mode in modes.items() if mode != "keep")

    def hide_content(self, content: Sequence[str | None]) -> tuple[str | None, ...]:
        """Return the content columns of a row, in their order, without what is hidden."""
        *ids, kind, identity, endpoint, messages, created, updated, url, extra = content
        sent = {"identity": identity, "endpoint": endpoint}
        names = _names(sent[field] for field in self.fields)
        if kind not in KNOWN_TYPES and _is_held(kind, names):
            kind = None
        if url is not None and not _is_plain_link(url) and _is_held(url, names):
            url = None
        return (
            *ids,
            kind,
            treat(self.identity, self.key, identity),
            self._hide_endpoint(identity, endpoint),
            _hide_messages(messages, names),
            created,
            updated,
            url,
            self._hide_extra(extra, names),
        )

    def hide_payload(self, payload: str) -> str:
        """Return a reject's JSON text without what is hidden; none where that is unclear."""
        if not self.fields:
            return payload
        try:
            sent = _decode(payload)
            if isinstance(sent, Members):
                return _encode(self._hide_members(sent))
        except (ValueError, RecursionError):
            pass
        return self._hide_whole(payload)

    def _hide_whole(self, payload: str) -> str:
        sent = payload.encode("utf-8", "surrogatepass")
        digest = (
            hmac.digest(self.key, sent, "sha256").hex()
            if self.key
            else hashlib.sha256(sent).hexdigest()
        )
        return json.dumps({"hidden": {"bytes": len(sent), "hash": digest[:32]}})

    def _hide_endpoint(self, identity: str | None, endpoint: str | None) -> str | None:
        if self.endpoint == "keep" and self.identity != "keep":
            mode = self.identity if _is_held(endpoint, _names([identity])) else "keep"
            return treat(mode, self.key, endpoint)
        return treat(self.endpoint, self.key, endpoint)

    def _hide_extra(self, extra: str | None, names: Sequence[Name]) -> str | None:
        if extra is None:
            return None
        sent = _decode(extra)
        hidden = self._hide(sent, names)
        return extra if hidden == sent else _encode(hidden)

    def _hide_members(self, sent: Members) -> Members:
        hidden = [value for name, value in sent if name.casefold() in self.fields]
        names = _names(texts(hidden))
        identity = next((value for name, value in reversed(sent) if name == "identity"), None)

        def hide(name: str, value: Any) -> Any:
            if name == "identity" and type(value) is str:
                return treat(self.identity, self.key, value)
            if name == "endpoint" and type(value) is str:
                owner = identity if isinstance(identity, str) else None
                shown = self._hide_endpoint(owner, value)
                return None if shown == value and _is_held(value, names) else shown
            return None if name.casefold() in self.fields else self._hide(value, names)

        return Members(
            (name, hide(name, value))
            for name, value in sent
            if name in _COLUMNS or not _is_held(name, names)
        )

    def _hide(self, node: Any, names: Sequence[Name]) -> Any:
        """Return a value without texts that hold one of `names`, and without hidden fields."""
        if isinstance(node, str):
            return None if not _is_sid(node) and _is_held(node, names) else node
        if isinstance(node, Members):
            return Members(
                (name, None if name.casefold() in self.fields else self._hide(value, names))
                for name, value in node
                if not _is_held(name, names)
            )
        return [self._hide(one, names) for one in node] if isinstance(node, list) else node


def _names(found: Iterable[str | None]) -> list[Name]:
    return [Name(one) for one in found if one and one.strip()]


def _is_held(text: str | None, names: Iterable[Name]) -> bool:
    return text is not None and any(name.stands_in(text) for name in names)


def _hide_messages(messages: str | None, names: Sequence[Name]) -> str | None:
    if messages is None or not names:
        return messages
    sent = json.loads(messages)
    shown = [one for one in sent if one in KNOWN_MESSAGE_TYPES or not _is_held(one, names)]
    return messages if shown == sent else _encode(shown)


def _encode(node: Any) -> str:
    """Return compact JSON; members in their order, twice where they stood twice."""
    if isinstance(node, Members):
        return "{" + ",".join(f"{_quote(name)}:{_encode(value)}" for name, value in node) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(_encode, node)) + "]"
    if isinstance(node, _Number):
        return str(node)
    return _quote(node) if isinstance(node, str) else json.dumps(node)


def _quote(text: str) -> str:
    """Return a JSON string; lone surrogates, which no engine takes, stay escaped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)
