"""Scans services on a worker of a Dask cluster: what a worker does (docs/scaling.md)."""

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib.metadata import version
from typing import Any

import distributed
import msgspec
from msgspec.structs import astuple, replace

from etl.config import Account, Settings, load_portable
from etl.domain.scope import Scope
from etl.errors import ConfigurationError, EtlError
from etl.stopping import Stop
from etl.sync.context import Context, Request
from etl.sync.heartbeat import heartbeat
from etl.sync.outcome import ScanOutcome, sentence
from etl.sync.workers import Threads, wait_for
from etl.twilio.client import Client
from etl.twilio.throttle import SharedSlots
from etl.warehouse import leases, ledger
from etl.warehouse.engines import read_url
from etl.warehouse.leases import Holder
from etl.warehouse.opening import configured_warehouse

_SECONDS_BETWEEN_WORDS = 0.5
_LOOK_SECONDS = 0.5


class Job(msgspec.Struct, frozen=True):
    """One service to scan."""

    run: str
    configuration: Mapping[str, Any]
    request: Request
    holder: Holder | None
    account: str
    concurrency: int
    """Of the account, for all workers together."""
    parts: Sequence[tuple[Scope, int | None]]
    """Each with the rows that it had when it was last read completely."""

    def __repr__(self) -> str:
        """Return nothing of what it holds: Dask writes the repr of arguments into its logs."""
        return f"<{type(self).__name__}>"


def topic(run: str) -> str:
    """Return the topic under which workers tell how far they are."""
    return f"bindings-etl-{run}"


def slots_of(run: str, account: Account, scheduler: Any, loop: Any) -> SharedSlots:
    """Return what bounds an account's requests in flight over all processes of a run.

    `scheduler` and `loop` are those of the process's own connection to the cluster.
    """
    semaphore = distributed.Semaphore(
        account.concurrency,
        name=f"bindings-etl-{run}-{account.name}",
        scheduler_rpc=scheduler,
        loop=loop,
    )

    @contextmanager
    def slot(stop: Stop) -> Iterator[None]:
        while not semaphore.acquire(timeout=_LOOK_SECONDS):
            stop.check()
        try:
            yield
        finally:
            semaphore.release()

    return slot


def why_unfit(wanted: str, configuration: dict[str, Any]) -> str | None:
    """Return why this worker cannot work for a run, as the end of a sentence; None when it can."""
    here = version("bindings-etl")
    if here != wanted:
        return f"it has bindings-etl {here}, this is {wanted}; install the same version on both"
    try:
        load_portable(configuration, read_url)
    except ConfigurationError as fault:
        return str(fault)
    return None


def scan_service(job: Job) -> list[ScanOutcome]:
    """Scan a service with all its parts; return what came of each."""
    outcomes = [ScanOutcome(scope, expected=expected) for scope, expected in job.parts]
    try:
        with _RUNS.joined(job) as here:
            _wait_for_dead_worker(here.context, outcomes[0].scope.chat_service_sid)
            with _telling(job, outcomes):
                client = here.client(job)
                wait_for(Threads().scan(here.context, client, [outcomes]), here.context.stop)
    except Exception as error:  # noqa: BLE001 - it costs this service; the others go on
        for outcome in outcomes:
            if not outcome.ended:
                outcome.fail(error)
    for outcome in outcomes:
        outcome.error, outcome.ended = _portable(outcome.error), True
    return outcomes


def stop_run(run: str, reason: str, exit_code: int | None) -> None:
    """Ask what this worker does for a run to stop."""
    _RUNS.stop(run, reason, exit_code)


def close_run(run: str) -> None:
    """Close what this worker holds open for a run."""
    _RUNS.close(run)


class _Here:
    """What all services of a run share on this worker."""

    def __init__(self, job: Job) -> None:
        self._clients: dict[str, Client] = {}
        self._lock = threading.Lock()
        worker = distributed.get_worker()
        self._scheduler, self._loop = worker.scheduler, worker.loop
        settings = load_portable(dict(job.configuration), read_url)
        stop = Stop(dry_run=job.request.dry_run)
        holder = job.holder and replace(
            job.holder, owner=leases.new_token(), host=socket.gethostname()[:255]
        )
        with ExitStack() as opened:
            warehouse = opened.enter_context(configured_warehouse(settings, stop))
            warehouse.own_run = holder.run_id if holder else None
            self.context = Context(settings, job.request, warehouse, stop, holder)
            opened.enter_context(heartbeat(self.context))
            self._opened = opened.pop_all()

    def client(self, job: Job) -> Client:
        with self._lock:
            if job.account not in self._clients:
                self._clients[job.account] = self._make_client(self.context.settings, job)
        return self._clients[job.account]

    def _make_client(self, settings: Settings, job: Job) -> Client:
        account = _account(settings, job)
        shared = slots_of(job.run, account, self._scheduler, self._loop)
        made = Client(account, settings.retry, self.context.stop, shared=shared)
        self._opened.enter_context(closing(made))
        return made

    def close(self) -> None:
        self._opened.close()


def _account(settings: Settings, job: Job) -> Account:
    [account] = [one for one in settings.accounts if one.name == job.account]
    return account.model_copy(update={"concurrency": job.concurrency})


class _Runs(msgspec.Struct):
    """The runs that this process works for: opened by their first service, closed at their end."""

    open: dict[str, _Here] = msgspec.field(default_factory=dict)
    busy: dict[str, int] = msgspec.field(default_factory=dict)
    over: set[str] = msgspec.field(default_factory=set)
    lock: threading.Lock = msgspec.field(default_factory=threading.Lock)

    @contextmanager
    def joined(self, job: Job) -> Iterator[_Here]:
        with self.lock:
            here = self.open.get(job.run) or _Here(job)
            self.open[job.run] = here
            self.busy[job.run] = self.busy.get(job.run, 0) + 1
        try:
            yield here
        finally:
            with self.lock:
                self.busy[job.run] -= 1
            if job.run in self.over:
                self.close(job.run)

    def stop(self, run: str, reason: str, exit_code: int | None) -> None:
        if here := self.open.get(run):
            here.context.stop.request(reason, exit_code)

    def close(self, run: str) -> None:
        """Now, or when its last service here has ended: its process may be gone before."""
        with self.lock:
            self.over.add(run)
            here = None if self.busy.get(run) else self.open.pop(run, None)
        if here is not None:
            here.close()


_RUNS = _Runs()


def _wait_for_dead_worker(context: Context, chat_service_sid: str) -> None:
    """Wait until the lease of a worker that died over this service has lapsed.

    No other worker has the service, so a lease of this run that is there was a dead one's.
    """
    holder, warehouse = context.holder, context.warehouse
    if holder is None:
        return
    run_id = holder.run_id
    while warehouse.read(
        lambda conn: leases.is_held_by_run(conn, warehouse.engine, run_id, chat_service_sid)
    ):
        context.stop.sleep(_LOOK_SECONDS)
    warehouse.transact(
        lambda conn: ledger.close_abandoned_scans(
            conn, [run_id], chat_service_sid, warehouse.engine.now(conn)
        )
    )


@contextmanager
def _telling(job: Job, outcomes: Sequence[ScanOutcome]) -> Iterator[None]:
    """Tell how far the scans are, for the progress that people see."""
    worker, ended, scope = distributed.get_worker(), threading.Event(), outcomes[0].scope

    def tell() -> None:
        while not ended.wait(_SECONDS_BETWEEN_WORDS):
            worker.log_event(
                topic(job.run),
                {
                    "account": scope.account,
                    "chat_service_sid": scope.chat_service_sid,
                    "counters": [astuple(outcome.counters) for outcome in outcomes],
                },
            )

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def _portable(error: Exception | None) -> Exception | None:
    """Return an error that can be sent: of any but our own not even the text may be told."""
    return error if error is None or isinstance(error, EtlError) else EtlError(sentence(error))
