"""From "not seen" to "gone": the guard, then the API's own word for each absent binding (contract §5.3)."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from etl.config import Deletes
from etl.domain.counters import Counters
from etl.domain.guard import Absence, Guard, judge
from etl.domain.scope import Scope
from etl.stopping import Stop
from etl.twilio.client import Client
from etl.twilio.conversations import look_up_binding


@dataclass(frozen=True)
class Settlement:
    """What is to be done about the absent bindings of a scan."""

    deletes: bool = False
    refused: str | None = None
    alive: tuple[bytes, ...] = ()
    """Raw rows that the listing missed and the API gave when asked."""
    unknown: tuple[str, ...] = ()
    """SIDs that the API said nothing of; they are left for the next run."""


@dataclass(frozen=True)
class Inquiry:
    """Asks the API for absent bindings of one scope by their SIDs."""

    client: Client
    scope: Scope
    counters: Counters
    stop: Stop


def settle(
    inquiry: Inquiry, rules: Deletes, absent: int, active: int, sids: Callable[[], list[str]], *, allow_mass_delete: bool
) -> Settlement:
    """Decide about `absent` bindings of a service with `active` ones; `sids` draws those to ask for.

    Raises:
        Interrupted: the run is to stop.
    """
    if not absent or rules.mode == "ignore":
        return Settlement()
    if Guard(rules.max_fraction, rules.min_rows).refuses(absent, active) and not allow_mass_delete:
        return Settlement(
            refused=f"{absent} of {active} active bindings were absent, "
            "more than deletes.max_fraction and deletes.min_rows allow: nothing was deleted; "
            "if that many are really gone, run once with --allow-mass-delete"
        )
    if not rules.confirm:
        return Settlement(deletes=True)
    return _confirm(inquiry, sids(), absent)


def _confirm(inquiry: Inquiry, asked: list[str], absent: int) -> Settlement:
    answers, rows = _look_up(inquiry, asked)
    verdict = judge(answers, sampled=len(asked) < absent)
    refused = None
    if verdict.refused:
        refused = (
            f"the API still has {len(rows)} of {len(asked)} bindings drawn from {absent} absent ones, "
            "so the listing missed rows: nothing was deleted; the next run reads again"
        )
    unknown = tuple(sid for sid, answer in answers.items() if answer is Absence.UNKNOWN)
    return Settlement(verdict.deletes_allowed, refused, tuple(rows), unknown)


def _look_up(inquiry: Inquiry, sids: list[str]) -> tuple[dict[str, Absence], list[bytes]]:
    answers: dict[str, Absence] = {}
    rows: list[bytes] = []
    pool = ThreadPoolExecutor(inquiry.client.account.concurrency, "confirm")
    try:
        asked = {pool.submit(look_up_binding, inquiry.client, inquiry.scope, sid, inquiry.counters): sid for sid in sids}
        waiting: set[Future[tuple[Absence, bytes]]] = set(asked)
        while waiting:
            inquiry.stop.check()
            done, waiting = wait(waiting, timeout=0.25, return_when=FIRST_COMPLETED)
            for answered in done:
                absence, row = answered.result()
                answers[asked[answered]] = absence
                if absence is Absence.ALIVE:
                    rows.append(row)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return answers, rows
