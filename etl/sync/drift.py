"""Drift: what a scan meets for the first time is stored with its batch, and logged after."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa
import structlog

from etl.domain.drift import Drift, Novelty
from etl.domain.scope import Scope
from etl.warehouse import drift
from etl.warehouse.engines.base import Engine

log = structlog.get_logger()


class DriftWatch:
    """Records what one scan meets for the first time, in the transactions of its caller."""

    def __init__(self, engine: Engine, scope: Scope, run_id: int, seen: Drift) -> None:
        self._engine = engine
        self._scope = scope
        self._seen = seen
        self._recorded: set[Novelty] = set()
        self._rows_by_form: Counter[str] = Counter()
        # Of the transaction in hand, which may be tried again.
        self._new: list[Novelty] = []
        self._batch_rows: Mapping[str, int] = {}
        self._log = log.bind(run_id=run_id, **scope.named)

    def record(self, conn: sa.Connection, rows_by_form: Mapping[str, int], now: datetime) -> None:
        """Insert what the batch has that is new."""
        self._batch_rows, self._new = rows_by_form, []
        if met := self._seen.met - self._recorded:
            self._new = drift.record(conn, self._engine, self._scope, met, now)

    def tell(self) -> None:
        """Log what was new, once it is committed."""
        self._recorded |= self._seen.met
        self._rows_by_form.update(self._batch_rows)
        for one in self._new:
            self._log.warning("drift.seen", kind=str(one.kind), name=one.label)
        self._new, self._batch_rows = [], {}

    def measure(self, conn: sa.Connection, *, changed: bool) -> None:
        """Count how many rows have what has drifted, in the transaction that publishes."""
        sid = self._scope.chat_service_sid
        if changed or self._seen.met:
            drift.recount(conn, self._engine, sid)
        drift.raise_counts(conn, sid, self._rows_by_form + Counter(self._batch_rows))
