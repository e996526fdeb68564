"""From "not seen" to "gone": the guard, then the API's own word for each absent binding.

See docs/promises.md §3.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from etl.config import Deletes
from etl.domain.guard import Absence, Guard, Sample, judge, weigh
from etl.domain.scope import Scope
from etl.sync.lookups import BindingLookup
from etl.sync.steps import Absences, DeleteDecision, Reading


def why_unproven(scope: Scope, identities: Sequence[str], reading: Reading) -> str | None:
    """Return why a scan that was read to its end proves no absence, if that is so.

    `identities` are those of the scope as the warehouse stores them.
    """
    if not scope.may_delete:
        return "a load narrowed by time passes over what it was not asked for; nothing was deleted"
    if reading.resumed:
        return (
            "the scan resumed where an interrupted one had stopped; nothing was deleted, "
            "the next complete scan does that"
        )
    if not reading.complete:
        return (
            "rows moved while they were read; nothing was deleted, the next complete scan does that"
        )
    if scope.identities and not identities:
        return "with privacy.identity: drop nobody knows whose rows are gone; nothing was deleted"
    if reading.unreadable:
        return (
            f"{reading.unreadable} rows without a readable SID prove no absence; "
            "nothing was deleted"
        )
    return None


class Part(Protocol):
    """A scan of a service or of a part of it, as far as absences go."""

    @property
    def misses_some(self) -> bool:
        """Return whether it did not see bindings that it may delete; known once it is read."""

    def finish(self) -> None:
        """Decide about the absences and publish."""


class DeleteBarrier:
    """Holds back the parts of a service that miss bindings until all parts are read.

    However a service is cut up, the guard has to say the same. Judged one by one, parts of which
    each is below the limits would together delete what is far beyond them; measured each against
    its own rows, a small part that is emptied would be refused although the service hardly
    shrinks. So the sum is judged against the rows that were active before any part published. A
    part that misses nothing is published at once; a part that failed deletes nothing and counts
    for nothing. All parts of a service are read by one process, also with `--shard`.
    """

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.total = Absences()
        """All parts together."""
        self.last_sid: str | None = None
        """A binding that a part has just listed."""
        self._unread = parts
        self._waiting: list[Part] = []
        self._lock = threading.Lock()

    def measure(self, absences: Absences, last_sid: str | None) -> None:
        """Add the absences of a part that is read."""
        with self._lock:
            self.last_sid = last_sid or self.last_sid
            # Of the active ones the first figure counts, from before anything was published.
            active = self.total.active or absences.active
            self.total = Absences(self.total.absent + absences.absent, active)

    def arrive(self, part: Part) -> list[Part]:
        """A part is read, or has failed; return the parts that may be finished now."""
        with self._lock:
            self._unread -= 1
            self._waiting.append(part)
            ready = self._waiting if not self._unread else [] if part.misses_some else [part]
            self._waiting = [one for one in self._waiting if one not in ready]
        return ready


class DeletePolicy(msgspec.Struct, frozen=True):
    """What the configuration and the command line say of deletes."""

    rules: Deletes
    allow_mass_delete: bool

    def refuses(self, absences: Absences) -> bool:
        """Return whether the guard stands against that many deletes."""
        guard = Guard(self.rules.max_fraction, self.rules.min_rows)
        return guard.refuses(*absences) and not self.allow_mass_delete


def decide_deletes(
    policy: DeletePolicy,
    absent: int,
    service: Absences,
    lookup: BindingLookup,
    draw: Callable[[], Sample],
) -> DeleteDecision:
    """Decide about the `absent` bindings of a scan.

    `service` sums up all parts of the service, `draw` chooses those to ask the API for.

    Raises:
        Interrupted: the run is to stop.
    """
    if not absent or policy.rules.mode == "ignore":
        return DeleteDecision()
    if policy.refuses(service):
        return DeleteDecision(
            refused=f"{service.absent} of {service.active} active bindings were absent, "
            "more than deletes.max_fraction and deletes.min_rows allow: nothing was deleted; "
            "if that many are really gone, run once with --allow-mass-delete"
        )
    if not policy.rules.confirm:
        return DeleteDecision(deletes=True)
    sample = draw()
    answers, rows = lookup.ask_for(sample.sids)
    trusted = Absence.WORDLESS not in answers.values() or lookup.trusts_wordless()
    return conclude(weigh(answers, trusted=trusted), rows, sample, trusted=trusted)


def conclude(
    answers: Mapping[str, Absence], rows: Sequence[bytes], sample: Sample, *, trusted: bool
) -> DeleteDecision:
    """Return what the answers to a sample mean; `rows` are those of the living."""
    verdict = judge(answers, sampled=sample.is_part)
    unknown = tuple(sid for sid, answer in answers.items() if answer is Absence.UNKNOWN)
    refused = note = None
    if verdict.refused:
        refused = (
            f"the API still has {len(rows)} of {len(sample.sids)} bindings drawn from "
            f"{sample.size} absent ones, so the listing missed rows: nothing was deleted; "
            "the next run reads again"
        )
    elif unknown:
        stay = len(unknown) if verdict.deletes_allowed else sample.size
        note = (
            f"of {len(sample.sids)} absent bindings that were asked for the API did not say of "
            f"{len(unknown)} whether they are gone: {stay} stay, and the next run asks again"
        )
        if not trusted:
            note += (
                "; it answered 404 with an empty body, which counts only where a binding "
                "that was just listed answers 200 by the same path: check base_url and any "
                "proxy between"
            )
    return DeleteDecision(verdict.deletes_allowed, refused, note, tuple(rows), unknown)
