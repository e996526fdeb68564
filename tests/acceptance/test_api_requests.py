"""What is sent to the API, looked at from the API's side."""

from collections.abc import Callable
from importlib.metadata import version
from urllib.parse import parse_qs

import pytest

from etl.simulator import Logged
from tests.acceptance.fault_proxy import listening, pass_on
from tests.acceptance.run_records import assert_complete
from tests.acceptance.scenario import Scenario

MakeScenario = Callable[..., Scenario]

ODD_IDENTITIES = [
    "a+b@example.com",
    "x&y=z?#",
    "Zoë 象 😀",
    "100%/../..",
    "%2B",
    "a b",
    "'\";--",
    "+",
    "&Identity=other",
]


def listings(scenario: Scenario) -> list[Logged]:
    """The requests for bindings, in their order."""
    return [
        request for request in scenario.simulator.requests if request.path.endswith("/Bindings")
    ]


def test_every_request_says_who_asks_and_what_is_understood(scenario: Scenario) -> None:
    """Twilio's support finds a program by its User-Agent; an answer in another form could not be read."""
    assert_complete(scenario, scenario.sync())
    for request in scenario.simulator.requests:
        assert request.method == "GET"
        assert request.headers["user-agent"].startswith(f"bindings-etl/{version('bindings-etl')} ")
        assert request.headers["accept"] == "application/json"
        assert request.headers["accept-encoding"] == "gzip"
        assert request.authorized
        assert (
            not {"cookie", "content-length", "transfer-encoding", "referer"}
            & request.headers.keys()
        )


def test_compressed_pages_are_read(scenario: Scenario) -> None:
    """A page shrinks to a tenth; the API compresses for whoever asks."""
    scenario.simulator.limits.gzip = True
    assert_complete(scenario, scenario.sync())


def test_connections_are_kept(scenario: Scenario) -> None:
    """A new connection for each page costs two round trips for TLS, which doubles the time of a large service."""
    scenario.account |= {"page_size": 5, "concurrency": 2}
    with listening(pass_on(scenario.simulator.base_url)) as pipe:
        scenario.account["base_url"] = pipe.url
        result = scenario.sync()
    assert_complete(scenario, result)
    assert result.totals["requests"] == 71  # one of them asks for the services
    assert pipe.connections <= 2


def test_links_are_followed_as_they_came(make_scenario: MakeScenario) -> None:
    """Rebuilding links has broken two public clients: a token must arrive as it was given, and nothing twice."""
    scenario = make_scenario(bindings=(230,))
    scenario.sync()
    first, *others = listings(scenario)
    assert first.query == "PageSize=100"
    for number, request in enumerate(others, 1):
        # The simulator gives `PageSize=100&Page=1&PageToken=PTactive_2016-…Z_BS….abcdef==`, its token unescaped and sealed.
        assert request.query.startswith(f"PageSize=100&Page={number}&PageToken=PTactive_")
        assert request.query.endswith("==")
        assert all(len(values) == 1 for values in request.parameters.values())


def test_several_values_of_a_filter_are_repeated_keys(make_scenario: MakeScenario) -> None:
    """Twilio reads repeated keys and no commas; a collapsed key would load one type and call the others deleted."""
    scenario = make_scenario(bindings=(230,), max_page_size=20)
    scenario.backfill("--type", "apn", "--type", "fcm")
    assert len(listings(scenario)) > 3
    assert all(
        request.parameters["BindingType"] == ["apn", "fcm"] for request in listings(scenario)
    )
    wanted = {
        sid: row
        for sid, row in scenario.expected().items()
        if row["binding_type"] in ("apn", "fcm")
    }
    assert scenario.stored() == wanted


@pytest.mark.parametrize("identity", ODD_IDENTITIES)
def test_an_identity_arrives_as_it_is_written(make_scenario: MakeScenario, identity: str) -> None:
    """E-mail addresses with a plus are common; a space in its place would find nobody, and delete the one who is there."""
    scenario = make_scenario(bindings=(30,))
    (service,) = scenario.world.services.values()
    chosen = service.sids()[:2]
    for sid in chosen:
        service.change(sid, identity=identity)
    scenario.backfill("--identity", identity, "--identity", "nobody")
    (request,) = listings(scenario)
    assert request.parameters["Identity"] == [identity, "nobody"]
    # Not every server reads a plus as a space, so a space is never written as one.
    assert "+" not in request.query
    assert {row["identity"] for row in scenario.stored().values()} == {identity}
    assert scenario.stored().keys() == set(chosen)


def test_absent_bindings_are_asked_for_by_their_sid(make_scenario: MakeScenario) -> None:
    """A look-up with left-over parameters might be answered otherwise than the plain one that proves a delete."""
    scenario = make_scenario(bindings=(60,))
    scenario.sync()
    (service,) = scenario.world.services.values()
    gone = service.delete(3)
    scenario.simulator.requests.clear()
    assert scenario.sync().totals["deleted"] == 3
    asked = {
        request.path.rpartition("/")[2]: request
        for request in scenario.simulator.requests
        if "/Bindings/" in request.path
    }
    assert asked.keys() == set(gone)
    assert all(parse_qs(request.query) == {} for request in asked.values())
