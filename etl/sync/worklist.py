"""What there is to read: every configured or discovered service, for schedulers that fan out."""

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

import msgspec
import structlog

from etl import errors
from etl.config import Account, Settings
from etl.domain.counters import Counters
from etl.domain.service import Service
from etl.stopping import Stop
from etl.sync.claims import Claims, require_own_key
from etl.sync.context import Request
from etl.sync.outcome import sentence
from etl.sync.run import choose_accounts
from etl.twilio.client import Client
from etl.twilio.conversations import discover_services
from etl.warehouse import services
from etl.warehouse.connection import Warehouse
from etl.warehouse.opening import configured_warehouse
from etl.warehouse.overview import read_freshness

log = structlog.get_logger()


class Item(msgspec.Struct, frozen=True):
    """One service to be read."""

    account: str
    chat_service_sid: str
    rows: int = 0
    """Bindings that it had when it was last read."""
    last_complete_at: datetime | None = None


class WorkList(msgspec.Struct, frozen=True):
    """The services, biggest first, and the accounts whose list could not be read."""

    items: list[Item]
    failures: list[errors.EtlError]
    accounts: int

    @property
    def exit_code(self) -> int:
        """3 when some accounts could not be asked, their own code when none could."""
        if not self.failures:
            return 0
        return 3 if len(self.failures) < self.accounts else self.failures[0].exit_code


def read_work_list(settings: Settings, accounts: Sequence[str], stop: Stop) -> WorkList:
    """Ask each chosen account for its services; one that cannot be asked is listed as it was known.

    Raises:
        ConfigurationError: an account is not configured.
        WarehouseError: the warehouse cannot be reached or is not at the newest revision.
    """
    chosen = choose_accounts(settings, Request(accounts=tuple(accounts)))
    with configured_warehouse(settings, stop) as warehouse:
        known, readers = _read_known(warehouse)
    found, failed = _discover_all(settings, stop)
    failures = [failed[account.name] for account in chosen if account.name in failed]
    for name in (account.name for account in chosen if account.name in failed):
        log.error("account.failed", account=name, message=sentence(failed[name]))
    claims = Claims(settings.accounts, readers)
    items = [
        Item(account.name, sid, *known.get(sid, (0, None)))
        for account in chosen
        for sid in _services_of(account, found, claims, readers)
    ]
    items.sort(key=lambda item: (-item.rows, item.account, item.chat_service_sid))
    return WorkList(items, failures, len(chosen))


def _discover_all(
    settings: Settings, stop: Stop
) -> tuple[dict[str, dict[str, Service]], dict[str, errors.EtlError]]:
    """Return the services of each account that lists its own, and why others could not be asked."""
    found: dict[str, dict[str, Service]] = {}
    failed: dict[str, errors.EtlError] = {}
    for account in (one for one in settings.accounts if one.services == "all"):
        try:
            found[account.name] = _discover(settings, account, stop)
        except (errors.SourceError, errors.ConfigurationError) as error:
            failed[account.name] = error
    return found, failed


def _read_known(warehouse: Warehouse) -> tuple[dict[str, tuple[int, Any]], dict[str, str]]:
    """Return rows and last reading of each service, and the account that reads it, by SID."""
    lines = warehouse.read(read_freshness)
    known = {line["chat_service_sid"]: (line["active"], line["last_complete_at"]) for line in lines}
    return known, warehouse.read(services.read_readers)


def _discover(settings: Settings, account: Account, stop: Stop) -> dict[str, Service]:
    with closing(Client(account, settings.retry, stop)) as client:
        found = discover_services(client, Counters())
    require_own_key(account, found, settings.accounts)
    return {service.sid: service for service in found}


def _services_of(
    account: Account, found: dict[str, dict[str, Service]], claims: Claims, readers: dict[str, str]
) -> list[str]:
    if account.services != "all":
        return list(account.services)
    if account.name not in found:
        mine = [sid for sid, reader in readers.items() if reader == account.name]
        return [sid for sid in mine if sid not in claims.listed]
    return [sid for sid in found[account.name] if claims.reader_of(sid, found) == account.name]
