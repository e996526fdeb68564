"""What a run needs, tried one by one, so that all that is missing is known at once."""

from collections.abc import Iterator, Sequence

import msgspec
from msgspec.structs import replace

from etl import config, errors
from etl.config import Settings
from etl.domain.counters import Counters
from etl.domain.service import Service
from etl.stopping import Stop
from etl.sync.claims import Claims, note_on_reader, require_own_key
from etl.sync.outcome import count, sentence
from etl.sync.privacy import look_for_agreement, rules_of
from etl.twilio.client import Client
from etl.twilio.conversations import discover_services, probe_account, probe_service
from etl.warehouse import migration
from etl.warehouse.connection import Warehouse, open_warehouse
from etl.warehouse.obstacles import require_fit
from etl.warehouse.privileges import missing_privileges


class Finding(msgspec.Struct, frozen=True):
    """One thing that was tried."""

    subject: str
    name: str
    ok: bool
    message: str
    exit_code: int = 0


def examine(settings: Settings) -> Iterator[Finding]:
    """Try every account, every service and the warehouse."""
    # One try each: who asks wants to know how things stand now.
    settings = settings.model_copy(
        update={"retry": settings.retry.model_copy(update={"attempts": 1})}
    )
    found: dict[str, dict[str, Service]] = {}
    for account in settings.accounts:
        yield from _examine_account(account, settings, found)
    yield from _examine_warehouse(settings)


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 2, 7, 4 (no service can be read) or 3 (some cannot), whichever applies first."""
    faults = {finding.exit_code for finding in findings if not finding.ok}
    for code in (errors.ConfigurationError.exit_code, errors.WarehouseError.exit_code):
        if code in faults:
            return code
    if not faults:
        return 0
    readable = any(finding.ok for finding in findings if finding.subject == "service")
    return 3 if readable else errors.SourceError.exit_code


def _examine_account(
    account: config.Account, settings: Settings, found: dict[str, dict[str, Service]]
) -> Iterator[Finding]:
    """Yield findings on an account; its services are added to `found`, by account name."""
    client = Client(account, settings.retry, Stop())
    services = []
    try:
        services = _services_of(client)
        require_own_key(account, services, settings.accounts)
        owner, kind = _find_owner(client, services)
        _require_owner(account, owner, "the key opens")
        message = f"{count(len(services), 'service')} at {client.origin}, by {kind}"
        yield Finding("account", account.name, ok=True, message=message)
        if account.services == "all":
            found[account.name] = {service.sid: service for service in services}
            yield from _examine_double(account, settings.accounts)
    except errors.SourceError as error:
        yield _fault("account", account.name, error)
    except errors.ConfigurationError as error:
        yield _fault("account", account.name, error)
        services = []
    claims = Claims(settings.accounts, {})
    for sid in (service.sid for service in services):
        reader = claims.reader_of(sid, found) if account.services == "all" else account.name
        yield _probe(client, sid) if reader == account.name else _left_to(reader, account, sid)
    client.close()


def _services_of(client: Client) -> list[Service]:
    if client.account.services == "all":
        return discover_services(client, Counters())
    return [Service(sid) for sid in client.account.services]


def _find_owner(client: Client, services: Sequence[Service]) -> tuple[str | None, str]:
    """Return whose services the account lists, if it lists any, and the kind of credential."""
    kind = _kind_of(client.account)
    if client.account.services == "all":
        owners = [service.account_sid for service in services if service.account_sid]
        return next(iter(owners), None), kind
    try:
        return probe_account(client), kind
    except errors.PermissionMissing:  # it may read bindings and not the list
        restricted = "a Restricted API key" if client.account.api_key else kind
        return None, f"{restricted} that may not list services"
    except errors.SourceError:
        return None, kind


def _kind_of(account: config.Account) -> str:
    """Return the kind of credential in use; the API does not say of what kind an API key is."""
    if account.client_id is not None:
        return "OAuth client credentials"
    if account.auth_token is not None or account.credentials[0] == account.account_sid:
        return "the account's auth token (an API key of its own can be restricted and replaced)"
    return "an API key"


def _require_owner(account: config.Account, owner: str | None, what: str) -> None:
    if owner not in (None, account.account_sid):
        raise errors.ConfigurationError(
            f"{what} {owner}, and account_sid of account {account.name} is {account.account_sid}: "
            "every row would be rejected; correct account_sid, or give the account a key of its own"
        )


def _examine_double(
    account: config.Account, accounts: Sequence[config.Account]
) -> Iterator[Finding]:
    """Yield a finding if an account before it has the same key and reads all services already."""
    for other in accounts[: accounts.index(account)]:
        place = (account.services, account.account_sid, account.credentials, account.origin)
        if place == (other.services, other.account_sid, other.credentials, other.origin):
            error = errors.ConfigurationError(
                f"account {account.name} has the account_sid and the key of account {other.name}, "
                "which reads all of its services: take one of the two out, or name their services"
            )
            yield _fault("account", account.name, error)


def _probe(client: Client, sid: str) -> Finding:
    try:
        owner = probe_service(client, sid)
        _require_owner(client.account, owner, "its first row belongs to")
    except (errors.SourceError, errors.ConfigurationError) as error:
        return _fault("service", sid, error)
    return Finding("service", sid, ok=True, message="can be read")


def _left_to(reader: str, account: config.Account, sid: str) -> Finding:
    message = f"{note_on_reader(reader)}, so account {account.name} leaves it out"
    return Finding("service", sid, ok=True, message=message)


def _examine_warehouse(settings: Settings) -> Iterator[Finding]:
    try:
        warehouse = open_warehouse(settings.warehouse, settings.retry, Stop())
    except errors.EtlError as error:
        yield _fault("warehouse", "url", error)
        return
    try:
        warehouse.read(lambda conn: require_fit(conn, warehouse.engine))
        warehouse.read(migration.require_head)
        yield Finding(
            "warehouse", warehouse.name, ok=True, message="reachable and at the newest revision"
        )
        yield from _examine_privileges(warehouse)
        yield _examine_privacy(warehouse, settings)
    except errors.EtlError as error:
        yield _fault("warehouse", warehouse.name, error)
    finally:
        warehouse.close()


def _examine_privileges(warehouse: Warehouse) -> Iterator[Finding]:
    missing = missing_privileges(warehouse)
    if not missing:
        yield Finding(
            "privileges", warehouse.name, ok=True, message="the role may read and write all tables"
        )
    for privilege in missing:
        message = f"the role lacks the privilege {privilege}; see the GRANTs in docs/warehouse.md"
        yield Finding(
            "privileges",
            warehouse.name,
            ok=False,
            message=message,
            exit_code=errors.WarehouseError.exit_code,
        )


def _examine_privacy(warehouse: Warehouse, settings: Settings) -> Finding:
    rules = rules_of(settings)
    try:
        warehouse.read(lambda conn: look_for_agreement(conn, warehouse.engine, rules))
    except (errors.ConfigurationError, errors.LeaseHeld) as error:
        fault = _fault("privacy", warehouse.name, error)
        return replace(fault, exit_code=errors.ConfigurationError.exit_code)
    message = "the configured rules are those that rows are written by"
    return Finding("privacy", warehouse.name, ok=True, message=message)


def _fault(subject: str, name: str, error: errors.EtlError) -> Finding:
    request_id = getattr(error, "request_id", None)
    message = sentence(error) + (f" (request {request_id})" if request_id else "")
    return Finding(subject, name, ok=False, message=message, exit_code=error.exit_code)
