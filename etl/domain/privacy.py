"""The privacy rules that stored rows were written by, and what rows become under other ones.

Each of the two columns that name people goes its own way: what was kept plain can be hashed or
dropped, what was hashed can be dropped, and nothing else can be made of what is stored.
"""

import hmac
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from enum import Enum
from functools import cached_property
from typing import Literal

import msgspec
from msgspec.structs import replace

from etl.domain.binding import Row
from etl.domain.hiding import Hiding, Treatment, looks_hashed

Field = Literal["identity", "endpoint"]
FIELDS: tuple[Field, ...] = ("identity", "endpoint")

_ENDPOINT = Row._fields.index("endpoint")
_CHECKED = b"bindings-etl: which key is this"


def check_of(key: bytes) -> str:
    """Return a text by which a key is known again, and from which it cannot be had."""
    return hmac.digest(key, _CHECKED, "sha256").hex()


class PrivacyRules(msgspec.Struct, frozen=True):
    """How rows are written, as far as they name people."""

    identity: Treatment = "keep"
    endpoint: Treatment = "keep"
    key_check: str | None = None
    """`check_of` the key, where something is hashed and the key is known."""

    def treats(self, field: Field) -> Treatment:
        """Return how a column is treated."""
        return self.identity if field == "identity" else self.endpoint


def rules_by(identity: Treatment, endpoint: Treatment, key: bytes) -> PrivacyRules:
    """Return the rules of these treatments and, where something is hashed, of this key."""
    hashes = "hmac" in (identity, endpoint)
    return PrivacyRules(identity, endpoint, check_of(key) if hashes else None)


class Fate(Enum):
    """What becomes of a column that was written by other rules."""

    STAYS = "nothing about it has changed"
    REWRITTEN = "the new form can be made of the stored one"
    LOST = "only the API knows what the new form is made of"


class RulesChange(msgspec.Struct, frozen=True):
    """The rules that stored rows were written by, and those they are to follow."""

    before: PrivacyRules
    after: PrivacyRules

    @property
    def is_none(self) -> bool:
        """Return whether both are the same, so that nothing is to be done."""
        return all(self.fate(field) is Fate.STAYS for field in FIELDS)

    @property
    def is_of_key(self) -> bool:
        """Return whether the key is another one."""
        known = (self.before.key_check, self.after.key_check)
        return None not in known and known[0] != known[1]

    def fate(self, field: Field) -> Fate:
        """Return what becomes of a column."""
        before, after = self.before.treats(field), self.after.treats(field)
        if before == after:
            return Fate.LOST if after == "hmac" and self.is_of_key else Fate.STAYS
        return Fate.REWRITTEN if before == "keep" or after == "drop" else Fate.LOST

    def past_key_checks(self, before: Set[str]) -> Set[str]:
        """Return the checks of earlier keys that identities may still be hashed by."""
        if self.after.identity == "drop":
            return frozenset()
        was_hashed = self.before.identity == "hmac" and self.fate("identity") is Fate.LOST
        check = self.before.key_check
        left = {check} if was_hashed and check is not None else set()
        return (before | left) - {self.after.key_check}

    @property
    def in_words(self) -> list[str]:
        """Return what differs, a setting each."""
        words = [
            f"privacy.{field} ({self.before.treats(field)} → {self.after.treats(field)})"
            for field in FIELDS
            if self.before.treats(field) != self.after.treats(field)
        ]
        return [*words, "privacy.key"] if self.is_of_key else words


class Rewriting:
    """Brings stored rows under other rules, as far as what they were made of is stored."""

    def __init__(self, change: RulesChange, key: bytes) -> None:
        self.change = change
        self.lost = [field for field in FIELDS if change.fate(field) is Fate.LOST]
        """Columns whose new form only the API can give."""
        self._hiding = Hiding(self._treatment("identity"), self._treatment("endpoint"), key)

    def rewrite(self, content: Sequence[str | None]) -> tuple[str | None, ...]:
        """Return the content columns of a row under the new rules, in their order."""
        endpoint = content[_ENDPOINT]
        if self._endpoint_stays:
            return _with_endpoint(
                self._hiding.hide_content(_with_endpoint(content, None)), endpoint
            )
        if self._drops_hashes and endpoint is not None and looks_hashed(endpoint):
            content = _with_endpoint(content, None)
        return self._hiding.hide_content(content)

    def rewrite_payload(self, payload: str) -> str:
        """Return a reject's JSON text under the new rules."""
        hiding = replace(self._hiding, endpoint="drop") if self._drops_hashes else self._hiding
        return hiding.hide_payload(payload)

    def leaves(self, identity: str | None, endpoint: str | None) -> bool:
        """Return whether a row of these stored values waits for the API to give its new form."""
        stored = {"identity": identity, "endpoint": endpoint}
        return any(
            stored[field] is not None or self.change.before.treats(field) == "drop"
            for field in self.lost
        )

    def _treatment(self, field: Field) -> Treatment:
        is_rewritten = self.change.fate(field) is Fate.REWRITTEN
        return self.change.after.treats(field) if is_rewritten else "keep"

    @cached_property
    def _endpoint_stays(self) -> bool:
        """Whether endpoints are not what the API sent, so that nothing is made of them."""
        return self.change.before.endpoint != "keep" and self.change.after.endpoint != "drop"

    @cached_property
    def _drops_hashes(self) -> bool:
        """Whether what looks hashed among kept endpoints goes when hashed identities do.

        Those that held an identity were hashed as it was. Device tokens may look so too; the next
        reading brings them back.
        """
        before, after = self.change.before, self.change.after
        are_kept = before.endpoint == after.endpoint == "keep"
        return are_kept and before.identity == "hmac" and after.identity == "drop"


def _with_endpoint(content: Sequence[str | None], endpoint: str | None) -> tuple[str | None, ...]:
    return (*content[:_ENDPOINT], endpoint, *content[_ENDPOINT + 1 :])


def infer_rules(
    rows: Iterable[tuple[str | None, str | None, str | None]], configured: PrivacyRules
) -> PrivacyRules:
    """Return the rules that rows seem to be written by, each of them type, identity and endpoint.

    Where they say nothing, the configured ones. By which key something was hashed does not show.
    """
    sample = list(rows)
    identity = _most_common(identity for _, identity, _ in sample) or configured.identity
    # An APNs token looks like a hash, and says nothing.
    endpoint = _most_common(
        endpoint
        for kind, _, endpoint in sample
        if not (kind == "apn" and endpoint and looks_hashed(endpoint))
    )
    # Kept ones that hold a hidden identity are hidden as it is.
    if endpoint is None or (configured.endpoint == "keep" and endpoint == configured.identity):
        endpoint = configured.endpoint
    return PrivacyRules(identity, endpoint)


def _most_common(values: Iterable[str | None]) -> Treatment | None:
    forms: Counter[Treatment] = Counter(map(_form_of, values))
    return forms.most_common(1)[0][0] if forms else None


def _form_of(value: str | None) -> Treatment:
    if value is None:
        return "drop"
    return "hmac" if looks_hashed(value) else "keep"
