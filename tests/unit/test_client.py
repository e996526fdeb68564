"""One account's way to the API: what is sent, tried again and told (docs/promises.md §7)."""

import gzip
import inspect
from base64 import b64encode

import httpx
import pytest
from structlog.testing import capture_logs

from etl import errors
from etl.domain.counters import Counters
from etl.twilio.client import OneOffRetry
from tests.unit.api import KEY, ORIGIN, Unhurried, client_of, in_turn, refusal

URL = f"{ORIGIN}/v1/Services?PageSize=50"
GOOD = httpx.Response(200, json={})


def test_the_request_signs_in_and_names_the_program() -> None:
    """Without the key every answer is a 401; without the agent nobody can tell who asks."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"{}")

    counters = Counters()
    response = client_of(handle).fetch(URL, counters)
    assert (response.status, response.body) == (200, b"{}")
    (request,) = seen
    assert (request.method, str(request.url)) == ("GET", URL)
    pair = f"{KEY}:s3cret".encode()
    assert request.headers["authorization"] == "Basic " + b64encode(pair).decode()
    assert request.headers["host"] == "conversations.twilio.com"
    assert request.headers["user-agent"].startswith("bindings-etl/")
    assert (counters.requests, counters.retries) == (1, 0)


def test_a_packed_body_is_unpacked() -> None:
    """Most of the time of a listing would go into bytes that need not be sent."""
    packed = httpx.Response(
        200, content=gzip.compress(b'{"a": 1}'), headers={"content-encoding": "gzip"}
    )
    assert client_of(in_turn(packed)).fetch(URL, Counters()).body == b'{"a": 1}'


@pytest.mark.parametrize(
    "answer",
    [
        refusal(429, 20429),
        refusal(500),
        refusal(503),
        refusal(408),
        httpx.ConnectError("x"),
        httpx.ReadTimeout("x"),
        httpx.RemoteProtocolError("x"),
        httpx.Response(
            200, stream=httpx.ByteStream(b"damaged"), headers={"content-encoding": "gzip"}
        ),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again(answer: httpx.Response | Exception) -> None:
    """One bad moment of the API must not cost a service its run."""
    stop, counters = Unhurried(), Counters()
    client = client_of(in_turn(answer, GOOD), stop)
    assert client.fetch(URL, counters).status == 200
    assert (counters.requests, counters.retries, len(stop.waits)) == (2, 1, 1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 301])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    """It stays a refusal, and trying costs the customer's concurrency."""
    counters = Counters()
    with pytest.raises(errors.SourceError) as raised:
        client_of(in_turn(refusal(status, twilio_request_id="RQ7"))).fetch(URL, counters)
    assert (raised.value.status, raised.value.request_id) == (status, "RQ7")
    assert (counters.requests, counters.retries) == (1, 0)


def test_the_attempts_bound_the_tries() -> None:
    """A service that is down must not be asked for ever; the last answer is told."""
    counters = Counters()
    client = client_of(in_turn(*[refusal(503)] * 3), attempts=3)
    with pytest.raises(errors.Unavailable):
        client.fetch(URL, counters)
    assert (counters.requests, counters.retries) == (3, 2)


def test_retry_after_is_obeyed() -> None:
    """Whoever comes back sooner than told is refused again."""
    stop = Unhurried()
    client_of(in_turn(refusal(429, retry_after="17"), GOOD), stop).fetch(URL, Counters())
    assert 17 <= stop.waits[0] <= 18


def test_a_429_lowers_the_requests_in_flight() -> None:
    """The limit is shared with the customer's live traffic."""
    client = client_of(in_turn(refusal(429, 20429), refusal(429, 20429), GOOD))
    before = client.throttle.limit
    client.fetch(URL, Counters())
    assert client.throttle.limit < before


def test_each_retry_is_logged() -> None:
    """Whoever reads the log of a slow run must see what it waits for."""
    stop = Unhurried()
    with capture_logs() as logs:
        client_of(in_turn(refusal(503, twilio_request_id="RQ7"), GOOD), stop).fetch(URL, Counters())
    (told,) = [line for line in logs if line["event"] == "retry.scheduled"]
    assert (told["reason"], told["status"], told["attempt"]) == ("Unavailable", 503, 1)
    assert told["twilio_request_id"] == "RQ7"
    assert told["wait_seconds"] == round(stop.waits[0], 3)


@pytest.mark.parametrize(
    ("mishap", "words"),
    [
        (refusal(429, 20429), "HTTP 429, code 20429: the account has too many requests in flight"),
        (refusal(503), "HTTP 503: the API is temporarily unavailable"),
        (httpx.ReadTimeout("s3cret"), "did not answer in time"),
        (httpx.ConnectTimeout("s3cret"), "did not take the connection in time"),
        (httpx.RemoteProtocolError("s3cret"), "broke off or was not HTTP"),
    ],
)
def test_each_retry_says_what_happened(mishap: httpx.Response | Exception, words: str) -> None:
    """`Unavailable` alone leaves open whether to look at Twilio, the network or the configuration."""
    with capture_logs() as logs:
        client_of(in_turn(mishap, GOOD)).fetch(URL, Counters())
    (told,) = [line for line in logs if line["event"] == "retry.scheduled"]
    assert words in told["message"]
    assert "s3cret" not in told["message"]


def test_a_stop_ends_the_retries() -> None:
    """A stopped run must not go on asking, nor count what it did not send."""
    stop, counters = Unhurried(), Counters()

    def handle(_request: httpx.Request) -> httpx.Response:
        stop.request("asked to")
        return refusal(503)

    with pytest.raises(errors.Interrupted):
        client_of(handle, stop).fetch(URL, counters)
    assert (counters.requests, counters.retries) == (1, 0)


@pytest.mark.parametrize("status", [401, 404])
def test_one_odd_refusal_amid_a_listing_is_tried_once_more(status: int) -> None:
    """A slip of the API would cost a whole service; a real refusal must come out at once."""
    one_off = OneOffRetry()
    odd = refusal(status)
    assert client_of(in_turn(odd, GOOD)).fetch(URL, Counters(), one_off).status == 200
    with pytest.raises(errors.SourceError):
        client_of(in_turn(odd)).fetch(URL, Counters(), one_off)
    for _ in range(100):
        one_off.note_page()
    assert client_of(in_turn(odd, GOOD)).fetch(URL, Counters(), one_off).status == 200


def test_the_same_refusal_twice_is_one() -> None:
    """The API's word, when it is repeated, stands."""
    with pytest.raises(errors.ServiceNotFound):
        client_of(in_turn(refusal(404, 20404), refusal(404, 20404))).fetch(
            URL, Counters(), OneOffRetry()
        )


HTTPX_ERRORS = sorted(
    (kind for _, kind in inspect.getmembers(httpx, inspect.isclass) if issubclass(kind, Exception)),
    key=lambda kind: kind.__name__,
)


def make_error(kind: type[Exception]) -> Exception:
    """Return an error of httpx; each class has arguments of its own."""
    made = {
        "HTTPStatusError": lambda: httpx.HTTPStatusError(
            "hunter2", request=httpx.Request("GET", URL), response=httpx.Response(500)
        ),
        "ResponseNotRead": httpx.ResponseNotRead,
        "RequestNotRead": httpx.RequestNotRead,
        "StreamConsumed": httpx.StreamConsumed,
        "StreamClosed": httpx.StreamClosed,
    }
    return made.get(kind.__name__, lambda: kind("hunter2"))()


@pytest.mark.parametrize("kind", HTTPX_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_httpx_is_typed(kind: type[Exception]) -> None:
    """One that is not mapped would end the run of all services as a fault of the program."""
    client = client_of(in_turn(make_error(kind)), attempts=1)
    with pytest.raises(errors.SourceError) as raised:
        client.fetch(URL, Counters())
    assert ORIGIN in str(raised.value) or "proxy" in str(raised.value)
    assert "hunter2" not in str(raised.value)
    is_the_network = issubclass(
        kind, httpx.TimeoutException | httpx.NetworkError | httpx.RemoteProtocolError
    )
    assert not is_the_network or raised.value.transient
    is_our_own = issubclass(
        kind, httpx.LocalProtocolError | httpx.UnsupportedProtocol | httpx.StreamError
    )
    assert not is_our_own or not raised.value.transient


def test_sizes_follow_the_server_down_for_each_kind_of_list() -> None:
    """A size that was refused once would be refused for each of a thousand services."""
    client = client_of(in_turn())
    assert client.ask_for_smaller_pages("a", 1000)
    assert (client.page_size("a"), client.page_size("b")) == (100, client.account.page_size)
    assert client.ask_for_smaller_pages("a", 100)
    assert client.page_size("a") == 50
    assert not client.ask_for_smaller_pages("a", 50)
    client.follow_down("b", 20)
    client.follow_down("b", 30)
    assert client.page_size("b") == 20
