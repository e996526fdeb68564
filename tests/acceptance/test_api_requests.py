"""What is sent to the API, looked at from the API's side."""

from collections.abc import Callable
from importlib.metadata import version
from urllib.parse import parse_qs

import pytest

from etl.simulator import Logged
from tests.acceptance.fault_proxy import listening, pass_on
from tests.acceptance.trial import Trial
from tests.acceptance.witness import assert_complete

MakeTrial = Callable[..., Trial]

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


def listings(trial: Trial) -> list[Logged]:
    """The requests for bindings, in their order."""
    return [request for request in trial.simulator.requests if request.path.endswith("/Bindings")]


def test_every_request_says_who_asks_and_what_is_understood(trial: Trial) -> None:
    """Twilio's support finds a program by its User-Agent; an answer in another form could not be read."""
    assert_complete(trial, trial.sync())
    for request in trial.simulator.requests:
        assert request.method == "GET"
        assert request.headers["user-agent"].startswith(f"bindings-etl/{version('bindings-etl')} ")
        assert request.headers["accept"] == "application/json"
        assert request.headers["accept-encoding"] == "gzip"
        assert request.authorized
        assert (
            not {"cookie", "content-length", "transfer-encoding", "referer"}
            & request.headers.keys()
        )


def test_compressed_pages_are_read(trial: Trial) -> None:
    """A page shrinks to a tenth; the API compresses for whoever asks."""
    trial.simulator.limits.gzip = True
    assert_complete(trial, trial.sync())


def test_connections_are_kept(trial: Trial) -> None:
    """A new connection for each page costs two round trips for TLS, which doubles the time of a large service."""
    trial.account |= {"page_size": 5, "concurrency": 2}
    with listening(pass_on(trial.simulator.base_url)) as pipe:
        trial.account["base_url"] = pipe.url
        result = trial.sync()
    assert_complete(trial, result)
    assert result.totals["requests"] == 71  # one of them asks for the services
    assert pipe.connections <= 2


def test_links_are_followed_as_they_came(make_trial: MakeTrial) -> None:
    """Rebuilding links has broken two public clients: a token must arrive as it was given, and nothing twice."""
    trial = make_trial(bindings=(230,))
    trial.sync()
    first, *others = listings(trial)
    assert first.query == "PageSize=100"
    for number, request in enumerate(others, 1):
        # The simulator gives `PageSize=100&Page=1&PageToken=PTactive_2016-…Z_BS….abcdef==`, its token unescaped and sealed.
        assert request.query.startswith(f"PageSize=100&Page={number}&PageToken=PTactive_")
        assert request.query.endswith("==")
        assert all(len(values) == 1 for values in request.parameters.values())


def test_several_values_of_a_filter_are_repeated_keys(make_trial: MakeTrial) -> None:
    """Twilio reads repeated keys and no commas; a collapsed key would load one type and call the others deleted."""
    trial = make_trial(bindings=(230,), max_page_size=20)
    trial.backfill("--type", "apn", "--type", "fcm")
    assert len(listings(trial)) > 3
    assert all(request.parameters["BindingType"] == ["apn", "fcm"] for request in listings(trial))
    wanted = {
        sid: row for sid, row in trial.expected().items() if row["binding_type"] in ("apn", "fcm")
    }
    assert trial.stored() == wanted


@pytest.mark.parametrize("identity", ODD_IDENTITIES)
def test_an_identity_arrives_as_it_is_written(make_trial: MakeTrial, identity: str) -> None:
    """E-mail addresses with a plus are common; a space in its place would find nobody, and delete the one who is there."""
    trial = make_trial(bindings=(30,))
    (service,) = trial.world.services.values()
    chosen = service.sids()[:2]
    for sid in chosen:
        service.change(sid, identity=identity)
    trial.backfill("--identity", identity, "--identity", "nobody")
    (request,) = listings(trial)
    assert request.parameters["Identity"] == [identity, "nobody"]
    # Not every server reads a plus as a space, so a space is never written as one.
    assert "+" not in request.query
    assert {row["identity"] for row in trial.stored().values()} == {identity}
    assert trial.stored().keys() == set(chosen)


def test_absent_bindings_are_asked_for_by_their_sid(make_trial: MakeTrial) -> None:
    """A look-up with left-over parameters might be answered otherwise than the plain one that proves a delete."""
    trial = make_trial(bindings=(60,))
    trial.sync()
    (service,) = trial.world.services.values()
    gone = service.delete(3)
    trial.simulator.requests.clear()
    assert trial.sync().totals["deleted"] == 3
    asked = {
        request.path.rpartition("/")[2]: request
        for request in trial.simulator.requests
        if "/Bindings/" in request.path
    }
    assert asked.keys() == set(gone)
    assert all(parse_qs(request.query) == {} for request in asked.values())
