"""The accounts of a run: what each has, which of it is read by whom, all scans side by side."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import msgspec
import sqlalchemy as sa
import structlog

from etl import errors
from etl.config import Account
from etl.domain.guard import Absence
from etl.domain.scope import Scope
from etl.domain.service import Service
from etl.domain.status import ScanStatus
from etl.sync.assignment import agree_on_places
from etl.sync.claims import Claims, group_by_owner, note_on_reader, require_own_key
from etl.sync.context import Context
from etl.sync.departures import (
    GONE_AT_TWILIO,
    UNPROVEN,
    UNTOLD,
    Departure,
    ask_for,
    is_own_list,
    missing,
    take_out,
)
from etl.sync.outcome import ScanOutcome, sentence
from etl.sync.run_state import RunState
from etl.sync.workers import Workers, wait_for
from etl.twilio.client import Client
from etl.twilio.conversations import discover_services
from etl.warehouse import services

log = structlog.get_logger()

_Found = dict[str, dict[str, Service]]
"""The services of the accounts that were asked for theirs, by the account's name."""


class _Shared(msgspec.Struct, frozen=True):
    """What all accounts of a run share."""

    context: Context
    state: RunState
    workers: Workers
    readers: Mapping[str, str]
    """The accounts that services belong to, by SID."""
    claims: Claims
    discovered: set[str] = msgspec.field(default_factory=set)
    """The accounts whose services were listed in this run."""


class _Work(msgspec.Struct):
    """What is to be done about one account's services."""

    client: Client
    scopes: list[Scope]
    departures: list[Departure] = msgspec.field(default_factory=list)


def scan_accounts(
    context: Context, clients: Sequence[Client], state: RunState, workers: Workers
) -> None:
    """Scan all accounts side by side, each with its own client, throttle and failures."""
    accounts = [client.account for client in clients]
    by_name = {client.account.name: client for client in clients}
    readers = context.warehouse.read(services.read_readers)
    shared = _Shared(context, state, workers, readers, Claims(context.settings.accounts, readers))
    groups = [[by_name[account.name] for account in group] for group in group_by_owner(accounts)]
    _side_by_side("account", [partial(_scan_group, shared, group) for group in groups], context)
    _note_unconfigured(shared)


def _note_unconfigured(shared: _Shared) -> None:
    """Mark services that no account of the file reads any more."""
    context = shared.context
    everything = [one for one in context.settings.accounts if one.services == "all"]
    names = {account.name for account in everything}
    elsewhere = {account.name for account in everything if not context.division.share(account)}
    unknown = names - elsewhere - shared.discovered
    if context.holder is None or context.request.mode != "sync" or unknown:
        return
    try:
        lost = context.warehouse.transact(
            lambda conn: services.record_unconfigured(conn, shared.claims.listed, names, elsewhere),
            once=shared.state.has_lost_the_warehouse,
        )
    except errors.WarehouseError as error:  # what the scans came to is told all the same
        log.warning("services.unrecorded", reason=sentence(error))
        return
    for sid in lost:
        log.warning("service.unconfigured", chat_service_sid=sid)


def _scan_group(shared: _Shared, clients: Sequence[Client]) -> None:
    """Scan accounts with one SID: they may find the same services, so all are listed first."""
    found: _Found = {}

    def discover(client: Client) -> None:
        with _failures_noted(shared.state, client):
            found[client.account.name] = _discover(shared, client)

    context = shared.context
    asked = [client for client in clients if client.account.services == "all"]
    _side_by_side("discovery", [partial(discover, client) for client in asked], context)
    work: list[_Work] = []
    for client in clients:
        if client in asked and client.account.name not in found:
            continue
        with _failures_noted(shared.state, client):
            _record_found(shared, client.account.name, found)
            agree_on_places(context, client.account, _sids_of(client.account, found))
            work.append(_work_of(shared, client, found))
    _side_by_side("account", [partial(_scan_account, shared, one) for one in work], context)


def _sids_of(account: Account, found: _Found) -> list[str]:
    """Return the services of an account, with those of other blocks that may find the same ones."""
    if account.services != "all":
        return account.services
    return sorted({sid for services in found.values() for sid in services})


def _work_of(shared: _Shared, client: Client, found: _Found) -> _Work:
    work = _Work(client, _scopes_of(shared, client, found))
    unlisted = missing(shared.readers, client.account.name, found)
    listed = {
        sid
        for account in shared.context.settings.accounts
        if account.services != "all"
        for sid in account.services
    }
    request = shared.context.request
    chosen = [
        sid
        for sid in unlisted
        if sid not in listed
        and request.is_about(client.account.name, sid)
        and shared.context.division.takes(client.account.name, sid)
    ]
    if chosen and client.account.services == "all" and request.mode == "sync":
        _add_unlisted(shared, work, chosen, found[client.account.name])
    return work


def _add_unlisted(
    shared: _Shared, work: _Work, sids: Sequence[str], found: Mapping[str, Service]
) -> None:
    """Look up services that are no longer listed: those alive are scanned, gone ones depart."""
    client, request = work.client, shared.context.request
    counters = shared.state.add_discovery()
    answers = ask_for(client, sids, next(iter(found), None), counters, shared.context)
    gone = Absence.GONE in answers.values()
    proven = gone and is_own_list(client, found.values(), counters)
    for sid, absence in answers.items():
        scope = request.scope_of(client.account.name, sid)
        if absence is Absence.ALIVE:
            log.warning("service.unlisted", account=client.account.name, chat_service_sid=sid)
            parted = client.account.partition_by_type
            work.scopes += scope.partitions() if parted else [scope]
        elif absence is Absence.GONE and proven:
            outcome = shared.state.add(ScanOutcome(scope))
            work.departures.append(Departure(scope, outcome, GONE_AT_TWILIO))
        else:
            note = UNPROVEN if absence is Absence.GONE else UNTOLD
            shared.state.add(ScanOutcome(scope, ScanStatus.SKIPPED, note=note, ended=True))


def _discover(shared: _Shared, client: Client) -> dict[str, Service]:
    account = client.account
    found = discover_services(client, shared.state.add_discovery())
    log.info("services.discovered", account=account.name, services=len(found))
    require_own_key(account, found, shared.context.settings.accounts)
    shared.discovered.add(account.name)
    return {service.sid: service for service in found}


def _record_found(shared: _Shared, account: str, found: _Found) -> None:
    """Store the services that an account lists and reads, whatever becomes of their scans."""
    context = shared.context
    if context.holder is None or account not in found:
        return
    mine = [
        service
        for sid, service in found[account].items()
        if shared.claims.reader_of(sid, found) == account
    ]
    names = context.settings.privacy.service_names == "keep"

    def record(conn: sa.Connection) -> None:
        now = context.warehouse.engine.now(conn)
        services.record_found(conn, account, mine, now, names=names)

    context.warehouse.transact(record)


def _scopes_of(shared: _Shared, client: Client, found: _Found) -> list[Scope]:
    """Return the scopes that this account reads, and note services that another one reads."""
    account, request = client.account, shared.context.request
    sids = found[account.name] if account.services == "all" else account.services
    chosen = [
        sid
        for sid in sids
        if (not request.services or sid in request.services)
        and shared.context.division.takes(account.name, sid)
    ]
    scopes = []
    for scope in (request.scope_of(account.name, sid) for sid in chosen):
        reader = account.name
        if account.services == "all":
            reader = shared.claims.reader_of(scope.chat_service_sid, found)
        if reader == account.name:
            scopes += scope.partitions() if account.partition_by_type else [scope]
        else:
            note = note_on_reader(reader)
            shared.state.add(ScanOutcome(scope, ScanStatus.SKIPPED, note=note, ended=True))
    return scopes


def _scan_account(shared: _Shared, work: _Work) -> None:
    context, state, client, scopes = shared.context, shared.state, work.client, work.scopes
    for departure in work.departures:
        take_out(context, departure)
    by_service: dict[str, list[ScanOutcome]] = {}
    for scope in scopes:
        by_service.setdefault(scope.chat_service_sid, []).append(state.add(ScanOutcome(scope)))
    tasks = shared.workers.scan(context, client, longest_first(by_service.values()))
    wait_for(tasks, context.stop)


def longest_first(services: Iterable[list[ScanOutcome]]) -> list[list[ScanOutcome]]:
    """Return the parts of services in the order of their last sizes, what was never read first.

    Were the longest listing the last one, the others would long be done while it is read.
    """
    return sorted(services, key=_last_size, reverse=True)


def _last_size(parts: Sequence[ScanOutcome]) -> float:
    return sum(math.inf if part.expected is None else part.expected for part in parts)


@contextmanager
def _failures_noted(state: RunState, client: Client) -> Iterator[None]:
    """Turn an error in the block into a failed outcome of this account."""
    account = client.account
    try:
        yield
    except Exception as error:
        outcome = state.add(ScanOutcome(Scope(account.name, ""), ended=True))
        outcome.fail(error)
        log.error(  # noqa: TRY400 - the frames go to the debug level
            "account.failed",
            account=account.name,
            error=type(error).__name__,
            message=sentence(error),
            twilio_request_id=getattr(error, "request_id", None),
        )
        log.debug("account.traceback", exc_info=error)


def _side_by_side(name: str, tasks: Sequence[Callable[[], None]], context: Context) -> None:
    pool = ThreadPoolExecutor(max(1, len(tasks)), name)
    wait_for([pool.submit(task) for task in tasks], context.stop)
    pool.shutdown(wait=False)
