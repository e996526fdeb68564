"""`retire`: services that a person takes out, as they are gone at Twilio or configured nowhere."""

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from msgspec.structs import replace

from etl import config, errors
from etl.config import Settings
from etl.domain.counters import Counters
from etl.domain.guard import Absence
from etl.domain.scope import Scope
from etl.stopping import Stop
from etl.sync.context import Context, Request
from etl.sync.departures import Departure, ask_for, take_out
from etl.sync.outcome import RunOutcome, ScanOutcome
from etl.sync.run import begin_run, conclude_run
from etl.twilio.client import Client
from etl.twilio.conversations import discover_services
from etl.warehouse import services
from etl.warehouse.opening import configured_warehouse

MODE = "retire"

_GONE = "the service is gone at Twilio: 404 by its SID"
_UNCONFIGURED = "no account of the configuration reads the service"


def retire(settings: Settings, sids: Sequence[str], stop: Stop, *, dry_run: bool) -> RunOutcome:
    """Take these services out, or tell why not.

    Raises:
        ConfigurationError: the warehouse knows no such service; nothing was done.
        WarehouseError: the warehouse cannot be reached or is not at the newest revision.
    """
    request = Request(MODE, dry_run=dry_run)
    started_at = datetime.now(UTC)
    with configured_warehouse(settings, stop) as warehouse:
        known = warehouse.read(lambda conn: services.find(conn, sids))
        _require_known(sids, known)
        holder = begin_run(settings, request, warehouse)
        context = Context(settings, request, warehouse, stop, holder)
        outcomes = [_retire(context, known[sid]) for sid in sids]
        return conclude_run(context, started_at, outcomes)


def _require_known(sids: Sequence[str], known: dict[str, sa.Row[Any]]) -> None:
    if unknown := [sid for sid in sids if sid not in known]:
        raise errors.ConfigurationError(
            f"--service {', '.join(unknown)}: the warehouse knows no such service; "
            "`bindings-etl status` lists those it knows"
        )


def _retire(context: Context, line: "sa.Row[Any]") -> ScanOutcome:
    outcome = ScanOutcome(Scope(line.account, line.chat_service_sid))
    readers = _readers(context.settings, line.chat_service_sid)
    departure = Departure(outcome.scope, outcome, _UNCONFIGURED, services.UNCONFIGURED, False)
    try:
        for account in readers:
            _require_gone(context, account, outcome)
    except errors.EtlError as error:
        outcome.fail(error)
        outcome.ended = True
        return outcome
    if line.account in {account.name for account in readers}:
        departure = replace(departure, why=_GONE, state=services.GONE)
    take_out(context, departure)
    return outcome


def _readers(settings: Settings, sid: str) -> list[config.Account]:
    """Return the accounts that might list the service: all have to say that it is gone."""
    return [
        account
        for account in settings.accounts
        if account.services == "all" or sid in account.services
    ]


def _require_gone(context: Context, account: config.Account, outcome: ScanOutcome) -> None:
    """Ask one account for the service by its SID.

    Raises:
        DeletesRefused: it is alive.
        SourceError: the API does not say, or the key is another account's.
        Interrupted: the run is to stop.
    """
    sid = outcome.scope.chat_service_sid
    with closing(Client(account, context.settings.retry, context.stop)) as client:
        listed_sid = _find_listed_sid(client, outcome.counters)
        answer = ask_for(client, [sid], listed_sid, outcome.counters, context)[sid]
    if answer is Absence.ALIVE:
        raise errors.DeletesRefused(
            f"the service is alive at Twilio, and account {account.name} of the configuration "
            "reads it: nothing was deleted; take it out of the configuration first"
        )
    if answer is not Absence.GONE:
        raise errors.SourceError(
            f"the API did not say to account {account.name} whether the service is gone: nothing "
            "was deleted; run `bindings-etl check` to see why, or try again later"
        )


def _find_listed_sid(client: Client, counters: Counters) -> str | None:
    """Return a service that the account lists; None if it lists none.

    Raises:
        SourceError: the list is another account's, whose 404 says nothing.
    """
    try:
        found = discover_services(client, counters)
    except errors.SourceError:  # a restricted key may read services and not the list
        return None
    owners = {service.account_sid for service in found} - {None, client.account.account_sid}
    if owners:
        raise errors.CredentialsRefused(
            f"the key of account {client.account.name} opens "
            f"{', '.join(sorted(map(str, owners)))}, "
            f"and its account_sid is {client.account.account_sid}: its 404 proves nothing"
        )
    return found[0].sid if found else None
