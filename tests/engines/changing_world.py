"""A listing that changes while it is read, in one process: real scans, a real warehouse, no socket."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, MutableMapping
from contextlib import closing
from datetime import UTC, datetime
from random import Random
from typing import Any, get_args
from urllib.parse import urlsplit

import httpx
import sqlalchemy as sa

from etl.config import Settings
from etl.domain.scope import Scope
from etl.domain.status import ScanStatus
from etl.simulator import Simulator, World
from etl.simulator.page_tokens import TokenStyle
from etl.simulator.pages import BadToken
from etl.simulator.views import Order
from etl.stopping import Stop
from etl.sync.context import Context, Request
from etl.sync.deletes import DeleteBarrier
from etl.sync.outcome import ScanOutcome
from etl.sync.run import begin_run
from etl.sync.scan import Scan
from etl.twilio.client import Client
from etl.warehouse.connection import Warehouse
from etl.warehouse.tables import bindings, page_links, scan_progress, sync_leases
from tests.engines import fail_at

ACCOUNT_SID = "AC" + "a" * 32
ORIGIN = "http://127.0.0.1:1"
ORDERS: tuple[Order, ...] = get_args(Order)
STYLES: tuple[TokenStyle, ...] = get_args(TokenStyle)
BAD_TOKENS: tuple[BadToken, ...] = get_args(BadToken)


class InProcess(httpx.BaseTransport):
    """Answers with the simulator's application, one request at a time, after some idling."""

    def __init__(
        self, simulator: Simulator, rng: Random, before: Callable[[], httpx.Response | None]
    ) -> None:
        """`before` is called ahead of each page, and may answer in its place."""
        self._app = simulator.app
        self._rng = rng
        self._before = before
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        time.sleep(self._rng.choice((0, 0, 0.0005, 0.002)))
        with self._lock:
            is_page = request.url.path.endswith("/Bindings")
            return (is_page and self._before()) or self._answer(request)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        target = urlsplit(str(request.url))
        scope = {
            "type": "http",
            "method": "GET",
            "scheme": target.scheme,
            "path": target.path,
            "raw_path": target.path.encode(),
            "query_string": target.query.encode(),
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
        }
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        # Nothing in it waits for anything, so it needs no event loop.
        try:
            self._app(scope, receive, send).send(None)
        except StopIteration:
            start, *bodies = sent
        return httpx.Response(
            start["status"],
            headers=start["headers"],
            content=b"".join(one["body"] for one in bodies),
        )


class Killed(BaseException):
    """The process ends here; nothing more is done, not even what was begun."""


class Break:
    """How a reading breaks off: by faults of the API, a signal, or a kill ahead of a commit."""

    def __init__(
        self,
        *,
        faulty_from: int | None = None,
        stopped_at: int | None = None,
        killed_at: int | None = None,
    ) -> None:
        """At so many pages the API fails for good or a signal comes; killed at so many commits."""
        self._faulty_from = faulty_from
        self._stopped_at = stopped_at
        self._killed_at = killed_at
        self._commits = 0
        self.stop = Stop()

    def is_faulty(self, page: int) -> bool:
        """Return whether the API fails at this page; here the signal comes, too."""
        if self._stopped_at is not None and page >= self._stopped_at:
            self.stop.request("SIGTERM")
        return self._faulty_from is not None and page >= self._faulty_from

    def commit(self, _: sa.Connection) -> None:
        """Be told of a commit that is about to happen."""
        self._commits += 1
        if self._commits == self._killed_at:
            raise Killed


class ChangingWorld:
    """One service whose listing is of a random kind, and what became of its rows while it was read."""

    def __init__(
        self,
        warehouse: Warehouse,
        seed: int,
        *,
        rows: int | None = None,
        order: Order | None = None,
        style: TokenStyle | None = None,
        page_size: int | None = None,
    ) -> None:
        """The same seed gives the same world; the threads that read it take turns by chance."""
        self._warehouse = warehouse
        self._rng = rng = Random(seed)
        self.world = World(seed, account_sid=ACCOUNT_SID)
        self.service = self.world.add_service(
            rows or rng.choice((1, 9, 60, 150)) + rng.randint(0, 30)
        )
        self.order: Order = rng.choice(ORDERS) if order is None else order
        self.style: TokenStyle = rng.choice(STYLES) if style is None else style
        self.page_size = page_size or rng.randint(2, 10)
        self._simulator = Simulator(
            self.world,
            gzip=False,
            max_page_size=self.page_size,
            order=self.order,
            page_tokens=self.style,
            bad_token=rng.choice(BAD_TOKENS),
        )
        self._chance = 0.0
        self.alive_throughout: set[str] = set()
        self.touched: set[str] = set()
        self.endpoints: defaultdict[str, set[str]] = defaultdict(set)
        """All that a binding had since the last reading that was published began."""
        self.asked = 0
        """Pages of the last reading."""
        self.is_spoiled = False
        """Whether somebody has damaged what an interrupted reading had stored."""
        self._published = True
        self._break = Break()

    def read(self, chains: int, *, chance: float, broken: Break | None = None) -> ScanOutcome:
        """Scan the service; ahead of each page something changes by this chance.

        Raises:
            Killed: as the break says.
        """
        settings = self.settings(chains, confirm=chance > 0)
        self._chance, self._break, self.asked = chance, broken or Break(), 0
        if self._published:  # else what was staged then may be gone on with
            self.endpoints.clear()
            self.touched = set()
            self.alive_throughout = set(self.service.sids())
        self._published = False
        self._note(self.service.sids())
        stop, request = Stop(), Request()
        self._break.stop = stop
        holder = begin_run(settings, request, self._warehouse)
        context = Context(settings, request, self._warehouse, stop, holder)
        transport = InProcess(self._simulator, self._rng, self._ahead_of_page)
        scope = Scope("main", self.service.sid)
        outcome = ScanOutcome(scope)
        with (
            closing(Client(settings.accounts[0], settings.retry, stop, transport)) as client,
            fail_at.before("COMMIT", self._break.commit, times=None),
        ):
            scan = Scan(context, client, scope, outcome, DeleteBarrier(1))
            scan.read()
            self._chance = 0.0
            scan.finish()
        self._published = outcome.status == ScanStatus.PUBLISHED
        self.is_spoiled &= not self._published
        return outcome

    def expire_leases(self) -> None:
        """Let the time pass after which the lease of a killed process is free."""
        past = datetime(2001, 1, 1, tzinfo=UTC)
        self._warehouse.transact(
            lambda conn: conn.execute(sa.update(sync_leases).values(expires_at=past))
        )

    def stir(self) -> None:
        """Change something between two readings."""
        for _ in range(self._rng.randint(0, 3)):
            self._change_one(self._rng.randint(1, 12))
        self.service.bring_back(self._rng.randint(0, 4))

    def spoil_links(self) -> None:
        """Do to the remembered links what a person, or a server that forgets, may do to them."""
        if self.style == "opaque" and self._rng.random() < 0.5:
            self.forget_tokens()
        else:
            self._spoil(page_links.c.rows_before, page_links.c.link)

    def forget_tokens(self) -> None:
        """Let the server refuse all links that it has given."""
        self._simulator.page_tokens.forget()

    def stored_pages(self) -> int:
        """How many pages the batches of an interrupted reading had, whatever its chains."""
        pages = sa.select(sa.func.max(scan_progress.c.pages))
        return self._warehouse.read(lambda conn: conn.scalar(pages)) or 0

    def spoil_stored_chains(self) -> None:
        """Do the same to where the chains of an interrupted reading go on, and to how they began."""
        self.is_spoiled = True
        if self._rng.random() < 0.5:
            self._spoil(scan_progress.c.stage_id, scan_progress.c.next_link)
        else:
            self._spoil(scan_progress.c.stage_id, scan_progress.c.first_page)

    def _spoil(self, key: sa.Column[int], column: sa.Column[str]) -> None:
        def spoil(conn: sa.Connection) -> None:
            mine = key.table.c.chat_service_sid == self.service.sid
            stored = dict(conn.execute(sa.select(key, column).where(mine)).all())
            for one, text in stored.items():
                if text:
                    spoiled = self._spoiled(text, [other for other in stored.values() if other])
                    conn.execute(
                        sa.update(key.table).where(mine, key == one).values({column: spoiled})
                    )

        self._warehouse.transact(spoil)

    @property
    def pages(self) -> int:
        """How long the listing is now."""
        return len(self.service) // self.page_size + 1

    def stored(self) -> dict[str, str]:
        """The endpoint of each active binding."""
        active = bindings.c.deleted_at.is_(None) & (bindings.c.chat_service_sid == self.service.sid)
        query = sa.select(bindings.c.sid, bindings.c.endpoint).where(active)
        return self._warehouse.read(lambda conn: dict(conn.execute(query).all()))

    def alive(self) -> dict[str, str]:
        """The same, as it is at the API."""
        return {sid: row["endpoint"] for sid, row in self.service.bindings.items()}

    def _ahead_of_page(self) -> httpx.Response | None:
        self.asked += 1
        if self._break.is_faulty(self.asked):
            return httpx.Response(503)
        if self._rng.random() < self._chance:
            self._change_one(self._rng.randint(1, 4))
        return None

    def _change_one(self, number: int) -> None:
        kind = self._rng.choice(("touch", "touch", "delete", "grow"))
        changed = getattr(self.service, kind)(number)
        if kind == "touch":
            self.touched |= set(changed)
        if kind == "delete":
            self.alive_throughout -= set(changed)
        else:
            self._note(changed)

    def _note(self, sids: Any) -> None:
        for sid in sids:
            # A request of the reading before may still be on its way, and delete it meanwhile.
            if (row := self.service.bindings.get(sid)) is not None:
                self.endpoints[sid].add(row["endpoint"])

    def _spoiled(self, link: str, others: list[str]) -> str:
        return self._rng.choice(
            (
                link,
                link,
                link[:-3],
                self._rng.choice(others),
                link.replace(ORIGIN, "https://elsewhere.invalid"),
                link.partition("?")[0] + "?PageSize=3",
                link.replace(self.service.sid, "IS" + "0" * 32),
                "not a link",
                "",
            )
        )

    def settings(self, chains: int, *, confirm: bool = False) -> Settings:
        """The configuration of a run that reads by so many chains."""
        account = {
            "name": "main",
            "account_sid": ACCOUNT_SID,
            "api_key": self.world.api_key,
            "api_secret": self.world.api_secret,
            "base_url": ORIGIN,
            "page_size": self.page_size,
            "concurrency": 8,
            "chains_per_service": chains,
        }
        return Settings.model_validate(
            {
                "accounts": [account],
                "warehouse": {"url": "sqlite://"},
                "deletes": {"max_fraction": 1, "confirm": confirm, "confirm_limit": 10_000},
                "retry": {"attempts": 2, "max_wait_seconds": 0.01},
            }
        )
