"""Which of several processes reads a service, and how much of an account's concurrency it has.

An account's limit is one for all its processes (docs/promises.md §12), so no more shards read it
than it may have requests in flight.
"""

import hashlib
from collections.abc import Mapping
from heapq import heapify, heapreplace

import msgspec


class Shard(msgspec.Struct, frozen=True):
    """Process `index` of `count` that share the work."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


class Spread(msgspec.Struct, frozen=True):
    """How one account is spread over shards: the same on every host and in every year."""

    key: str
    """Of the account; where its places begin follows from it, so that many accounts spread."""
    concurrency: int
    most_places: int
    """It is spread over no more shards than this; at most `concurrency`."""

    def share(self, shard: Shard) -> int:
        """Return how many of the account's requests in flight are this shard's.

        Those of all shards add up to `concurrency`.
        """
        places = self._places(shard.count)
        place = self._place_of(shard)
        return self._share_of(place, places) if place < places else 0

    def takes(
        self, shard: Shard, chat_service_sid: str, agreed: Mapping[str, int] | None = None
    ) -> bool:
        """Return whether this shard reads a service, with all its parts.

        `agreed` are places by SID, of `assign`; a service that is not in it goes by its hash, and
        then a shard with a greater share takes more services.
        """
        places = self._places(shard.count)
        place = (agreed or {}).get(chat_service_sid)
        if place is None or place >= places:
            place = _hash(chat_service_sid) % self.concurrency % places
        return place == self._place_of(shard)

    def assign(self, shards: int, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return a place for each service, so that all of them end at about the same time.

        The longest first, each to the place that would be done with it soonest. `sizes` is how
        much there is to read of each service, by SID; the order of its items changes nothing.
        """
        places = self._places(shards)
        ends = [(0.0, place) for place in range(places)]
        heapify(ends)
        assigned = {}
        for sid, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
            end, place = ends[0]
            heapreplace(ends, (end + size / self._share_of(place, places), place))
            assigned[sid] = place
        return assigned

    def _share_of(self, place: int, places: int) -> int:
        return self.concurrency // places + (place < self.concurrency % places)

    def _places(self, shards: int) -> int:
        return min(self.most_places, shards)

    def _place_of(self, shard: Shard) -> int:
        return (shard.index - _hash(self.key)) % shard.count


def _hash(name: str) -> int:
    """Return a hash that is the same in every process, unlike Python's own."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
