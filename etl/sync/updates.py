"""Told at the end of a run: services of which most rows were updated at once."""

from collections import Counter
from collections.abc import Iterable, Sequence

import structlog

from etl import errors
from etl.domain.status import DONE
from etl.sync.outcome import ScanOutcome, sentence
from etl.warehouse import services
from etl.warehouse.connection import Warehouse

log = structlog.get_logger()

# So many updates may be any day's; above, more than half of the rows deserves a look.
_FEW = 100


def warn_of_unusual_updates(warehouse: Warehouse, scans: Sequence[ScanOutcome]) -> None:
    """Tell of each service of which more than half of the rows changed, and in which fields.

    An API that corrects a field of all rows at once is seen by this.
    """
    updated = _sum_up(scans)
    many = [sid for sid, number in updated.items() if number > _FEW]
    if not many:
        return
    try:
        known = warehouse.read(lambda conn: services.find(conn, many))
    except errors.EtlError as error:
        log.warning("updates.unmeasured", reason=sentence(error))
        return
    for sid in many:
        if sid in known and updated[sid] > known[sid].active / 2:
            _warn(known[sid].account, sid, updated[sid], known[sid].active, scans)


def _warn(account: str, sid: str, updated: int, active: int, scans: Iterable[ScanOutcome]) -> None:
    fields: Counter[str] = Counter()
    for scan in _done(scans):
        if scan.scope.chat_service_sid == sid:
            fields.update(scan.changed_fields)
    log.warning(
        "updates.unusual",
        account=account,
        chat_service_sid=sid,
        updated=updated,
        active=active,
        changed_fields=dict(fields),
    )


def _sum_up(scans: Iterable[ScanOutcome]) -> Counter[str]:
    updated: Counter[str] = Counter()
    for scan in _done(scans):
        updated[scan.scope.chat_service_sid] += scan.counters.updated
    return updated


def _done(scans: Iterable[ScanOutcome]) -> list[ScanOutcome]:
    return [scan for scan in scans if scan.status in DONE]
