"""What scans the services of an account: the threads of this process, or those of a cluster."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import structlog

from etl.config import Account
from etl.stopping import Stop
from etl.sync.context import Context
from etl.sync.deletes import DeleteBarrier
from etl.sync.outcome import ScanOutcome
from etl.sync.scan import Scan
from etl.twilio.client import Client
from etl.twilio.throttle import SharedSlots

log = structlog.get_logger()

# After a stop, whatever still hangs on a socket is left behind: Kubernetes gives 30 s, and 10 are
# promised. A database that hangs as well is left behind by the command line.
_PATIENCE_AFTER_STOP_SECONDS = 7.0

Parts = Sequence[ScanOutcome]
"""The planned scans of one service; what came of each will stand in it."""


class Workers(Protocol):
    """What scans the services of an account."""

    def shared_slots(self, account: Account) -> SharedSlots | None:
        """Return what bounds an account's requests in flight over all processes of the run."""

    def scan(
        self, context: Context, client: Client, services: Sequence[Parts]
    ) -> "Sequence[Future[Any]]":
        """Begin to scan services, in this order; the outcomes tell what came of them."""


class Threads:
    """The threads of this process, as many as the account may have requests in flight."""

    def shared_slots(self, account: Account) -> SharedSlots | None:  # noqa: ARG002 - see `Workers`
        """Return None: there is no other process."""
        return None

    def scan(
        self, context: Context, client: Client, services: Sequence[Parts]
    ) -> "Sequence[Future[Any]]":
        """See `Workers`."""
        pool = ThreadPoolExecutor(client.account.concurrency, "scan")
        tasks = []
        for parts in services:
            barrier = DeleteBarrier(len(parts))
            for outcome in parts:
                scan = Scan(context, client, outcome.scope, outcome, barrier)
                tasks.append(pool.submit(_scan, scan, barrier))
        pool.shutdown(wait=False)
        return tasks


def wait_for(tasks: "Sequence[Future[Any]]", stop: Stop) -> None:
    """Wait until all are done; after a stop, no longer than patience lasts.

    A fault of the program itself comes out here.
    """
    waiting = set(tasks)
    while waiting and not stop.requested:
        _, waiting = wait(waiting, timeout=0.2)
    _, late = wait(waiting, timeout=_PATIENCE_AFTER_STOP_SECONDS)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()
        task.cancel()
    if late:
        log.warning("run.left_behind", scans=len(late))


def _scan(scan: Scan, barrier: DeleteBarrier) -> None:
    scan.read()
    for ready in barrier.arrive(scan):
        ready.finish()
