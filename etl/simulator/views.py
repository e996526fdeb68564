"""Sorted views of a service's bindings: which rows a listing shows, in which order."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

Order = Literal["sid", "created", "updated", "updated-desc"]

FEW = 32
"""Up to so many entries are inserted or removed one by one; for more the view is rebuilt."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows a listing shows, in which order; the real one is not known (docs/api.md §2.6)."""

    order: Order = "sid"
    types: frozenset[str] = frozenset()
    identities: frozenset[str] = frozenset()

    def admits(self, binding_type: object, identity: object) -> bool:
        """Tell whether a row of this type and identity is shown."""
        return (not self.types or binding_type in self.types) and (
            not self.identities or identity in self.identities
        )


class View:
    """The places of the rows that one choice shows, in order."""

    def __init__(self, places: Iterable[str] = (), *, descending: bool = False) -> None:
        """Sort the given places; a descending listing begins with the last of them."""
        self.places = sorted(places)
        self._descending = descending

    def add(self, places: Collection[str]) -> None:
        """Put places in."""
        if len(places) > FEW:
            self.places.extend(places)
            self.places.sort()
        else:
            for place in places:
                insort(self.places, place)

    def remove(self, places: Collection[str]) -> None:
        """Take places out; those not here are ignored."""
        if len(places) > FEW:
            gone = set(places)
            self.places = [place for place in self.places if place not in gone]
        else:
            for place in places:
                self._remove_one(place)

    def after(self, place: str, count: int) -> list[str]:
        """Give the next places behind one that need not exist any more: key-set paging."""
        if self._descending:
            stop = bisect_left(self.places, place) if place else len(self.places)
            return self.places[max(0, stop - count) : stop][::-1]
        start = bisect_right(self.places, place)
        return self.places[start : start + count]

    def before(self, place: str, count: int) -> list[str]:
        """Give the places up to and without the given one."""
        if self._descending:
            start = bisect_right(self.places, place)
            return self.places[start : start + count][::-1]
        stop = bisect_left(self.places, place)
        return self.places[max(0, stop - count) : stop]

    def at(self, offset: int, count: int) -> list[str]:
        """Give the places behind so many others: paging by numbers."""
        if self._descending:
            stop = max(0, len(self.places) - offset)
            return self.places[max(0, stop - count) : stop][::-1]
        return self.places[offset : offset + count]

    def _remove_one(self, place: str) -> None:
        index = bisect_left(self.places, place)
        if index < len(self.places) and self.places[index] == place:
            del self.places[index]
