"""What a run needs, tried one by one, so that all that is missing is known at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from etl import config, errors
from etl.config import Settings
from etl.domain.counters import Counters
from etl.stopping import Stop
from etl.sync.outcome import sentence
from etl.twilio.client import Client
from etl.twilio.conversations import discover_services, probe_service
from etl.warehouse import migration
from etl.warehouse.connection import Warehouse, open_warehouse
from etl.warehouse.privileges import missing_privileges


@dataclass(frozen=True)
class Finding:
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
    for account in settings.accounts:
        yield from _examine_account(account, settings)
    yield from _examine_warehouse(settings)


def exit_code(findings: Sequence[Finding]) -> int:
    """Configuration first, then the warehouse, then 4 when no service can be read and 3 when some cannot."""
    faults = {finding.exit_code for finding in findings if not finding.ok}
    for code in (errors.ConfigurationError.exit_code, errors.WarehouseError.exit_code):
        if code in faults:
            return code
    if not faults:
        return 0
    readable = any(finding.ok for finding in findings if finding.subject == "service")
    return 3 if readable else errors.SourceError.exit_code


def _examine_account(account: config.Account, settings: Settings) -> Iterator[Finding]:
    client = Client(account, settings.retry, Stop())
    try:
        services = (
            list(account.services)
            if account.services != "all"
            else discover_services(client, Counters())
        )
        yield Finding(
            "account", account.name, ok=True, message=f"{len(services)} services at {client.origin}"
        )
    except errors.SourceError as error:
        yield _fault("account", account.name, error)
        services = []
    for sid in services:
        try:
            probe_service(client, sid)
            yield Finding("service", sid, ok=True, message="can be read")
        except errors.SourceError as error:
            yield _fault("service", sid, error)
    client.close()


def _examine_warehouse(settings: Settings) -> Iterator[Finding]:
    try:
        warehouse = open_warehouse(settings.warehouse, settings.retry, Stop())
    except errors.EtlError as error:
        yield _fault("warehouse", "url", error)
        return
    try:
        warehouse.read(migration.require_head)
        yield Finding(
            "warehouse", warehouse.name, ok=True, message="reachable and at the newest revision"
        )
        yield from _examine_privileges(warehouse)
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
        message = f"the role may not {privilege}; see the GRANTs in docs/warehouse.md"
        yield Finding(
            "privileges",
            warehouse.name,
            ok=False,
            message=message,
            exit_code=errors.WarehouseError.exit_code,
        )


def _fault(subject: str, name: str, error: errors.EtlError) -> Finding:
    request_id = getattr(error, "request_id", None)
    message = sentence(error) + (f" (request {request_id})" if request_id else "")
    return Finding(subject, name, ok=False, message=message, exit_code=error.exit_code)
