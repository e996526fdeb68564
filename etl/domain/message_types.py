"""The set of message types that a binding is subscribed to, in one form (docs/api.md §6)."""

from collections.abc import Iterable

_PREFIXES = ("twilio.conversations.", "twilio.channel.")

KNOWN_MESSAGE_TYPES = frozenset(
    {
        "new_message",
        "added_to_conversation",
        "removed_from_conversation",
        "added_to_channel",
        "removed_from_channel",
        "invited_to_channel",
    }
)

# What Programmable Chat calls the same events. `invited_to_channel` has no twin in Conversations.
_LEGACY_NAMES = {
    "added_to_channel": "added_to_conversation",
    "removed_from_channel": "removed_from_conversation",
}


def normalize_message_types(names: Iterable[str], *, map_legacy: bool) -> list[str]:
    """Return them trimmed, lower case, without prefix, each once, sorted, legacy names mapped.

    Order and repetition never matter, and doing it twice equals doing it once. A name of white
    space is no name.
    """
    normal = {_normalize_name(name) for name in names}
    if map_legacy:
        normal = {_LEGACY_NAMES.get(name, name) for name in normal}
    return sorted(normal - {""})


def _normalize_name(name: str) -> str:
    name = name.lower().strip()
    while True:
        shorter = name
        for prefix in _PREFIXES:
            shorter = shorter.removeprefix(prefix).strip()
        if shorter == name:
            return name
        name = shorter
