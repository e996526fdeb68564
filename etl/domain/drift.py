"""What nobody knows of today and the API sends all the same: noted where a row is read with care.

No value is noted: of a field its name, of a time its form.
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

# Names may be anything, and a service that sends thousands of them must not fill the memory or a
# table.
MOST_NAMES = 50
LONGEST_NAME = 255


class Kind(StrEnum):
    """What can be new."""

    FIELD = "field"  # one that has no column
    BINDING_TYPE = "binding_type"
    MESSAGE_TYPE = "message_type"
    TIME_FORM = "time_form"


class Novelty(NamedTuple):
    """One new thing."""

    kind: Kind
    name: str

    @property
    def label(self) -> str:
        """Return the name for a screen: signs that would move the cursor are written out."""
        return to_label(self.name)


class Drift:
    """What a reading has met that is new. Used by one thread."""

    def __init__(self) -> None:
        self.met: set[Novelty] = set()
        """Everything so far; at most `MOST_NAMES` of a kind."""
        self._names: Counter[Kind] = Counter()
        self._rows_by_form: Counter[str] = Counter()

    def note(self, kind: Kind, names: Iterable[str]) -> None:
        """Note names of one kind."""
        for name in names:
            novelty = Novelty(kind, _cut(name))
            if novelty not in self.met and self._names[kind] < MOST_NAMES:
                self._names[kind] += 1
                self.met.add(novelty)

    def note_times(self, forms: set[str]) -> None:
        """Add the time forms of one row."""
        self.note(Kind.TIME_FORM, forms)
        if len(self._rows_by_form) < MOST_NAMES:
            self._rows_by_form.update(forms)

    def take_rows_by_form(self) -> Counter[str]:
        """Return how many rows had which form of time since this was last asked."""
        taken, self._rows_by_form = self._rows_by_form, Counter()
        return taken


def to_label(name: str) -> str:
    """Return a name with all that cannot be printed as `\\uNNNN`."""
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in name)


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
