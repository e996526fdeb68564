"""What all scans of a run share."""

from datetime import datetime
from functools import cached_property

import msgspec

from etl.config import Settings
from etl.domain.normalize import NormalizationRules
from etl.domain.privacy import PrivacyRules
from etl.domain.scope import Scope
from etl.domain.shard import Shard
from etl.stopping import Stop
from etl.sync.division import Division
from etl.sync.privacy import rules_of
from etl.telemetry.tracing import OFF, Trace
from etl.twilio.client import Client
from etl.warehouse.connection import Warehouse
from etl.warehouse.leases import Holder

LOCAL = "local"


class Request(msgspec.Struct, frozen=True):
    """What was asked for on the command line."""

    mode: str = "sync"
    services: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    binding_types: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    dry_run: bool = False
    allow_mass_delete: bool = False
    fresh: bool = False
    shard: Shard | None = None
    run_group: str | None = None
    """A name that runs share which are one to whoever started them."""
    on: str = LOCAL
    """Where services are scanned: here, or at a cluster such as `dask://scheduler:8786`."""

    def scope_of(self, account: str, chat_service_sid: str) -> Scope:
        """Return the scope of one service under this request."""
        return Scope(
            account, chat_service_sid, self.binding_types, self.identities, self.since, self.until
        )

    def is_about(self, account: str, chat_service_sid: str) -> bool:
        """Return whether the request covers a service that an earlier run has read."""
        return (not self.accounts or account in self.accounts) and (
            not self.services or chat_service_sid in self.services
        )


class Context(msgspec.Struct, frozen=True, dict=True):
    """What all scans of a run share."""

    settings: Settings
    request: Request
    warehouse: Warehouse
    stop: Stop
    holder: Holder | None
    """None in a dry run, which holds no lease and writes nothing."""
    trace: Trace = OFF

    @cached_property
    def division(self) -> Division:
        """What of the run is this process's."""
        return Division(self.request.shard, self.settings.accounts)

    @cached_property
    def privacy(self) -> PrivacyRules:
        """The rules that rows are written by, as far as they name people."""
        return rules_of(self.settings)


def skips_unknown_type(context: Context, client: Client) -> bool:
    """Return whether a type that the server does not know is skipped: nobody asked for it."""
    return client.account.partition_by_type and not context.request.binding_types


def rules_for(settings: Settings, client: Client, scope: Scope) -> NormalizationRules:
    """Return how rows of this scope are normalized."""
    privacy = settings.privacy
    return NormalizationRules(
        account=scope.account,
        account_sid=client.account.account_sid,
        chat_service_sid=scope.chat_service_sid,
        map_legacy=settings.normalize.legacy_message_types == "map",
        identity=privacy.identity,
        endpoint=privacy.endpoint,
        key=privacy.key_bytes,
    )
