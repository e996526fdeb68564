"""The resources of the API, without a socket."""

from typing import Any

import httpx
import pytest

from etl import errors
from etl.domain.counters import Counters
from etl.domain.guard import Absence
from etl.domain.scope import Scope
from etl.twilio import conversations
from tests.unit.api import ACCOUNT, BINDINGS, ORIGIN, SERVICE, Handler, client_of, page, refusal

SCOPE = Scope("main", SERVICE)
SID = "BS" + "3" * 32


def answering(answer: httpx.Response, asked: list[str] | None = None) -> Handler:
    def handle(request: httpx.Request) -> httpx.Response:
        if asked is not None:
            asked.append(str(request.url))
        return answer

    return handle


def test_services_are_discovered_each_once() -> None:
    """A service that is listed twice would be read twice."""
    other = "IS" + "4" * 32
    pages = iter(
        [
            page({"sid": SERVICE}, key="services", next_link=f"{ORIGIN}/v1/Services?Page=1"),
            page({"sid": other}, {"sid": SERVICE}, key="services"),
        ]
    )
    found = conversations.discover_services(client_of(lambda _: next(pages)), Counters())
    assert [service.sid for service in found] == [SERVICE, other]


@pytest.mark.parametrize("row", [{}, {"sid": None}, {"sid": "IS1"}, {"sid": SID}, 7])
def test_a_service_without_a_sid_ends_the_discovery(row: Any) -> None:
    """A list that is not known whole must not say which services are gone."""
    client = client_of(answering(page({"sid": SERVICE}, row, key="services")))
    with pytest.raises(errors.MalformedPage):
        conversations.discover_services(client, Counters())


def test_filters_are_asked_for() -> None:
    """An unfiltered answer to a filtered question would delete what it does not hold."""
    asked: list[str] = []
    scope = Scope("main", SERVICE, binding_types=("apn",), identities=("ada+b@example.com",))
    client = client_of(answering(page(), asked))
    list(conversations.list_bindings(client, scope, Counters()))
    (url,) = asked
    assert url.startswith(f"{BINDINGS}?PageSize=")
    assert httpx.URL(url).params["BindingType"] == "apn"
    assert httpx.URL(url).params["Identity"] == "ada+b@example.com"


@pytest.mark.parametrize(
    ("answer", "absence"),
    [
        (httpx.Response(200, json={"sid": SID}), Absence.ALIVE),
        (httpx.Response(200, json={"sid": "BS" + "5" * 32}), Absence.UNKNOWN),
        (httpx.Response(200, json=[]), Absence.UNKNOWN),
        (httpx.Response(200, content=b"<html>"), Absence.UNKNOWN),
        (refusal(404, 20404), Absence.GONE),
        (refusal(404, 7), Absence.UNKNOWN),
        (httpx.Response(404), Absence.WORDLESS),
        (httpx.Response(404, content=b"<html>"), Absence.UNKNOWN),
        (refusal(401, 20003), Absence.UNKNOWN),
        (refusal(403), Absence.UNKNOWN),
        (refusal(500), Absence.UNKNOWN),
    ],
    ids=str,
)
def test_only_the_api_s_own_word_proves_absence(answer: httpx.Response, absence: Absence) -> None:
    """A gateway's 404 would delete living bindings."""
    asked: list[str] = []
    client = client_of(answering(answer, asked), attempts=1)
    found, row = conversations.look_up_binding(client, SCOPE, SID, Counters())
    assert found is absence
    assert bool(row) is (absence is Absence.ALIVE)
    assert asked == [f"{BINDINGS}/{SID}"]


@pytest.mark.parametrize(
    ("answer", "absence"),
    [
        (httpx.Response(200, json={"sid": SERVICE}), Absence.ALIVE),
        (httpx.Response(200, json={}), Absence.UNKNOWN),
        (refusal(404, 20404), Absence.GONE),
        (refusal(503), Absence.UNKNOWN),
    ],
    ids=str,
)
def test_a_service_is_looked_up_by_its_sid(answer: httpx.Response, absence: Absence) -> None:
    """All of a service's rows hang on it."""
    client = client_of(answering(answer), attempts=1)
    assert conversations.look_up_service(client, SERVICE, Counters()) is absence


@pytest.mark.parametrize(
    ("answer", "owner"),
    [
        (httpx.Response(200, json={"account_sid": ACCOUNT}), ACCOUNT),
        (httpx.Response(200, json={"account_sid": 7}), None),
        (httpx.Response(200, content=b"x"), None),
        (refusal(403), None),
    ],
    ids=str,
)
def test_the_key_s_own_account_is_told_if_it_can_be(
    answer: httpx.Response, owner: str | None
) -> None:
    """A key of another account finds nothing, and all services would seem to be gone."""
    client = client_of(answering(answer), attempts=1)
    assert conversations.find_opened_account(client, Counters()) == owner


@pytest.mark.parametrize(
    ("rows", "owner"),
    [
        ([{"account_sid": ACCOUNT}], ACCOUNT),
        ([], None),
        ([{"account_sid": "x"}], None),
        ([1], None),
    ],
)
def test_a_probe_tells_whose_rows_they_are(rows: list[Any], owner: str | None) -> None:
    """`check` must find a key of another account before the first run does."""
    assert conversations.probe_service(client_of(answering(page(*rows))), SERVICE) == owner
    listed = answering(page(*rows, key="services"))
    assert conversations.probe_account(client_of(listed)) == owner


def test_a_probe_that_cannot_read_tells_why() -> None:
    """`check` lists the reason for each service."""
    with pytest.raises(errors.PermissionMissing):
        conversations.probe_service(client_of(answering(refusal(403, 70051))), SERVICE)
