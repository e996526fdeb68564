"""Which of several processes reads a service, and how much of an account's concurrency it has.

An account's limit is one for all its processes (docs/promises.md §12), so no more shards read it
than it may have requests in flight.
"""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """Process `index` of `count` that share the work."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class Spread:
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
        if place >= places:
            return 0
        return self.concurrency // places + (place < self.concurrency % places)

    def takes(self, shard: Shard, chat_service_sid: str) -> bool:
        """Return whether this shard reads a service, with all its parts.

        A shard with a greater share takes more services.
        """
        request = _hash(chat_service_sid) % self.concurrency
        return request % self._places(shard.count) == self._place_of(shard)

    def _places(self, shards: int) -> int:
        return min(self.most_places, shards)

    def _place_of(self, shard: Shard) -> int:
        return (shard.index - _hash(self.key)) % shard.count


def _hash(name: str) -> int:
    """Python's own differs from process to process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
