"""Nothing that names a person or opens a door is ever told: not in output, not in logs, not in the ledger (docs/promises.md §6)."""

import json
from base64 import b64encode
from collections.abc import Callable
from urllib.parse import quote

import pytest

from etl.simulator import describe_faults
from etl.simulator.replies import Reply
from tests.acceptance.fault_proxy import answer_with, listening, tunnel_to
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Result, Scenario

MakeScenario = Callable[..., Scenario]

KEY, SECRET, TOKEN = "SKplantedkey", "planted-secret", "planted-token"
PRIVACY_KEY, PASSWORD = "planted-privacy", "planted-password"
IDENTITY, ENDPOINT = "planted.person+one@example.com", "planted-endpoint"
PLANTED = (
    "planted",
    "Planted",
    b64encode(f"{KEY}:{SECRET}".encode()).decode(),
    b64encode(PASSWORD.encode()).decode()[:-2],
)

# Each fails in words of its own; all others are tried in the slow run.
TELLING = {
    "unauthorized", "permission", "token-expired", "error-500-html", "reset", "foreign-host", "foreign-path", "loop", "nul-text",
}  # fmt: skip
FAULTS = [
    pytest.param(name, marks=() if name in TELLING else pytest.mark.slow)
    for name in sorted(describe_faults())
]


@pytest.fixture
def planted(make_scenario: MakeScenario) -> Scenario:
    """A scenario whose credentials are planted, and whose every row names the planted person."""
    scenario = make_scenario(bindings=(30,), max_page_size=10)
    scenario.world.api_key, scenario.world.api_secret, scenario.world.auth_token = (
        KEY,
        SECRET,
        TOKEN,
    )
    scenario.account |= {
        "api_key": KEY,
        "api_secret": SECRET,
        "services": list(scenario.world.services),
        "concurrency": 1,
    }
    scenario.settings["retry"]["attempts"] = 2
    scenario.settings["privacy"] = {"identity": "hmac", "endpoint": "hmac", "key": PRIVACY_KEY}
    (service,) = scenario.world.services.values()
    for sid in service.sids():
        service.change(sid, identity=IDENTITY, endpoint=ENDPOINT)
    return scenario


def every_way(scenario: Scenario) -> list[Result]:
    """The same run told in every way there is."""
    filtered = ("backfill", "--identity", IDENTITY, "--log-level", "debug", "--log-format", "json")
    plain = ("sync", "--log-level", "debug", "--log-format", "console")
    return [scenario.run(*filtered, "--json", expect=None), scenario.run(*plain, expect=None)]


def assert_nothing_told(scenario: Scenario, results: list[Result]) -> None:
    """Neither what was printed nor what was written to the ledger holds anything planted."""
    ledger = [
        scenario.query(f"SELECT * FROM {table}")
        for table in ("sync_runs", "sync_scans", "sync_leases")
    ]
    told = json.dumps(ledger, default=str) + "".join(result.out + result.err for result in results)
    assert [secret for secret in PLANTED if secret in told] == []


@pytest.mark.parametrize("name", FAULTS)
def test_no_fault_makes_the_program_tell(planted: Scenario, name: str) -> None:
    """Logs are read by more people than the warehouse, and kept for longer; each failure has words of its own to check."""
    planted.settings["retry"] |= {"timeout_seconds": 0.5}
    planted.simulator.faults.add(name, seconds=0.6)
    assert_nothing_told(planted, every_way(planted))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503, 200, 302])
def test_what_the_server_says_is_not_repeated(planted: Scenario, status: int) -> None:
    """An error text, a header or a page of a proxy may quote the request, and so the person or the key in it."""
    body = json.dumps(
        {
            "code": 20001,
            "message": f"{IDENTITY} {KEY} {SECRET}",
            "bindings": [{"identity": IDENTITY}],
        }
    ).encode()
    headers = {
        "location": f"http://{KEY}:{SECRET}@elsewhere.invalid/?Identity={quote(IDENTITY)}",
        "twilio-request-id": f"RQ {SECRET}",
        "twilio-concurrent-requests": SECRET,
        "retry-after": SECRET,
    }
    planted.interceptor.watch = lambda _request: Reply(status, body, headers)
    assert_nothing_told(planted, every_way(planted))


@pytest.mark.parametrize(
    "link",
    [
        f"http://elsewhere.invalid/?Identity={quote(IDENTITY)}",
        f"http://{KEY}:{SECRET}@elsewhere.invalid/",
        f"\x00{IDENTITY}",
    ],
)
def test_a_foreign_link_is_not_repeated(planted: Scenario, link: str) -> None:
    """A link holds the filter, and the filter names a person."""
    body = json.dumps({"bindings": [], "meta": {"key": "bindings", "next_page_url": link}}).encode()
    planted.interceptor.watch = lambda _request: Reply(200, body)
    assert_nothing_told(planted, every_way(planted))


@pytest.mark.parametrize("table", ["scan_staged", "bindings", "rejected_bindings"])
def test_a_failing_statement_is_not_quoted(planted: Scenario, table: str) -> None:
    """A driver's error quotes the row that it failed on."""
    planted.settings.pop("privacy")

    def drop(request: Request) -> Reply | None:
        if request.is_listing and request.page == 1:
            planted.execute("DROP VIEW IF EXISTS active_bindings")
            planted.execute(f"ALTER TABLE {table} RENAME TO {table}_{request.number}")
        return None

    planted.interceptor.watch = drop
    planted.simulator.faults.add("nul-text")
    result = planted.run("sync", "--json", "--log-level", "debug", expect=None)
    assert result.code != 0
    assert_nothing_told(planted, [result])


def test_the_warehouse_password_is_not_told(planted: Scenario) -> None:
    """The URL of the warehouse holds a password, and a failed connection is where it would slip out."""
    planted.settings["retry"]["attempts"] = 1
    for scheme in ("postgresql", "mysql"):
        planted.settings["warehouse"]["url"] = f"{scheme}://loader:{PASSWORD}@127.0.0.1:9/bindings"
        for command in (("sync", "--json"), ("migrate",), ("check",)):
            result = planted.run(*command, "--log-level", "debug", expect=7)
            assert [secret for secret in PLANTED if secret in result.out + result.err] == []


@pytest.mark.parametrize(
    "spoil",
    [
        {"api_secret": f" {SECRET}"},
        {"api_key": None},
        {"auth_token": TOKEN},
        {"base_url": f"https://{KEY}:{SECRET}@conversations.twilio.com"},
        {"base_url": f"http://elsewhere.invalid/?{SECRET}"},
        {"api_secret": [SECRET]},
        {"no_such_setting": SECRET},
    ],
)
def test_a_fault_of_the_file_does_not_quote_it(planted: Scenario, spoil: dict[str, object]) -> None:
    """A configuration that is wrong is shown to whoever helps to put it right."""
    planted.account |= spoil
    result = planted.run("sync", "--json", "--log-level", "debug", expect=2)
    assert [secret for secret in PLANTED if secret in result.out + result.err] == []


def test_settings_are_shown_without_their_secrets(planted: Scenario) -> None:
    """`config show` is what people paste into a ticket."""
    planted.settings["warehouse"]["url"] = f"postgresql://loader:{PASSWORD}@127.0.0.1:9/bindings"
    result = planted.run("config", "show")
    assert [secret for secret in PLANTED if secret in result.out + result.err] == []


@pytest.mark.parametrize("case", ["tunnels", "refuses", "is gone"])
def test_the_password_of_a_proxy_is_not_told(
    planted: Scenario, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxy passwords are people's own passwords in many companies."""
    refusal = answer_with(
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    )
    planted.account["base_url"] = "https://conversations.example"
    with listening(tunnel_to(9) if case == "tunnels" else refusal) as proxy:
        port = 9 if case == "is gone" else proxy.port
        monkeypatch.setenv("HTTPS_PROXY", f"http://porter:{PASSWORD}@127.0.0.1:{port}")
        result = planted.sync("--log-level", "debug", expect=4)
    assert bool(proxy.heads) == (case != "is gone")
    assert_nothing_told(planted, [result])
