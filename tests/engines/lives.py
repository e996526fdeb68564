"""Random lives of services, and a model of what the warehouse has to hold of each.

The model shares no code with the program: it knows the world, what was asked for, and what is promised. A life is one service; all
lives of a scenario are read by the same runs, so that many cost little more than one.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from etl.simulator.world import Binding, Service
from tests.acceptance.scenario import as_stored, expected_row

KNOWN_TYPES = ("apn", "fcm", "gcm", "twilsock")
NEW_TYPE = "webpush"
MOST_ROWS = 9
BAD_DATE = "half past nine"
GOOD_DATE = "2024-02-29T12:00:00Z"

Present = dict[str, str]
"""The image of each active binding, by SID."""


class Ask(NamedTuple):
    """What one scan is asked for."""

    types: tuple[str, ...] = ()
    identity: str | None = None
    since: str | None = None

    def lists(self, binding: Mapping[str, Any]) -> bool:
        """Whether the API shows this binding."""
        return (not self.types or binding["binding_type"] in self.types) and (
            self.identity is None or binding["identity"] == self.identity
        )

    def takes(self, binding: Mapping[str, Any]) -> bool:
        """Whether it is recent enough."""
        return self.since is None or str(as_stored(binding["date_updated"])) >= str(
            as_stored(self.since)
        )


@dataclass
class Life:
    """One service, and the story of each of its bindings as the warehouse has to tell it."""

    service: Service
    present: Present = field(default_factory=dict)
    story: dict[str, list[str | None]] = field(default_factory=dict)
    """Every image in turn; None while the binding was gone."""

    def stir(self, rng: Random) -> None:
        """Let something happen at Twilio."""
        for _ in range(rng.randrange(4)):
            rng.choice((self._grow, self._touch, self._turn, self._delete, self._bring_back,
                        self._spoil, self._mend, self._shuffle, self._clutter))(rng)  # fmt: skip

    def after(self, asks: Iterable[Ask], *, deletes: bool = True) -> Present:
        """What is present once these scans are published."""
        present = dict(self.present)
        for ask in asks:
            self._scan(ask, present, deletes=deletes)
        return present

    def reach(self, present: Present) -> None:
        """The warehouse is there now; what differs is told by one more image each."""
        for sid in self.present.keys() | present.keys():
            if self.present.get(sid) != present.get(sid):
                self.story.setdefault(sid, []).append(present.get(sid))
        self.present = present

    def outcomes(self, asks: list[Ask]) -> Iterator[Present]:
        """What a killed run may leave: each scan is published or it is not, and may have gone on half way."""
        for number in range(len(asks) + 1):
            for some in itertools.combinations(asks, number):
                yield self.after(some)
                yield self.after(some, deletes=False)

    @property
    def bad(self) -> set[str]:
        """Bindings that cannot be loaded."""
        return {sid for sid, one in self.service.bindings.items() if not is_good(one)}

    @property
    def is_cluttered(self) -> bool:
        """Whether a row without a SID is listed."""
        return len(self.service) > len(self.service.bindings)

    def _scan(self, ask: Ask, present: Present, *, deletes: bool) -> None:
        bindings = dict(self.service.bindings)
        listed = {sid: one for sid, one in bindings.items() if ask.lists(one)}
        for sid, one in listed.items():
            if is_good(one) and ask.takes(one):
                present[sid] = image(expected_row(one))
        names_all = not (self.is_cluttered and not ask.types and ask.identity is None)
        if deletes and names_all and ask.since is None:
            for sid in [sid for sid, one in present.items() if ask.lists(json.loads(one))]:
                if sid not in listed:
                    self._confirm(sid, bindings.get(sid), present)

    def _confirm(self, sid: str, alive: Binding | None, present: Present) -> None:
        if alive is None:
            del present[sid]
        elif is_good(alive):
            present[sid] = image(expected_row(alive))

    # What may happen.

    def _one(self, rng: Random) -> list[str]:
        sids = self.service.sids()
        return rng.sample(sids, min(1, len(sids)))

    def _grow(self, rng: Random) -> None:
        self.service.grow(min(rng.randint(1, 3), MOST_ROWS - len(self.service)))

    def _touch(self, rng: Random) -> None:
        self.service.touch(rng.randint(1, 2))

    def _turn(self, rng: Random) -> None:
        for sid in self._one(rng):
            self.service.change(sid, binding_type=rng.choice((*KNOWN_TYPES, NEW_TYPE)))

    def _delete(self, rng: Random) -> None:
        self.service.delete(rng.randint(1, 3))

    def _bring_back(self, rng: Random) -> None:
        self.service.bring_back(min(rng.randint(1, 2), MOST_ROWS - len(self.service)))

    def _spoil(self, rng: Random) -> None:
        for sid in self._one(rng):
            self.service.change(sid, date_updated=BAD_DATE)

    def _mend(self, _: Random) -> None:
        for sid in self.bad:
            self.service.change(sid, date_updated=GOOD_DATE)

    def _shuffle(self, _: Random) -> None:
        self.service.shuffle_message_types(2)

    def _clutter(self, rng: Random) -> None:
        if rng.random() < 0.3:
            self.service.put({"nonsense": True}, key="nameless")
        else:
            self.service.remove(["nameless"])


def is_good(binding: Mapping[str, Any]) -> bool:
    """Whether it can be loaded."""
    return bool(binding["date_updated"] != BAD_DATE)


def image(row: Mapping[str, Any]) -> str:
    """The content of a row of `bindings` as one text."""
    return json.dumps(row, sort_keys=True)


def check_history(lines: list[dict[str, Any]], story: list[str | None]) -> None:
    """One binding's lines of `binding_history`, in order: whole, without gaps, overlaps or repetitions, and as it happened."""
    for line, following in itertools.pairwise(lines):
        assert line["valid_from"] < line["valid_to"] == following["valid_from"]
    last = lines[-1]
    assert last["valid_to"] is None or last["valid_from"] < last["valid_to"]
    assert {line["first_seen_at"] for line in lines} == {lines[0]["valid_from"]}
    told = [None if line["is_deleted"] else line["image"] for line in lines]
    assert all(one != other for one, other in itertools.pairwise(told))
    if (
        last["valid_to"] is not None
    ):  # taken out by a hard delete: its absence shows when it is back
        assert story[-1] is None
        story = story[:-1]
    assert told == story
