"""Whether a raw row names a person, however malformed it is and however it spells the name.

A row of the quarantine is only a copy of what the API has: taken out without need, it comes back
with the next sync, while one that stays breaks a promise. So in doubt a row names the person.
"""

import json
import re
import unicodedata
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_plus

# Fields that can hold no name.
_NAMELESS = frozenset(
    {
        "sid",
        "account_sid",
        "chat_service_sid",
        "credential_sid",
        "binding_type",
        "message_types",
        "date_created",
        "date_updated",
    }
)
# Shorter names are looked for as words of their own.
_SHORTEST_PART = 4

# So often may a text be encoded: a link in a link, JSON in JSON.
_MOST_LAYERS = 3

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Naming(NamedTuple):
    """How a row names a person."""

    anywhere: bool
    """In any of its parts that can hold a name."""
    as_identity: bool
    """As the identity that the binding belongs to."""


class Members(list[tuple[str, Any]]):
    """The members of a JSON object, those that stand twice too."""


# The standard library's, since the fast one refuses half a surrogate pair. Numbers stay as spelled.
_decode = json.JSONDecoder(
    object_pairs_hook=Members, parse_int=str, parse_float=str, strict=False
).decode


def find_name(payload: str, forms: Collection[str]) -> Naming:
    """Return where the row holds one of `forms` (a name, its hashes), if anywhere."""
    if not any(sign in payload for sign in ("\\", "%", "+", *forms)):
        return Naming(anywhere=False, as_identity=False)
    try:
        sent = _decode(payload)
    except (ValueError, RecursionError):
        return Naming(_is_quoted(_unescape(payload), forms), as_identity=False)
    members = sent if isinstance(sent, Members) else [("identity", sent)]
    identities = [value for name, value in members if name == "identity"]
    others = [value for name, value in members if name != "identity" and name not in _NAMELESS]
    owns = any(text in forms for text in texts(identities))
    hints = owns or any(text in forms or _is_linked(text, forms) for text in texts(others))
    return Naming(hints, owns and isinstance(sent, Members))


class Name:
    """A name that is looked for in texts, however they spell it."""

    def __init__(self, name: str) -> None:
        self._name = _fold(name.strip())
        word = rf"(?<![^\W_]){re.escape(self._name)}(?![^\W_])"
        # A short one stands in many a text by chance.
        self._word = re.compile(word) if len(self._name) < _SHORTEST_PART else None

    def stands_in(self, text: str) -> bool:
        """Return whether it does: as it is, percent-encoded or JSON-escaped, in any case.

        A short one counts as a whole word only.
        """
        return any(
            self._word.search(spelling) if self._word else self._name in spelling
            for spelling in _spellings(text)
        )


def _spellings(text: str) -> set[str]:
    """Return the text as it is and with what encodes it undone, in one case."""
    found = {text}
    for _ in range(_MOST_LAYERS):
        if not any(sign in text for text in found for sign in "%+\\"):
            break
        found |= {
            plain
            for one in found
            for plain in (unquote(one), unquote_plus(one), _unescape(one) if "\\" in one else one)
        }
    return {_fold(one) for one in found}


def _fold(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def texts(node: Any) -> Iterator[str]:
    """Yield all texts and numbers in a JSON value, and the names of its members."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, list | tuple):
        for inner in node:
            yield from texts(inner)


def _is_linked(text: str, forms: Collection[str]) -> bool:
    return "://" in text and _is_quoted(text, forms)


def _is_quoted(text: str, forms: Collection[str]) -> bool:
    """Return whether a text holds a name as a word of its own, also percent-encoded."""
    spellings = {text, unquote(text), unquote_plus(text)}
    words = [re.compile(rf"(?<!\w){re.escape(form)}(?!\w)") for form in forms]
    return any(word.search(spelling) for word in words for spelling in spellings)


def _unescape(text: str) -> str:
    """Undo JSON's escapes in a text that is no JSON, and those of odd bytes (`\\xNN`)."""
    plain = _ESCAPE.sub(lambda escape: _meaning(escape[1]), text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _meaning(escape: str) -> str:
    return chr(int(escape[1:], 16)) if len(escape) > 1 else _CONTROLS.get(escape, escape)
