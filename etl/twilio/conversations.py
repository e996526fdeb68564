"""The resources of Conversations v1 that this program reads (docs/api.md §1)."""

import re
from collections.abc import Iterator

import msgspec

from etl import errors
from etl.domain.counters import Counters
from etl.domain.guard import Absence
from etl.domain.scope import Scope
from etl.domain.service import Service, decode_services
from etl.domain.wire import UNDECODABLE
from etl.twilio.client import Client
from etl.twilio.paging import FetchedPage, Listing, iter_pages

_SERVICES = Listing("/v1/Services", "services")
_NOT_FOUND = 20404
_is_account_sid = re.compile(r"AC[0-9a-fA-F]{32}").fullmatch
_is_service_sid = re.compile(r"IS[0-9a-fA-F]{32}").fullmatch


def discover_services(client: Client, counters: Counters) -> list[Service]:
    """Return all services of the account, each once.

    Raises:
        SourceError: the list cannot be read to its end.
    """
    found: dict[str, Service] = {}
    for fetched in iter_pages(client, _SERVICES, counters):
        for service in decode_services(fetched.page.rows):
            if service is None or not _is_service_sid(service.sid):
                raise errors.MalformedPage(
                    "the list of services holds a row without a service SID; "
                    "name the services in `services`",
                    request_id=fetched.request_id,
                )
            found[service.sid] = service
    return list(found.values())


def list_bindings(
    client: Client, scope: Scope, counters: Counters, start: str | None = None
) -> Iterator[FetchedPage]:
    """Return the pages of one scope; see `iter_pages`."""
    return iter_pages(
        client,
        Listing(f"{_service(scope)}/Bindings", "bindings", tuple(scope.query)),
        counters,
        start,
    )


def look_up_binding(
    client: Client, scope: Scope, sid: str, counters: Counters
) -> tuple[Absence, bytes]:
    """Return whether one binding exists, and its raw row if it does.

    What cannot be told (401, 403, 5xx, a gateway's 404, a page for people) is unknown.

    Raises:
        Interrupted: the run is to stop.
    """
    try:
        response = client.fetch(f"{client.origin}{_service(scope)}/Bindings/{sid}", counters)
    except errors.SourceError as error:
        return _absence(error), b""
    try:
        row = msgspec.json.decode(response.body)
    except UNDECODABLE:
        return Absence.UNKNOWN, b""
    alive = isinstance(row, dict) and row.get("sid") == sid
    return (Absence.ALIVE, response.body) if alive else (Absence.UNKNOWN, b"")


def look_up_service(client: Client, sid: str, counters: Counters) -> Absence:
    """Return whether a service exists.

    Raises:
        Interrupted: the run is to stop.
    """
    try:
        response = client.fetch(f"{client.origin}/v1/Services/{sid}", counters)
    except errors.SourceError as error:
        return _absence(error)
    return Absence.ALIVE if _decode_member(response.body, "sid") == sid else Absence.UNKNOWN


def find_opened_account(client: Client, counters: Counters) -> str | None:
    """Return the SID of the account that the key opens, if the API tells.

    Raises:
        Interrupted: the run is to stop.
    """
    try:
        response = client.fetch(f"{client.origin}/v1/Configuration", counters)
    except errors.SourceError:
        return None
    owner = _decode_member(response.body, "account_sid")
    return owner if isinstance(owner, str) else None


def _decode_member(body: bytes, name: str) -> object:
    try:
        document = msgspec.json.decode(body)
    except UNDECODABLE:
        return None
    return document.get(name) if isinstance(document, dict) else None


def _absence(error: errors.SourceError) -> Absence:
    """Return what a 404 means: only one with Twilio's own code says that a resource is gone."""
    if error.status != 404:
        return Absence.UNKNOWN
    if error.twilio_code == _NOT_FOUND:
        return Absence.GONE
    return Absence.WORDLESS if error.wordless else Absence.UNKNOWN


def probe_service(client: Client, chat_service_sid: str) -> str | None:
    """Read the first page of a service; return the account SID of its first row, if it has one.

    Raises:
        SourceError: it cannot be read.
    """
    scope = Scope(client.account.name, chat_service_sid)
    return _owner(next(list_bindings(client, scope, Counters())))


def probe_account(client: Client) -> str | None:
    """Return the account SID of the first service that is listed, if there is one.

    Raises:
        SourceError: the list cannot be read.
    """
    return _owner(next(iter_pages(client, _SERVICES, Counters())))


def _owner(first: FetchedPage) -> str | None:
    try:
        row = msgspec.json.decode(first.page.rows[0]) if first.page.rows else None
    except UNDECODABLE:
        return None
    owner = row.get("account_sid") if isinstance(row, dict) else None
    return owner if isinstance(owner, str) and _is_account_sid(owner) else None


def _service(scope: Scope) -> str:
    return f"/v1/Services/{scope.chat_service_sid}"
