"""From "not seen" to "gone": the guard, then the API's own word for each absent binding (contract §5.3)."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from etl.config import Deletes
from etl.domain.counters import Counters
from etl.domain.guard import Absence, Guard, Sample, judge, weigh
from etl.domain.scope import Scope
from etl.stopping import Stop
from etl.twilio.client import Client
from etl.twilio.conversations import look_up_binding

# After so many questions in a row whose retries ran out the API answers none for now, and asking for the rest would take hours.
_MOST_UNKNOWN_IN_A_ROW = 3


@dataclass(frozen=True)
class DeleteDecision:
    """What is to be done about the absent bindings of a scan."""

    deletes: bool = False
    """Those that the scan has listed go, save what is alive or unknown."""
    refused: str | None = None
    kept: str | None = None
    """Why absent bindings stay, though nothing was refused."""
    alive: tuple[bytes, ...] = ()
    """Raw rows that the listing missed and the API gave when asked."""
    unknown: tuple[str, ...] = ()
    """SIDs that the API said nothing of; they are left for the next run."""


class Part(Protocol):
    """A scan of a service or of a part of it, as far as absences go."""

    absent: int
    """How many bindings it did not meet and may delete; known once it is read."""

    def finish(self) -> None:
        """Decide about the absences and publish."""


class Census:
    """The parts of a service in this run, whose absences the guard judges together.

    However a service is cut up, the guard has to say the same. Judged one by one, parts of which each is below the limits would
    together delete what is far beyond them; measured each against its own rows, a small part that is emptied would be refused although
    the service hardly shrinks. So a part that misses something waits until all are read, and then the sum is judged against the rows
    that were active before any part published. A part that misses nothing is published at once; a part that failed deletes nothing and
    counts for nothing. Parts that other processes read (`--shard`) are not seen from here.
    """

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.absent = 0
        self.active = 0
        self.witness: str | None = None
        """A SID that a part has just listed."""
        self._missing = parts
        self._waiting: list[Part] = []
        self._lock = threading.Lock()

    def measure(self, absent: int, active: int, witness: str | None) -> None:
        """A part is read; of the figures for the active rows the first one counts, before anything was published."""
        with self._lock:
            self.witness = witness or self.witness
            self.absent += absent
            self.active = self.active or active

    def hand_in(self, part: Part) -> list[Part]:
        """A part is read, or has failed; gives the parts that may be finished now."""
        with self._lock:
            self._missing -= 1
            self._waiting.append(part)
            ready = self._waiting if not self._missing else [] if part.absent else [part]
            self._waiting = [one for one in self._waiting if one not in ready]
        return ready


@dataclass(frozen=True)
class Inquiry:
    """Asks the API for absent bindings of one scope by their SIDs."""

    client: Client
    scope: Scope
    counters: Counters
    stop: Stop
    witness: str | None
    """A SID of the same service that this run has just listed."""

    def trusts_wordless(self) -> bool:
        """Whether the path by which bindings are asked for knows the living: one is asked for."""
        if self.witness is None:
            return False
        absence, _ = look_up_binding(self.client, self.scope, self.witness, self.counters)
        return absence is Absence.ALIVE


def why_unproven(
    scope: Scope, identities: Sequence[str], *, resumed: bool, complete: bool, unreadable: int
) -> str | None:
    """Why a scan that was read to its end proves no absence, if that is so; `identities` as they are stored."""
    if not scope.may_delete:
        return "a load narrowed by time passes over what it was not asked for; nothing was deleted"
    if resumed:
        return "the scan went on where an interrupted one had stopped; nothing was deleted, the next complete scan does that"
    if not complete:
        return (
            "rows moved while they were read; nothing was deleted, the next complete scan does that"
        )
    if scope.identities and not identities:
        return "with privacy.identity: drop nobody knows whose rows are gone; nothing was deleted"
    if unreadable:
        return f"{unreadable} rows without a readable SID prove no absence; nothing was deleted"
    return None


def decide_deletes(
    inquiry: Inquiry,
    rules: Deletes,
    absent: int,
    census: Census,
    draw: Callable[[], Sample],
    *,
    allow_mass_delete: bool,
) -> DeleteDecision:
    """Decide about the `absent` bindings of a scan; `draw` chooses those to ask for.

    Raises:
        Interrupted: the run is to stop.
    """
    if not absent or rules.mode == "ignore":
        return DeleteDecision()
    if (
        Guard(rules.max_fraction, rules.min_rows).refuses(census.absent, census.active)
        and not allow_mass_delete
    ):
        return DeleteDecision(
            refused=f"{census.absent} of {census.active} active bindings were absent, "
            "more than deletes.max_fraction and deletes.min_rows allow: nothing was deleted; "
            "if that many are really gone, run once with --allow-mass-delete"
        )
    if not rules.confirm:
        return DeleteDecision(deletes=True)
    return _confirm(inquiry, draw())


def _confirm(inquiry: Inquiry, sample: Sample) -> DeleteDecision:
    answers, rows = _look_up(inquiry, sample.sids)
    wordless = Absence.WORDLESS in answers.values()
    trusted = not wordless or inquiry.trusts_wordless()
    return conclude(weigh(answers, trusted=trusted), rows, sample, trusted=trusted)


def conclude(
    answers: Mapping[str, Absence], rows: Sequence[bytes], sample: Sample, *, trusted: bool
) -> DeleteDecision:
    """What the answers to a sample mean; `rows` are those of the living."""
    verdict = judge(answers, sampled=sample.is_part)
    unknown = tuple(sid for sid, answer in answers.items() if answer is Absence.UNKNOWN)
    refused = kept = None
    if verdict.refused:
        refused = (
            f"the API still has {len(rows)} of {len(sample.sids)} bindings drawn from {sample.size} absent ones, "
            "so the listing missed rows: nothing was deleted; the next run reads again"
        )
    elif unknown:
        stay = len(unknown) if verdict.deletes_allowed else sample.size
        kept = (
            f"of {len(sample.sids)} absent bindings that were asked for the API did not say of {len(unknown)} whether they are gone: "
            f"{stay} stay, and the next run asks again"
        )
        if not trusted:
            kept += (
                "; it answered 404 without a word, which counts only where a binding that was just "
                "listed answers 200 by the same path: check base_url and any proxy between"
            )
    return DeleteDecision(verdict.deletes_allowed, refused, kept, tuple(rows), unknown)


def _look_up(inquiry: Inquiry, sids: Sequence[str]) -> tuple[dict[str, Absence], list[bytes]]:
    """What the API says of each; of those that are left when it falls silent, that it is unknown."""
    answers: dict[str, Absence] = dict.fromkeys(sids, Absence.UNKNOWN)
    rows: list[bytes] = []
    unknown_in_a_row = 0
    pool = ThreadPoolExecutor(inquiry.client.account.concurrency, "confirm")
    try:
        asked = {
            pool.submit(look_up_binding, inquiry.client, inquiry.scope, sid, inquiry.counters): sid
            for sid in sids
        }
        waiting: set[Future[tuple[Absence, bytes]]] = set(asked)
        while waiting:
            inquiry.stop.check()
            done, waiting = wait(waiting, timeout=0.25, return_when=FIRST_COMPLETED)
            for answered in done:
                absence, row = answered.result()
                answers[asked[answered]] = absence
                unknown_in_a_row = unknown_in_a_row + 1 if absence is Absence.UNKNOWN else 0
                if absence is Absence.ALIVE:
                    rows.append(row)
            if (
                unknown_in_a_row >= _MOST_UNKNOWN_IN_A_ROW
            ):  # what is under way comes to its end, and nothing more is asked
                waiting = {question for question in waiting if not question.cancel()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return answers, rows
