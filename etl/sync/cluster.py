"""Scans services at a Dask cluster: what the process that was started does (docs/scaling.md).

    DaskWorkers.scan ── Job ──► remote.scan_service, on a worker ── outcomes ──► the run's outcomes
                     ◄── counters, as pages come ──┘

A worker that dies costs its services one more try. The lease that it held in the warehouse keeps
the next one waiting until it has lapsed.
"""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import Any

import distributed
from distributed.comm.core import CommClosedError
from msgspec.structs import asdict

from etl.config import Account
from etl.domain.counters import Counters
from etl.domain.scope import Scope
from etl.errors import ClusterUnusable, ConfigurationError
from etl.stopping import Stop
from etl.sync import remote
from etl.sync.context import Context
from etl.sync.outcome import ScanOutcome
from etl.sync.remote import Job
from etl.sync.workers import Parts
from etl.twilio.client import Client
from etl.twilio.throttle import SharedSlots

_CONNECT_SECONDS = 10.0
_STOP_SECONDS = 2.0
_LOOK_SECONDS = 0.2


class DaskWorkers:
    """See `Workers`. A unit of work is a service with all its parts."""

    def __init__(
        self, cluster: distributed.Client, configuration: Mapping[str, Any], stop: Stop
    ) -> None:
        """`configuration` is the file with its placeholders unfilled: each worker fills its own."""
        self._cluster = cluster
        self._configuration = configuration
        self._run = uuid.uuid4().hex[:16]
        self._planned: dict[tuple[str, str], dict[Scope, ScanOutcome]] = {}
        self._closed = threading.Event()
        cluster.subscribe_topic(remote.topic(self._run), self._take_counters)
        threading.Thread(target=self._pass_on_stop, args=(stop,), name="stop", daemon=True).start()

    def shared_slots(self, account: Account) -> SharedSlots:
        """See `Workers`."""
        return remote.slots_of(self._run, account, self._cluster.scheduler, self._cluster.loop)

    def scan(
        self, context: Context, client: Client, services: Sequence[Parts]
    ) -> "Sequence[Future[Any]]":
        """See `Workers`."""
        executor = self._cluster.get_executor(pure=False, retries=1)
        tasks = []
        for parts in services:
            first = parts[0].scope
            planned = {outcome.scope: outcome for outcome in parts}
            self._planned[first.account, first.chat_service_sid] = planned
            task = executor.submit(remote.scan_service, self._job(context, client, parts))
            tasks.append(_then(task, partial(self._take_outcomes, context.stop, planned)))
        return tasks

    def close(self) -> None:
        """Let the workers close what they hold open for the run, and leave the cluster."""
        self._closed.set()
        with suppress(OSError, TimeoutError, CancelledError):
            self._cluster.run(remote.close_run, self._run, on_error="ignore")
        self._cluster.close(timeout=_STOP_SECONDS)

    def _job(self, context: Context, client: Client, parts: Parts) -> Job:
        return Job(
            self._run,
            self._configuration,
            context.request,
            context.holder,
            client.account.name,
            client.account.concurrency,
            [(outcome.scope, outcome.expected) for outcome in parts],
        )

    def _pass_on_stop(self, stop: Stop) -> None:
        """The signal reaches the process that was started only."""
        while not stop.requested:
            if self._closed.wait(_LOOK_SECONDS):
                return
        with suppress(OSError, TimeoutError):
            self._cluster.run(
                remote.stop_run, self._run, stop.reason, stop.exit_code, on_error="ignore"
            )

    def _take_counters(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Update the counters of a service's scans from an event of its worker."""
        _, said = event
        planned = self._planned.get((said["account"], said["chat_service_sid"]), {})
        for outcome, counters in zip(planned.values(), said["counters"], strict=False):
            if not outcome.ended:
                outcome.counters = Counters(*counters)

    def _take_outcomes(
        self, stop: Stop, planned: Mapping[Scope, ScanOutcome], task: "Future[list[ScanOutcome]]"
    ) -> None:
        try:
            for outcome in task.result():
                for name, value in asdict(outcome).items():
                    setattr(planned[outcome.scope], name, value)
        except (distributed.KilledWorker, CommClosedError, CancelledError, OSError) as lost:
            for outcome in planned.values():
                outcome.fail(_told(lost, stop))
                outcome.ended = True


@contextmanager
def connected(address: str, configuration: Mapping[str, Any], stop: Stop) -> Iterator[DaskWorkers]:
    """Yield the workers of the cluster whose scheduler is at `address`, `dask://HOST:PORT`.

    Raises:
        ClusterUnusable: it cannot be reached, or has no worker.
        ConfigurationError: a worker has another version, or lacks what the file refers to.
    """
    place = address.removeprefix("dask://")
    try:
        cluster = distributed.Client(
            f"tcp://{place}", timeout=_CONNECT_SECONDS, set_as_default=False, name="bindings-etl"
        )
    except (OSError, TimeoutError, ValueError) as cause:
        raise ClusterUnusable(
            f"--on {address}: no Dask scheduler can be reached there; nothing was done; "
            "start it, or correct host and port"
        ) from cause
    try:
        _require_fit(cluster, address, configuration)
    except BaseException:
        cluster.close(timeout=_STOP_SECONDS)
        raise
    workers = DaskWorkers(cluster, configuration, stop)
    try:
        yield workers
    finally:
        workers.close()


def _require_fit(
    cluster: distributed.Client, address: str, configuration: Mapping[str, Any]
) -> None:
    ours = version("bindings-etl")
    said = cluster.run(remote.why_unfit, ours, dict(configuration), on_error="return")
    if not said:
        raise ClusterUnusable(f"--on {address}: the cluster has no worker; nothing was done")
    for worker, reason in sorted(said.items()):
        if isinstance(reason, ModuleNotFoundError):
            reason = f"bindings-etl {ours} is not installed there"  # noqa: PLW2901
        elif isinstance(reason, Exception):
            reason = f"it cannot be asked ({type(reason).__name__})"  # noqa: PLW2901
        if reason is not None:
            raise ConfigurationError(f"--on {address}: worker {worker}: {reason}")


def _told(lost: BaseException, stop: Stop) -> Exception:
    if stop.requested:
        return stop.interruption("it did not come to an end in time after the run was stopped")
    what = (
        "the workers that read it died"
        if isinstance(lost, distributed.KilledWorker)
        else "the cluster was lost while it was read"
    )
    return ClusterUnusable(f"{what}; what is committed is whole, the next run goes on from there")


def _then(task: "Future[Any]", take: "Callable[[Future[Any]], None]") -> "Future[None]":
    """Return a future that is done when `take` has taken the result of `task`."""
    taken: Future[None] = Future()

    def pass_on(done: "Future[Any]") -> None:
        try:
            take(done)
        except BaseException as fault:  # noqa: BLE001 - whoever waits is to see it
            taken.set_exception(fault)
        else:
            taken.set_result(None)

    task.add_done_callback(pass_on)
    return taken
