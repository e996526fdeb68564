"""Services that are gone: no longer listed, asked for by SID, then deleted (docs/promises.md §3).

ask (the API, outside any transaction)
take out (one transaction per service: lease, guard, deletes, ledger)
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
import sqlalchemy as sa
import structlog
from msgspec.structs import replace

from etl import errors
from etl.domain.counters import Counters
from etl.domain.guard import Absence, weigh
from etl.domain.scope import Scope
from etl.domain.service import Service
from etl.domain.status import DONE, ScanStatus
from etl.sync.context import Context
from etl.sync.deletes import DeletePolicy
from etl.sync.lookups import look_up_all
from etl.sync.outcome import ScanOutcome, sentence
from etl.sync.session import ScanSession
from etl.sync.steps import Absences
from etl.twilio.client import Client
from etl.twilio.conversations import find_opened_account, look_up_service
from etl.warehouse import absences, drift, ledger, page_links, quarantine, services, staging
from etl.warehouse.ledger import Ending
from etl.warehouse.publishing import Publication, publish_deletes

log = structlog.get_logger()

GONE_AT_TWILIO = "the service is gone at Twilio: not listed any more, and 404 by its SID"
UNTOLD = (
    "the service is not listed any more, and the API did not say whether it is gone: its rows "
    "stay, and the next run asks again"
)
UNPROVEN = (
    "the service is gone for this key, but it is not sure that the key opens the configured "
    "account: its rows stay; if it is really gone, run `bindings-etl retire`"
)


class Departure(msgspec.Struct, frozen=True):
    """A service whose rows are to be taken out."""

    scope: Scope
    outcome: ScanOutcome
    why: str
    """What is told of it, such as that it is gone at Twilio."""
    state: str = services.GONE
    guarded: bool = True
    """Whether the guard has a say; not when a person named the service."""


def ask_for(
    client: Client,
    sids: Sequence[str],
    listed_sid: str | None,
    counters: Counters,
    context: Context,
) -> dict[str, Absence]:
    """Return what the API says of services.

    A 404 without a word counts where `listed_sid`, which the API has just listed, is alive.

    Raises:
        Interrupted: the run is to stop.
    """
    answers, _ = look_up_all(
        lambda sid: (look_up_service(client, sid, counters), b""),
        sids,
        client.account.concurrency,
        context.stop,
    )
    if Absence.WORDLESS in answers.values():
        trusted = (
            listed_sid is not None
            and look_up_service(client, listed_sid, counters) is Absence.ALIVE
        )
        return weigh(answers, trusted=trusted)
    return answers


def is_own_list(client: Client, found: Collection[Service], counters: Counters) -> bool:
    """Return whether the key opens the configured account, by the owner of what it lists."""
    owners = {service.account_sid for service in found} - {None}
    if not owners:
        owners = {find_opened_account(client, counters)}
    return owners == {client.account.account_sid}


def take_out(context: Context, departure: Departure) -> None:
    """Delete a service's rows by `deletes.mode`; what came of it is in the outcome."""
    outcome, sid = departure.outcome, departure.scope.chat_service_sid
    try:
        context.stop.check()
        if context.holder is None:
            context.warehouse.read(lambda conn: _plan(conn, context, departure))
        else:
            context.warehouse.transact(_work(context, departure))
    except errors.EtlError as error:
        outcome.fail(error)
    finally:
        outcome.ended = True
    log.info(
        "service.departed" if outcome.status in DONE and not outcome.error else "service.kept",
        account=departure.scope.account,
        chat_service_sid=sid,
        status=outcome.status,
        deleted=outcome.counters.deleted,
        reason=sentence(outcome.error) if outcome.error else outcome.note,
    )


def _plan(conn: sa.Connection, context: Context, departure: Departure) -> None:
    active = staging.count_active(conn, departure.scope.chat_service_sid)
    _decide(context, departure, active)
    if departure.outcome.error is None and context.settings.deletes.mode != "ignore":
        departure.outcome.counters.deleted = active


def _work(context: Context, departure: Departure) -> Callable[[sa.Connection], None]:
    assert context.holder is not None  # noqa: S101 - a dry run plans
    session = ScanSession(context.warehouse, context.holder, departure.scope, context.privacy)
    scope = departure.scope
    asked = replace(departure.outcome.counters)

    def work(conn: sa.Connection) -> None:
        now = session.begin(conn)
        order = Publication(session.holder.run_id, session.scan_id, scope, (), now)
        active = staging.count_active(conn, scope.chat_service_sid)
        _decide(context, departure, active)
        counted = replace(asked)
        if departure.outcome.error is None:
            counted.deleted = _delete(conn, context, departure, order)
        else:
            services.record_held(conn, scope.chat_service_sid, active)
        departure.outcome.counters.assign(counted)
        session.finish(conn, _ending(departure.outcome, counted), now)

    return work


def _decide(context: Context, departure: Departure, active: int) -> None:
    """Set the outcome by the guard, for which all rows of the service are absent."""
    rules, outcome = context.settings.deletes, departure.outcome
    policy = DeletePolicy(rules, context.request.allow_mass_delete or not departure.guarded)
    done = ScanStatus.PLANNED if context.holder is None else ScanStatus.PUBLISHED
    outcome.status, outcome.note, outcome.error = done, departure.why, None
    if rules.mode != "ignore" and policy.refuses(Absences(active, active)):
        sid = departure.scope.chat_service_sid
        outcome.status, outcome.note = ScanStatus.REFUSED, None
        outcome.error = errors.DeletesRefused(
            f"{departure.why}; its {active} active bindings are more than deletes.max_fraction "
            "and deletes.min_rows allow: nothing was deleted; take it out by "
            f"`bindings-etl retire --service {sid}`, or run once with --allow-mass-delete"
        )


def _delete(conn: sa.Connection, context: Context, departure: Departure, order: Publication) -> int:
    engine, scope, mode = context.warehouse.engine, order.scope, context.settings.deletes.mode
    deleted = 0
    if mode != "ignore":
        absences.list_absent(conn, engine, scope, (), order.stage_id)
        deleted = publish_deletes(conn, order, mode)
    staging.discard(conn, [order.stage_id, *ledger.overlapping_stages(conn, scope)])
    page_links.forget(conn, scope.chat_service_sid)
    quarantine.close_open(conn, [scope.chat_service_sid], order.now)
    services.record_gone(conn, scope.chat_service_sid, departure.state, order.now)
    drift.recount(conn, engine, scope.chat_service_sid)
    return deleted


def _ending(outcome: ScanOutcome, counters: Counters) -> Ending:
    error = sentence(outcome.error) if outcome.error else outcome.note
    return Ending(outcome.status, counters, error=error)


def missing(
    readers: Mapping[str, str], account: str, found: Mapping[str, Collection[str]]
) -> list[str]:
    """Return the services of an account that no account lists any more."""
    return [
        sid
        for sid, reader in readers.items()
        if reader == account and not any(sid in listed for listed in found.values())
    ]
