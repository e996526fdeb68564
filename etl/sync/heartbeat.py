"""Keeps the leases of a run alive while it works, and breaks off what no longer moves."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from etl import errors
from etl.sync.context import Context
from etl.sync.outcome import sentence
from etl.warehouse import leases

log = structlog.get_logger()


@contextmanager
def heartbeat(context: Context) -> Iterator[None]:
    """Renew the leases while no batch is due, and cut off transactions that no longer move.

    Were a scan that waits in vain kept alive, each later run would find its service locked.
    """
    holder, warehouse = context.holder, context.warehouse
    if holder is None:
        yield
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(holder.lease_seconds / 3):
            try:
                warehouse.transact(
                    lambda conn: leases.renew_all(conn, warehouse.engine, holder), ahead=True
                )
            except (
                errors.EtlError
            ) as error:  # the scans find out for themselves, inside their own transactions
                log.warning("lease.unrenewed", run_id=holder.run_id, reason=sentence(error))

    def watch() -> None:
        while not ended.wait(holder.lease_seconds / 3):
            if number := warehouse.cut_off_silent(holder.lease_seconds):
                log.warning("connection.cut", run_id=holder.run_id, connections=number)

    # Two threads: the heartbeat works with the warehouse as well, and may be what no longer moves.
    for work in (beat, watch):
        threading.Thread(target=work, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
