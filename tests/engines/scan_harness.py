"""Scans through the warehouse's own functions, without HTTP: what a run does, batch by batch,
in a test's hands."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from etl.domain.normalize import NormalizationRules, Normalizer
from etl.domain.scope import Scope
from etl.sync.compare import compare
from etl.warehouse import absences, staging
from etl.warehouse.connection import Warehouse
from etl.warehouse.publishing import Publication, publish_deletes, publish_staged
from etl.warehouse.types import UtcDateTime
from tests.servers.keys import repeated_keys

ACCOUNT_SID = "AC" + "a" * 32
SERVICE = "IS" + "1" * 32
OTHER_SERVICE = "IS" + "2" * 32
SCOPE = Scope("main", SERVICE)
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)

Sent = dict[str, Any]


class Tally(NamedTuple):
    """What one scan changed."""

    inserted: int = 0
    updated: int = 0
    restored: int = 0
    deleted: int = 0


def sid(number: int) -> str:
    """The SID of a binding in a test."""
    return f"BS{number:032x}"


def sent(number: int, **fields: Any) -> Sent:
    """A binding as the API sends it."""
    return {
        "sid": sid(number),
        "account_sid": ACCOUNT_SID,
        "chat_service_sid": SERVICE,
        "credential_sid": None,
        "binding_type": "apn",
        "identity": f"person-{number}",
        "endpoint": f"endpoint-{number}",
        "message_types": ["new_message"],
        "date_created": "2023-05-04T09:42:00Z",
        "date_updated": "2023-05-04T09:42:00Z",
        "url": f"https://conversations.twilio.com/v1/Services/{SERVICE}/Bindings/{sid(number)}",
        **fields,
    }


class ScanHarness:
    """Scans of one scope, one after the other, a day apart, so that every stored time is known beforehand."""

    def __init__(self, warehouse: Warehouse, scope: Scope = SCOPE) -> None:
        self.warehouse = warehouse
        self.scope = scope
        self.scans = 0
        self.changed_fields: Mapping[str, int] = {}
        """Of the last publication."""
        self._batches = 0
        self._is_first_load = False
        self._normalizer = Normalizer(
            NormalizationRules(scope.account, ACCOUNT_SID, scope.chat_service_sid)
        )

    def scan(self, *batches: Sequence[Sent], deletes: Any = "soft") -> Tally:
        """Read these batches to the end and publish; `deletes=None` as an incomplete scan does."""
        self.scans += 1
        service = self.scope.chat_service_sid
        self._is_first_load = not self.warehouse.read(lambda conn: staging.holds_any(conn, service))
        for batch in batches:
            self.warehouse.transact(partial(self.stage, batch=batch))
        tally = self.warehouse.transact(lambda conn: self.publish(conn, deletes=deletes))
        if not self.warehouse.engine.enforces_keys:
            assert self.warehouse.read(repeated_keys) == {}
        return tally

    def stage(self, conn: sa.Connection, batch: Sequence[Sent]) -> None:
        """Compare a batch as a run does, and stage what differs."""
        engine = self.warehouse.engine
        hashed, _ = self._normalizer.hash_rows([msgspec.json.encode(one) for one in batch])
        found = compare(
            conn,
            engine,
            self._normalizer,
            hashed.values(),
            self.scope,
            first_load=self._is_first_load,
        )
        assert found.rejects == []
        self._batches += 1
        staging.stage_batch(conn, engine, self.scans, self._batches, list(hashed), found.changed)

    def publish(self, conn: sa.Connection, *, deletes: Any = "soft", listed: bool = False) -> Tally:
        """Publish what is staged, and forget it; what is absent may be `listed` already."""
        engine = self.warehouse.engine
        order = Publication(
            self.scans, self.scans, self.scope, list(self.scope.identities), self.now
        )
        _, repeated = staging.count_seen(conn, engine, self.scans)
        if repeated:
            staging.drop_superseded(conn, engine, self.scans)
        changes, self.changed_fields = publish_staged(
            conn, engine, order, first_load=self._is_first_load
        )
        if deletes and not listed:
            absences.list_absent(conn, engine, self.scope, order.identities, self.scans)
        deleted = publish_deletes(conn, order, deletes) if deletes else 0
        staging.discard(conn, [self.scans])
        return Tally(*changes, deleted)

    @property
    def now(self) -> datetime:
        """When the scan in hand publishes."""
        return day(self.scans)

    def rows(self, sql: str, *moments: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of the warehouse; the columns named in `moments` as aware times on every engine."""
        query = (
            sa.text(sql).columns(**dict.fromkeys(moments, UtcDateTime()))
            if moments
            else sa.text(sql)
        )
        return self.warehouse.read(
            lambda conn: [dict(row) for row in conn.execute(query, parameters).mappings()]
        )

    def bindings(self, *columns: str) -> list[tuple[Any, ...]]:
        """Columns of `bindings`, by SID."""
        return self._select("bindings", columns, "sid")

    def versions(self, *columns: str) -> list[tuple[Any, ...]]:
        """Columns of `binding_versions`, in the order in which they were written."""
        return self._select("binding_versions", columns, "id")

    def history(self, *columns: str) -> list[tuple[Any, ...]]:
        """Columns of `binding_history`, by SID and time."""
        return self._select("binding_history", columns, "sid, valid_from")

    def left_over(self) -> int:
        """How many rows the staging tables hold."""
        tables = ("scan_seen", "scan_staged", "scan_absent", "scan_progress")
        return sum(self.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"] for table in tables)

    def _select(self, table: str, columns: Sequence[str], order: str) -> list[tuple[Any, ...]]:
        moments = {
            "first_seen_at",
            "changed_at",
            "deleted_at",
            "valid_from",
            "valid_to",
            "date_created",
            "date_updated",
        }
        chosen = [
            sa.column(name, UtcDateTime()) if name in moments else sa.column(name)
            for name in columns
        ]
        query = sa.select(*chosen).select_from(sa.table(table)).order_by(sa.text(order))
        return self.warehouse.read(lambda conn: [tuple(row) for row in conn.execute(query)])


def day(number: int) -> datetime:
    """The day on which the test's scan of this number publishes."""
    return FIRST_DAY + timedelta(days=number)
