"""A run: its scopes, all their scans side by side, and its line in the ledger."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from importlib.metadata import version

import sqlalchemy as sa
import structlog
from msgspec.structs import asdict

from etl import config, errors
from etl.config import Settings
from etl.domain.scope import Scope
from etl.domain.status import RunStatus, ScanStatus
from etl.stopping import Stop
from etl.sync.accounts import scan_accounts
from etl.sync.context import Context, Request
from etl.sync.division import Division
from etl.sync.heartbeat import heartbeat
from etl.sync.outcome import RunOutcome, ScanOutcome, sentence
from etl.sync.privacy import look_for_agreement, require_agreement, rules_of
from etl.sync.run_state import RunState
from etl.sync.updates import warn_of_unusual_updates
from etl.sync.workers import Threads, Workers
from etl.telemetry.tracing import OFF, Trace
from etl.twilio.client import Client
from etl.warehouse import leases, ledger, services
from etl.warehouse.connection import Warehouse
from etl.warehouse.leases import Holder
from etl.warehouse.opening import configured_warehouse

log = structlog.get_logger()


def execute(
    settings: Settings,
    request: Request,
    stop: Stop,
    state: RunState,
    trace: Trace = OFF,
    workers: Workers | None = None,
) -> RunOutcome:
    """Carry out a request; without `workers` in the threads of this process.

    Raises:
        ConfigurationError: the request names something that is not configured.
        WarehouseError: the warehouse cannot be reached or is not at the newest revision; nothing
            was done.
    """
    accounts = choose_accounts(settings, request)
    workers = workers or Threads()
    with ExitStack() as opened:
        warehouse = opened.enter_context(configured_warehouse(settings, stop))
        clients = [
            opened.enter_context(closing(_client(account, settings, stop, workers)))
            for account in Division(request.shard, settings.accounts).own(accounts)
        ]
        holder = begin_run(settings, request, warehouse)
        state.sizes = warehouse.read(ledger.recall_sizes)
        context = Context(settings, request, warehouse, stop, holder, trace=trace)
        state.run_id = holder.run_id if holder else None
        try:
            with heartbeat(context):
                scan_accounts(context, clients, state, workers)
        except BaseException as error:
            _close_line(
                warehouse,
                state.run_id,
                ledger.Ending(RunStatus.FAILED, state.totals, error=sentence(error)),
            )
            raise
        _note_unknown_services(request, state)
        outcome = state.outcome(request, stop)
        warn_of_unusual_updates(warehouse, outcome.scans)
        finish_run(warehouse, outcome)
        if not request.dry_run and not _was_lost(outcome):
            _tidy(warehouse)
    return outcome


def _client(account: config.Account, settings: Settings, stop: Stop, workers: Workers) -> Client:
    return Client(account, settings.retry, stop, shared=workers.shared_slots(account))


def _note_unknown_services(request: Request, state: RunState) -> None:
    """Add a failed outcome for each service that was asked for and that no account has."""
    found = {outcome.scope.chat_service_sid for outcome in state.scans}
    if request.shard is None and "" not in found:
        for sid in set(request.services) - found:
            error = errors.ServiceNotFound(
                "no configured account has this service; check the SID and `services`"
            )
            state.add(ScanOutcome(Scope("", sid), ScanStatus.FAILED, error=error, ended=True))


def choose_accounts(settings: Settings, request: Request) -> list[config.Account]:
    """Return the accounts that the request is about.

    Raises:
        ConfigurationError: it names an account, or a service, that is not configured.
    """
    names = {account.name for account in settings.accounts}
    if unknown := set(request.accounts) - names:
        unknown_ones, known_ones = ", ".join(sorted(unknown)), ", ".join(sorted(names))
        raise errors.ConfigurationError(
            f"--account {unknown_ones}: not configured; the configuration names {known_ones}"
        )
    chosen = [
        account
        for account in settings.accounts
        if not request.accounts or account.name in request.accounts
    ]
    if not request.services:
        return chosen
    listed = {sid for account in chosen if account.services != "all" for sid in account.services}
    unlisted = set(request.services) - listed
    if unlisted and not any(account.services == "all" for account in chosen):
        raise errors.ConfigurationError(
            f"--service {', '.join(sorted(unlisted))}: not among the configured services"
        )
    return [account for account in chosen if _asked_of(account, request, listed)]


def _asked_of(account: config.Account, request: Request, listed: set[str]) -> bool:
    if account.services == "all":
        return bool(set(request.services) - listed)
    return bool(set(request.services) & set(account.services))


def begin_run(settings: Settings, request: Request, warehouse: Warehouse) -> Holder | None:
    """Open the run's line in the ledger, unless it is a dry run, which only reads.

    Return what the run's leases are held by.

    Raises:
        ConfigurationError, LeaseHeld: privacy forbids to write, or to compare; nothing was done.
    """
    rules, engine = rules_of(settings), warehouse.engine

    def start(conn: sa.Connection) -> Holder:
        require_agreement(conn, engine, rules)
        if settings.privacy.service_names == "drop":
            services.forget_names(conn)
        return open_line(conn, settings, request, warehouse)

    if request.dry_run:
        warehouse.read(lambda conn: look_for_agreement(conn, engine, rules))
        return None
    holder = warehouse.transact(start)
    warehouse.own_run = holder.run_id
    log.info("run.started", run_id=holder.run_id, mode=request.mode, version=_version())
    return holder


def open_line(
    conn: sa.Connection, settings: Settings, request: Request, warehouse: Warehouse
) -> Holder:
    """Open the run's line in the ledger, after closing those that killed runs left."""
    now, host = warehouse.engine.now(conn), socket.gethostname()[:255]
    lease_seconds = settings.run.lease_seconds
    ledger.close_orphaned(conn, now, lease_seconds)
    begun = ledger.Beginning(
        request.mode,
        version=_version(),
        host=host,
        run_group=request.run_group,
        shard=str(request.shard) if request.shard else None,
    )
    return Holder(leases.new_token(), ledger.start_run(conn, begun, now), host, lease_seconds)


def _version() -> str:
    return version("bindings-etl")


def conclude_run(
    context: Context, started_at: datetime, scans: Sequence[ScanOutcome]
) -> RunOutcome:
    """Close the line of a run whose scans are over; return what came of it."""
    outcome = RunOutcome(
        run_id=context.holder.run_id if context.holder else None,
        mode=context.request.mode,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        dry_run=context.request.dry_run,
        scans=scans,
        stopped=context.stop.requested,
        stopped_exit_code=context.stop.exit_code,
    )
    finish_run(context.warehouse, outcome)
    return outcome


def finish_run(warehouse: Warehouse, outcome: RunOutcome) -> None:
    """Close the run's line, if it has one; a warehouse that is gone by then costs only the line."""
    _close_line(
        warehouse,
        outcome.run_id,
        ledger.Ending(outcome.status, outcome.totals, error=outcome.error),
        once=_was_lost(outcome),
    )
    log.info(
        "run.finished",
        run_id=outcome.run_id,
        status=outcome.status,
        exit_code=outcome.exit_code,
        **asdict(outcome.totals),
    )


def _was_lost(outcome: RunOutcome) -> bool:
    """Return whether the warehouse was given up in a run; then nobody waits for it once more."""
    return any(isinstance(scan.error, errors.WarehouseUnreachable) for scan in outcome.scans)


def _tidy(warehouse: Warehouse) -> None:
    """Let the engine give up what is long past; that it cannot costs the run nothing."""
    try:
        warehouse.tidy()
    except errors.EtlError as error:
        log.warning("warehouse.untidied", reason=sentence(error))


def _close_line(
    warehouse: Warehouse, run_id: int | None, ending: ledger.Ending, *, once: bool = False
) -> None:
    if run_id is None:
        return
    try:
        warehouse.transact(
            lambda conn: ledger.finish_run(conn, run_id, ending, warehouse.engine.now(conn)),
            once=once,
        )
    except errors.EtlError as error:
        log.warning("ledger.unwritten", run_id=run_id, reason=sentence(error))
