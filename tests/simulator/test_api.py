"""What the API answers: schema, authentication, errors, headers, compression."""

import gzip
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import jsonschema
import pytest

from etl.simulator import Fault, Simulator, World
from tests.simulator.facts import SCHEMAS

DESCRIPTION = Path(__file__).parents[3] / "shared" / "api" / "twilio_conversations_v1.json"

FORMS = {
    "/v1/Services": "/v1/Services",
    "/v1/Services/{Sid}": "/v1/Services/{service}",
    "/v1/Services/{ChatServiceSid}/Bindings": "/v1/Services/{service}/Bindings",
    "/v1/Services/{ChatServiceSid}/Bindings/{Sid}": "/v1/Services/{service}/Bindings/{binding}",
    "/v1/Configuration": "/v1/Configuration",
}


def translate(part):
    """Turn OpenAPI 3.0 into JSON Schema: `nullable` becomes a type."""
    if isinstance(part, list):
        return [translate(item) for item in part]
    if not isinstance(part, dict):
        return part
    schema = {
        name: translate(value)
        for name, value in part.items()
        if name not in {"nullable", "example"}
    }
    if part.get("nullable") is True and isinstance(part.get("type"), str):
        schema["type"] = [part["type"], "null"]
    return schema


def described(path):
    """Take the schema of a path's answer from the API's own description."""
    if not DESCRIPTION.exists():
        pytest.skip("the API's own description is not at hand")
    api = json.loads(DESCRIPTION.read_text())
    answer = api["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    return {**translate(answer), "components": {"schemas": translate(api["components"]["schemas"])}}


WITNESSES = {"facts": SCHEMAS.__getitem__, "description": described}


@pytest.mark.parametrize("witness", WITNESSES)
@pytest.mark.parametrize("path", FORMS)
def test_answers_keep_to_the_schema(stand, path, witness):
    """If this failed, the simulator would answer otherwise than the API is described to."""
    here = stand(250)
    names = {"service": here.service.sid, "binding": next(iter(here.service.bindings))}
    schema = WITNESSES[witness](path)
    answer = (
        here.client.get(FORMS[path].format(**names), params={"PageSize": 100})
        .raise_for_status()
        .json()
    )
    jsonschema.validate(answer, schema, format_checker=jsonschema.FormatChecker())
    while answer.get("meta", {}).get("next_page_url"):
        answer = here.follow(answer)
        jsonschema.validate(answer, schema, format_checker=jsonschema.FormatChecker())


def test_empty_service_answers_an_empty_list(stand):
    """If this failed, an empty service would look broken."""
    page = stand(0).page()
    assert page["bindings"] == []
    assert page["meta"]["next_page_url"] is None


def test_single_binding_is_the_listed_one(stand):
    """If this failed, a client that confirms an absence would read another truth."""
    here = stand()
    for row in here.rows():
        assert here.client.get(f"{here.path}/{row['sid']}").json() == row


def error_of(answer):
    """Check an error's usual shape and give status and code."""
    body = answer.json()
    assert set(body) == {"code", "message", "more_info", "status"}
    assert body["status"] == answer.status_code
    assert body["more_info"].endswith(f"/{body['code']}")
    return answer.status_code, body["code"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/Services/IS" + "0" * 32,
        "/v1/Services/IS" + "0" * 32 + "/Bindings",
        "/v1/Services/{service}/Bindings/BS" + "0" * 32,
        "/v1/services",
        "/v1/Services/",
        "/",
    ],
)
def test_unknown_resources_answer_404(stand, path):
    """If this failed, a deleted binding or service would not look deleted."""
    here = stand()
    assert error_of(here.client.get(path.format(service=here.service.sid))) == (404, 20404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_answer_405(stand, method):
    """If this failed, a client that writes would seem to succeed."""
    here = stand()
    assert error_of(here.client.request(method, here.path)) == (405, 20004)


@pytest.mark.parametrize(
    "header", ["", "Basic", "Basic !!!", "Basic YTpi", "Bearer abc", "Basic YWI="]
)
def test_wrong_credentials_answer_401(stand, header):
    """If this failed, a client without rights would be let in, or the server would break on a bad header."""
    here = stand()
    answer = httpx.get(
        str(here.client.base_url) + here.path, headers={"authorization": header} if header else {}
    )
    assert error_of(answer) == (401, 20003)


def test_key_and_token_open_the_account_and_mixed_pairs_do_not():
    """If this failed, one of the two documented pairs would be refused, or a mixed one accepted."""
    world = World(1)
    world.add_service(1)
    pairs = [
        (world.api_key, world.api_secret),
        (world.account_sid, world.auth_token),
        (world.api_key, world.auth_token),
        (world.api_key, world.api_secret + "\n"),
    ]
    with Simulator(world).serve() as url:
        codes = [httpx.get(f"{url}/v1/Services", auth=pair).status_code for pair in pairs]
    assert codes == [200, 200, 401, 401]


def test_credentials_pick_the_account():
    """If this failed, two accounts on one server would see each other's services."""
    worlds = [World(seed) for seed in (1, 2)]
    for world in worlds:
        world.add_service(2)
    with Simulator(worlds).serve() as url:
        for world, other in (worlds, worlds[::-1]):
            pair = (world.api_key, world.api_secret)
            listed = httpx.get(f"{url}/v1/Services", auth=pair).json()["services"]
            assert [service["sid"] for service in listed] == list(world.services)
            foreign = f"{url}/v1/Services/{next(iter(other.services))}/Bindings"
            assert httpx.get(foreign, auth=pair).status_code == 404


def test_answers_name_their_request(stand):
    """If this failed, a client could not log the request id that support asks for."""
    here = stand()
    for answer in (here.get(), here.client.get("/nowhere"), here.get(PageSize="x")):
        assert re.fullmatch("RQ[0-9a-f]{32}", answer.headers["twilio-request-id"])
        assert float(answer.headers["twilio-request-duration"]) >= 0
        assert answer.headers["twilio-concurrent-requests"] == "1"


def test_compressed_only_when_asked(stand):
    """If this failed, compression would go untested or reach clients that did not ask."""
    here = stand(100)
    plain = here.client.get(here.path, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    with here.client.stream("GET", here.path, headers={"accept-encoding": "gzip"}) as packed:
        body = b"".join(packed.iter_raw())
        assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(body) == plain.content


def test_requests_are_logged_without_the_secret(stand):
    """If this failed, tests could not tell what a client sent, or the log would keep credentials."""
    here = stand()
    here.get(PageSize=3, Identity="a+b@c")
    logged = here.simulator.requests[-1]
    assert (logged.method, logged.path) == ("GET", here.path)
    assert logged.parameters == {"PageSize": ["3"], "Identity": ["a+b@c"]}
    assert logged.authorized
    assert logged.headers["authorization"] == "***"
    httpx.get(f"{here.client.base_url}/v1/Services")
    assert not here.simulator.requests[-1].authorized
    assert (len(here.simulator.requests), here.simulator.requests.total) == (2, 2)
    here.simulator.requests.clear()
    assert list(here.simulator.requests) == []


def test_too_many_at_once_are_throttled(stand):
    """If this failed, a client's own throttling would have nothing to react to."""
    here = stand(max_concurrent=2, faults=[Fault("slow", times=2, seconds=600)])
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(here.get) for _ in range(2)]
        while here.simulator.in_flight < 2:
            time.sleep(0.001)
        assert error_of(here.get()) == (429, 20429)
        assert here.get().headers["twilio-concurrent-requests"] == "3"
        here.simulator.limits.max_concurrent = 3
        assert here.get().status_code == 200
        here.stop()
        assert all(isinstance(request.exception(), httpx.TransportError) for request in held)
    assert here.simulator.most_in_flight == 3


def test_no_limit_lets_all_in(stand):
    """If this failed, requests side by side would fail without a reason."""
    here = stand(latency_ms=50)
    with ThreadPoolExecutor(8) as pool:
        assert {answer.status_code for answer in pool.map(lambda _: here.get(), range(16))} == {200}


def test_planted_rows_are_listed_as_they_are(stand):
    """If this failed, malformed rows would not reach the client under test."""
    here = stand(3)
    odd = [
        None,
        7,
        "text",
        ["list"],
        {"sid": "nonsense"},
        {"sid": None, "identity": "\ud800 lone surrogate"},
    ]
    for row in odd:
        here.service.put(row)
    listed = here.rows(PageSize=2)
    assert len(listed) == 9
    assert all(row in listed for row in odd)


def test_bytes_are_sent_as_they_are(stand):
    """If this failed, a body that is not JSON at all could not be played."""
    here = stand(0)
    here.service.put(b'{"sid": NaN, "twice": 1, "twice": 2}')
    assert '{"sid": NaN, "twice": 1, "twice": 2}' in here.get().text


def test_rows_do_not_depend_on_the_port(stand):
    """If this failed, restarting the simulator would look like a change of every row."""
    assert stand(30).rows() == stand(30).rows()


def test_base_url_is_where_it_listens():
    """If this failed, a test that asks the simulator for its address would talk to nobody."""
    simulator = Simulator(World(1))
    with simulator.serve() as url:
        assert simulator.base_url == url
        assert httpx.get(url).status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_a_port_in_use_is_an_error():
    """If this failed, two simulators would share a port and answer at random."""
    with Simulator(World(1)).serve() as url, pytest.raises(OSError, match="in use"):
        Simulator(World(2)).serve(int(url.rpartition(":")[2])).__enter__()


def test_a_simulator_can_be_served_again_on_its_port():
    """If this failed, an outage and its end could not be played."""
    simulator = Simulator(World(1))
    with simulator.serve() as url:
        assert httpx.get(url).status_code == 404
    with simulator.serve(int(url.rpartition(":")[2])) as again:
        assert again == url
        assert httpx.get(url).status_code == 404
