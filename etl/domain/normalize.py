"""One raw row of a page becomes one row of the warehouse, or a reject with its reason.

docs/warehouse.md and docs/promises.md §4 have the rules.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec
import xxhash

from etl.domain.binding import HashedRow, Reject, Row
from etl.domain.drift import Drift, Kind
from etl.domain.hiding import Hiding, Treatment, treat
from etl.domain.message_types import KNOWN_MESSAGE_TYPES, normalize_message_types
from etl.domain.scope import KNOWN_TYPES, Scope
from etl.domain.timestamps import form_of, is_usual, normalize_timestamp, normalize_usual
from etl.domain.wire import UNDECODABLE, decode_sids

# Bump when the same bytes would give another row: it makes every stored source hash stale, so all
# rows are looked at again, at every run. Where few rows are concerned, a migration makes theirs
# stale.
RULES_VERSION = "1"

# The same for rows of which something is hidden, when other texts than before are hidden.
_HIDING_VERSION = "2"

STALE = "0" * 32
"""A source hash that no bytes have: a row under it is looked at again at the next reading."""

_SID = {prefix: re.compile(prefix + r"[0-9a-fA-F]{32}") for prefix in ("BS", "AC", "IS", "CR")}
_is_binding_sid = _SID["BS"].fullmatch
_are_binding_sids = re.compile(r"(?:BS[0-9a-fA-F]{32},)*").fullmatch
_SID_AND_COMMA = 35

# MariaDB needs a width for a column that is compared and indexed; the limit holds on every engine,
# so the result is the same.
_LONGEST_TYPE = 255

# `jsonb` writes numbers out, and takes no more than 16,383 digits behind the point.
_LONGEST_NUMBER = 1_000

# A service has few distinct credentials and sets of message types; the bound only keeps a hostile
# one from filling the memory.
_MOST_CACHED = 1000


class _Sent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A row as described in docs/api.md §1.1; what is more or of another type is read with care."""

    sid: str
    account_sid: str | None = None
    chat_service_sid: str | None = None
    credential_sid: str | None = None
    binding_type: str | None = None
    identity: str | None = None
    endpoint: str | None = None
    message_types: list[str] | None = None
    date_created: str | None = None
    date_updated: str | None = None
    url: str | None = None


_COLUMNS = _Sent.__struct_fields__
_sha256 = hashlib.sha256
_hash_source = xxhash.xxh3_128_hexdigest
_make = tuple.__new__
_encode = msgspec.json.encode
_decode_usual = msgspec.json.Decoder(_Sent).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.decode


class NormalizationRules(msgspec.Struct, frozen=True):
    """Everything besides the bytes themselves that decides what a row becomes."""

    account: str
    account_sid: str
    chat_service_sid: str
    map_legacy: bool = True
    identity: Treatment = "keep"
    endpoint: Treatment = "keep"
    key: bytes = b""

    def digest(self) -> bytes:
        """Return 32 bytes that change when any rule changes."""
        parts = [
            RULES_VERSION,
            *([_HIDING_VERSION] if self.hiding.fields else []),
            *(getattr(self, name) for name in self.__struct_fields__ if name != "key"),
        ]
        return hashlib.sha256(repr(parts).encode() + hashlib.sha256(self.key).digest()).digest()

    @property
    def hiding(self) -> Hiding:
        """What privacy hides of a row."""
        return Hiding(self.identity, self.endpoint, self.key)

    def treat(self, treatment: Treatment, value: str | None) -> str | None:
        """Return a value that names a person kept, hashed or dropped."""
        return treat(treatment, self.key, value)


class Normalizer:
    """Applies one set of rules to raw rows. Holds a cache, and is used by one thread."""

    def __init__(self, rules: NormalizationRules) -> None:
        self._rules = rules
        self._hiding = rules.hiding if rules.hiding.fields else None
        digest = rules.digest()
        self.digest = digest.hex()
        """Changes when any rule changes."""
        self._seed = int.from_bytes(digest[:8], "big")
        self.drift = Drift()
        """What it has met that nobody knows today."""
        # Of the row in hand.
        self._is_unusual = False
        self._forms: set[str] = set()
        self._binding_types: dict[str | None, str] = {}
        self._message_types: dict[tuple[str, ...], str] = {}
        self._unusual_message_types: dict[tuple[str, ...], str] = {}
        self._credentials: set[str | None] = {None}

    def stored_identities(self, scope: Scope) -> list[str]:
        """Return the identities of a scope as the warehouse holds them.

        None where privacy drops them: then none can be absent.
        """
        rules = self._rules
        treated = (rules.treat(rules.identity, identity) for identity in scope.identities)
        return [identity for identity in treated if identity is not None]

    def hash_rows(self, raws: list[bytes]) -> tuple[dict[str, HashedRow], list[Reject]]:
        """Return rows by SID, hashed without looking into them.

        A SID that comes twice is kept as it came last, since that was read last. Rows without a
        readable SID are rejects.
        """
        # Measured per row: SID 0.4 µs, hash 0.1 µs where SHA-256 takes 0.9. Nobody is kept out by
        # this hash: it only spares looking closer at what is as it was, and the content hash, which
        # is SHA-256, decides what has changed.
        seed = self._seed
        sids = decode_sids(raws)
        joined = "".join([f"{sid}," for sid in sids])
        if len(joined) == _SID_AND_COMMA * len(sids) and _are_binding_sids(joined):
            hashed = {
                sid: _make(HashedRow, (sid, _hash_source(raw, seed), raw))
                for sid, raw in zip(sids, raws, strict=True)
            }
            return cast("dict[str, HashedRow]", hashed), []
        return self._hash_carefully(sids, raws)

    def _hash_carefully(
        self, sids: list[str | None], raws: list[bytes]
    ) -> tuple[dict[str, HashedRow], list[Reject]]:
        """Return hashed rows, and rejects for those without a readable SID."""
        hashed: dict[str, HashedRow] = {}
        rejects: list[Reject] = []
        for sid, raw in zip(sids, raws, strict=True):
            if sid is not None and _is_binding_sid(sid):
                hashed[sid] = HashedRow(sid, _hash_source(raw, self._seed), raw)
            else:
                rejects.append(self.reject(raw, None, _no_sid_reason(raw)))
        return hashed, rejects

    def normalize(self, row: HashedRow) -> Row | Reject:
        """Return a row in normal form, or why it cannot be."""
        try:
            return self._normalize(row, *_decode_row(row.raw))
        except UNDECODABLE:
            reason = "cannot be decoded: not valid JSON text, or nested too deep"
        except ValueError as bad:
            reason = str(bad)
        self._forget_row()
        return self.reject(row.raw, row.sid, reason)

    def reject(self, raw: bytes, sid: str | None, reason: str) -> Reject:
        """Return a reject with its JSON text: complete, or without what privacy hides.

        Bytes that no text can hold (not UTF-8, or NUL) are written as `\\xNN`.
        """
        payload = raw.decode("utf-8", "backslashreplace").replace("\x00", r"\x00")
        return Reject(sid, reason, self._hiding.hide_payload(payload) if self._hiding else payload)

    def _normalize(self, row: HashedRow, sent: _Sent, extra: str | None) -> Row:
        # Measured per row, all in: 4.9 µs, of which decoding 1.2, both times 0.9, the hash 0.9.
        rules = self._rules
        if sent.account_sid != rules.account_sid:
            _check_sid("account_sid", "AC", sent.account_sid, of="account")
        if sent.chat_service_sid != rules.chat_service_sid:
            _check_sid("chat_service_sid", "IS", sent.chat_service_sid, of="service")
        if sent.credential_sid not in self._credentials:
            self._learn_credential(sent.credential_sid)
        kind = self._binding_types.get(sent.binding_type)
        content: tuple[str | None, ...] = (
            row.sid,
            rules.account,
            sent.account_sid,
            rules.chat_service_sid,
            sent.credential_sid,
            kind or self._learn_binding_type(sent.binding_type),
            sent.identity,
            sent.endpoint,
            self._message_types_json(sent.message_types),
            self._timestamp("date_created", sent.date_created),
            self._timestamp("date_updated", sent.date_updated),
            sent.url,
            extra,
        )
        if self._hiding is not None:
            content = self._hiding.hide_content(content)
        if extra is not None or self._is_unusual:
            self._note_drift(content)
        return _make(Row, (*content, hash_content(content), row.source_hash))

    def _learn_credential(self, sid: str | None) -> None:
        _check_sid("credential_sid", "CR", sid)
        if len(self._credentials) < _MOST_CACHED:
            self._credentials.add(sid)

    def _learn_binding_type(self, sent: str | None) -> str | None:
        if sent is None:
            return None
        kind = sent.lower()
        if len(kind) > _LONGEST_TYPE:
            raise ValueError(f"binding_type is longer than {_LONGEST_TYPE} characters")
        if kind not in KNOWN_TYPES:
            self._is_unusual = True
        elif len(self._binding_types) < _MOST_CACHED:
            self._binding_types[sent] = kind
        return kind

    def _timestamp(self, field: str, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            if is_usual(value):
                return normalize_usual(value)
            moment = normalize_timestamp(value)
        except ValueError:
            raise ValueError(f"{field} is not a date that can be read") from None
        self._forms.add(form_of(value))
        self._is_unusual = True
        return moment

    def _note_drift(self, content: tuple[str | None, ...]) -> None:
        """Note what is new in a row, without what privacy hides of it."""
        *_, kind, _identity, _endpoint, messages, _created, _updated, _url, extra = content
        if kind is not None and kind not in KNOWN_TYPES:
            self.drift.note(Kind.BINDING_TYPE, [kind])
        if messages is not None:
            self.drift.note(Kind.MESSAGE_TYPE, set(_decode(messages)) - KNOWN_MESSAGE_TYPES)
        if extra is not None:
            self.drift.note(Kind.FIELD, _decode_members(extra))
        self.drift.note_times(self._forms)
        self._forget_row()

    def _forget_row(self) -> None:
        self._is_unusual = False
        self._forms.clear()

    def _message_types_json(self, names: list[str] | None) -> str | None:
        if names is None:
            return None
        as_sent = tuple(names)
        known = self._message_types.get(as_sent)
        if known is not None:
            return known
        self._is_unusual = True
        return self._unusual_message_types.get(as_sent) or self._learn_message_types(as_sent)

    def _learn_message_types(self, as_sent: tuple[str, ...]) -> str:
        names = normalize_message_types(as_sent, map_legacy=self._rules.map_legacy)
        cache = self._unusual_message_types
        if KNOWN_MESSAGE_TYPES.issuperset(names):
            cache = self._message_types
        encoded = _encode(names).decode()
        if len(cache) < _MOST_CACHED:
            cache[as_sent] = encoded
        return encoded


def hash_content(content: Sequence[str | None]) -> str:
    """Return the hash of the content columns, in their order."""
    return _sha256(_encode(content)).hexdigest()[:32]


def split(shaped: Iterable[Row | Reject]) -> tuple[list[Row], list[Reject]]:
    """Return rows and rejects, each in a list of its own."""
    rows: list[Row] = []
    rejects: list[Reject] = []
    for one in shaped:
        rows.append(one) if isinstance(one, Row) else rejects.append(one)
    return rows, rejects


def _no_sid_reason(raw: bytes) -> str:
    if not raw.lstrip().startswith(b"{"):
        return "not an object"
    return "sid is missing or malformed"


def _decode_row(raw: bytes) -> tuple[_Sent, str | None]:
    """Return the fields that have columns, and the others as JSON text.

    Raises:
        ValueError: a field is of a type that its column cannot hold, or a text holds NUL.
    """
    if b"\\" not in raw or b"\\u0000" not in raw:
        try:
            return _decode_usual(raw), None
        except msgspec.ValidationError:
            pass
    members = _decode_members(raw)
    sent = {name: _decode(members[name]) for name in _COLUMNS if name in members}
    _refuse_nul(sent)
    for name, value in sent.items():
        _check_type(name, value)
    return _Sent(**sent), _extra(members)


def _check_type(field: str, value: Any) -> None:
    if value is None or (type(value) is str and field != "message_types"):
        return
    if field == "message_types":
        if type(value) is not list or not all(type(name) is str for name in value):
            raise ValueError("message_types is neither null nor a list of strings")
    elif field.startswith("date_"):
        raise ValueError(f"{field} is not a date that can be read")
    elif field.endswith("_sid"):
        raise ValueError(f"{field} is malformed")
    else:
        raise ValueError(f"{field} is not a text")


def _check_sid(field: str, prefix: str, value: str | None, of: str | None = None) -> None:
    if value is None:
        return
    if not _SID[prefix].fullmatch(value):
        raise ValueError(f"{field} is malformed")
    if of:
        raise ValueError(f"{field} names another {of} than the one that was read")


def _extra(members: dict[str, msgspec.Raw]) -> str | None:
    """Return the unknown members as JSON text: compact, names in order, numbers as they were sent.

    Of a name that comes twice the last counts, as it does in `jsonb`.
    """
    unknown = {
        name: _decode_untouched(str(value, "utf-8"))
        for name, value in members.items()
        if name not in _COLUMNS
    }
    _refuse_nul(unknown)
    return _encode(unknown, order="sorted").decode() if unknown else None


def _number(text: str) -> msgspec.Raw:
    """Return a number as it was sent: a float would lose digits, a zero at its end, or its sign."""
    _, _, exponent = text.lower().partition("e")
    if len(text) > _LONGEST_NUMBER or abs(int(exponent or 0)) > _LONGEST_NUMBER:
        raise ValueError(f"a number has more than {_LONGEST_NUMBER} digits, written out")
    return msgspec.Raw(text.encode())


def _spelled(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


_decode_untouched = json.JSONDecoder(parse_float=_number, parse_int=_number).decode
# `jsonb` writes exponents out, and has more digits then than a row may come with.
_decode_stored = json.JSONDecoder(parse_float=_spelled, parse_int=_spelled).decode


def restore_json(stored: str) -> str:
    """Return JSON text as it was before an engine kept it in a form of its own, as `jsonb` does."""
    return _encode(_decode_stored(stored), order="sorted").decode()


def _refuse_nul(node: Any) -> None:
    """Refuse NUL, which PostgreSQL cannot hold in a text; the engine must not change the result."""
    if isinstance(node, str):
        if "\x00" in node:
            raise ValueError("a text holds a NUL character, which a warehouse cannot hold")
    elif isinstance(node, dict):
        for name, value in node.items():
            _refuse_nul(name)
            _refuse_nul(value)
    elif isinstance(node, list):
        for value in node:
            _refuse_nul(value)
