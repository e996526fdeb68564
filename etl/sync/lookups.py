"""Look-ups by SID: of absent bindings before a delete, of rejects, of unlisted services."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import msgspec

from etl.domain.counters import Counters
from etl.domain.guard import Absence
from etl.domain.scope import Scope
from etl.stopping import Stop
from etl.twilio.client import Client
from etl.twilio.conversations import look_up_binding

# After so many questions in a row whose retries ran out the API answers none for now, and asking
# for the rest would take hours.
_MOST_UNKNOWN_IN_A_ROW = 3
_LOOK_FOR_STOP_SECONDS = 0.25

Answer = tuple[Absence, bytes]
"""Whether something exists, and its raw row if it does."""


class BindingLookup(msgspec.Struct, frozen=True):
    """Asks the API for bindings of one scope."""

    client: Client
    scope: Scope
    counters: Counters
    stop: Stop
    listed_sid: str | None = None
    """A binding of the same service that this run has just listed."""

    def trusts_wordless(self) -> bool:
        """Return whether a 404 without a word is proof: the same path knows a living binding."""
        if self.listed_sid is None:
            return False
        absence, _ = self._ask(self.listed_sid)
        return absence is Absence.ALIVE

    def ask_for(self, sids: Sequence[str]) -> tuple[dict[str, Absence], list[bytes]]:
        """Return what the API says of each SID, and the raw rows of the living.

        Raises:
            Interrupted: the run is to stop.
        """
        return look_up_all(self._ask, sids, self.client.account.concurrency, self.stop)

    def _ask(self, sid: str) -> Answer:
        return look_up_binding(self.client, self.scope, sid, self.counters)


def look_up_all(
    look_up: Callable[[str], Answer], sids: Sequence[str], concurrency: int, stop: Stop
) -> tuple[dict[str, Absence], list[bytes]]:
    """Look up SIDs side by side; return what the API says of each, and the rows of the living.

    When it falls silent, those that are left are unknown.

    Raises:
        Interrupted: the run is to stop.
    """
    answers: dict[str, Absence] = dict.fromkeys(sids, Absence.UNKNOWN)
    rows: list[bytes] = []
    unknown_in_a_row = 0
    pool = ThreadPoolExecutor(concurrency, "lookup")
    try:
        asked = {pool.submit(look_up, sid): sid for sid in sids}
        waiting: set[Future[Answer]] = set(asked)
        while waiting:
            stop.check()
            done, waiting = wait(waiting, _LOOK_FOR_STOP_SECONDS, FIRST_COMPLETED)
            for answered in done:
                absence, row = answered.result()
                answers[asked[answered]] = absence
                unknown_in_a_row = unknown_in_a_row + 1 if absence is Absence.UNKNOWN else 0
                if absence is Absence.ALIVE:
                    rows.append(row)
            if unknown_in_a_row >= _MOST_UNKNOWN_IN_A_ROW:
                # What is under way comes to its end, and nothing more is asked.
                waiting = {question for question in waiting if not question.cancel()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return answers, rows
