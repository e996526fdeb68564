"""`hooks`: others are told how a run ended, and nothing about them can harm the run (config.example.yaml; docs/promises.md §15)."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme

from etl.simulator.replies import error
from tests.acceptance.fault_proxy import answer_with, listening, stay_silent, tunnel_to
from tests.acceptance.scenario import Result, Scenario
from tests.acceptance.test_api_wire import authority, serving_tls

__all__ = ["authority"]

MakeScenario = Callable[..., Scenario]
SECRET = "hush-hush-0123"


class Receiver(ThreadingHTTPServer):
    """Takes what is posted; answers with `statuses` in turn, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses: list[int] = []
        self.posts: list[tuple[str, dict[str, str], Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/{SECRET}"

    @property
    def bodies(self) -> list[Any]:
        return [body for _, _, body in self.posts]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.posts.append((self.path, headers, body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def hook(scenario: Scenario, receiver: Receiver, **more: Any) -> None:
    scenario.settings["hooks"] = {
        "on_success": f"{receiver.url}/ok",
        "on_failure": [f"{receiver.url}/bad", f"{receiver.url}/bad2"],
        **more,
    }


def assert_silent_about_it(result: Result) -> None:
    assert SECRET not in result.out + result.err


def test_success_goes_to_the_one_and_failure_to_the_others(
    make_scenario: MakeScenario, receiver: Receiver
) -> None:
    """A dead man's switch is fed by good runs only, and whoever is called is called by bad ones only."""
    scenario = make_scenario((30,))
    hook(scenario, receiver)
    result = scenario.sync()
    [(path, headers, body)] = receiver.posts
    assert path.endswith("/ok")
    assert headers["content-type"] == "application/json"
    assert "authorization" not in headers
    assert body == result.json
    receiver.posts.clear()
    scenario.interceptor.watch = lambda _request: error(20003)
    result = scenario.sync(expect=4)
    assert sorted(path.rpartition("/")[2] for path, _, _ in receiver.posts) == ["bad", "bad2"]
    assert receiver.bodies == [result.json] * 2
    told = json.dumps(receiver.posts)
    assert scenario.world.api_key not in told
    assert scenario.world.api_secret not in told
    assert_silent_about_it(result)


def test_no_identity_and_no_endpoint_is_told(
    make_scenario: MakeScenario, receiver: Receiver
) -> None:
    """Chats and switches belong to others; what people's devices are called is not for them (docs/promises.md §14)."""
    scenario = make_scenario((30,))
    hook(scenario, receiver)
    row = next(iter(scenario.services[0].bindings.values()))
    scenario.services[0].put({**row, "date_created": "never"}, key="BS" + "0" * 32)
    scenario.backfill("--identity", row["identity"])
    told = json.dumps(receiver.bodies)
    assert row["identity"] not in told
    assert row["endpoint"] not in told


@pytest.mark.parametrize("command", ["sync", "backfill"])
def test_a_run_that_could_not_begin_is_told_as_json_prints_it(
    scenario: Scenario, receiver: Receiver, command: str
) -> None:
    """A warehouse that is down is what a night is about; the object is that of `--json`, to the letter."""
    scenario.settings["warehouse"]["url"] = "sqlite:////nowhere/at/all.db"
    hook(scenario, receiver)
    result = scenario.run(command, "--json", expect=7)
    assert receiver.bodies == [result.json] * 2
    assert result.json["error"]["type"] == "WarehouseOutdated"


def test_a_chat_gets_text(make_scenario: MakeScenario, receiver: Receiver) -> None:
    """Slack, and what is made like it, takes an object with `text` and refuses any other."""
    scenario = make_scenario((30,))
    hook(scenario, receiver, format="slack")
    scenario.sync()
    [body] = receiver.bodies
    assert body.keys() == {"text"}
    assert "30 inserted" in body["text"]


def test_a_dry_run_feeds_no_switch(scenario: Scenario, receiver: Receiver) -> None:
    """A switch that is fed by a rehearsal would stay silent when the real run is dead."""
    hook(scenario, receiver)
    scenario.sync("--dry-run")
    assert receiver.posts == []


@pytest.mark.parametrize(
    ("statuses", "posts", "warned"),
    [([500], 2, False), ([500, 404], 2, True), ([302, 302], 2, True)],
)
def test_what_is_not_taken_is_posted_once_more_and_then_told(
    make_scenario: MakeScenario,
    receiver: Receiver,
    statuses: list[int],
    posts: int,
    *,
    warned: bool,
) -> None:
    """One odd answer must not call somebody out of bed; a redirect leads who knows where, with the secret in it."""
    scenario = make_scenario((3,))
    hook(scenario, receiver)
    receiver.statuses = list(statuses)
    result = scenario.sync()
    assert len(receiver.posts) == posts
    assert not any("elsewhere" in path for path, _, _ in receiver.posts)
    assert ("telemetry.undelivered" in result.err) == warned
    assert (f"HTTP {statuses[-1]}" in result.err) == warned
    assert_silent_about_it(result)


def test_nobody_there_costs_a_warning(make_scenario: MakeScenario) -> None:
    """The run is published and 0, whatever became of the hook (docs/promises.md §15)."""
    scenario = make_scenario((3,))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/{SECRET}"
        scenario.settings["hooks"] = {"on_success": url}
        result = scenario.run("sync", "--log-level", "debug")
    assert "hooks.on_success[0]" in result.err
    assert_silent_about_it(result)
    scenario.assert_equal_to_world()


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["silent", "endless head"])
def test_a_hook_that_hangs_costs_five_seconds_in_all(
    make_scenario: MakeScenario, manner: str
) -> None:
    """cron's next run must not find this one still waiting for a chat; two that hang cost no more than one."""
    scenario = make_scenario((3,))

    async def drip(_listener: Any, reader: Any, writer: Any) -> None:
        await reader.read(100)
        while True:
            writer.write(b"H")
            await writer.drain()
            await asyncio.sleep(0.2)

    with listening(stay_silent if manner == "silent" else drip) as server:
        scenario.settings["hooks"] = {"on_success": [f"{server.url}/{SECRET}"] * 2}
        began_at = time.monotonic()
        result = scenario.sync()
        assert time.monotonic() - began_at < 60  # a busy machine adds to the five
        assert server.connections == 4
    assert result.err.count("telemetry.undelivered") == 2
    assert_silent_about_it(result)


def test_a_run_that_was_stopped_is_told(scenario: Scenario, receiver: Receiver) -> None:
    """A pod that is evicted at every run would otherwise never be heard of (exit 143)."""
    hook(scenario, receiver)
    asked, ended = threading.Event(), threading.Event()

    def hold(_request: Any) -> None:
        asked.set()
        ended.wait(120)

    scenario.interceptor.watch = hold
    process = scenario.start("sync", "--json")
    assert asked.wait(120)
    process.terminate()
    try:
        result = scenario.wait_for(process, expect=143)
    finally:
        ended.set()
    assert receiver.bodies == [result.json] * 2
    assert result.json["status"] == "interrupted"


def test_a_proxy_of_the_environment_carries_https_only(
    make_scenario: MakeScenario, receiver: Receiver, authority: trustme.CA
) -> None:
    """In many companies nothing else gets out; and what is meant for this machine must not leave it."""
    scenario = make_scenario((3,))
    answer = answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    with (
        listening(answer, serving_tls(authority, "hooks.example")) as far,
        listening(tunnel_to(far.port)) as proxy,
    ):
        scenario.settings["hooks"] = {
            "on_success": [f"https://hooks.example/{SECRET}", f"{receiver.url}/ok"]
        }
        environment = {
            "HTTPS_PROXY": proxy.url,
            "HTTP_PROXY": proxy.url,
            "ALL_PROXY": proxy.url,
            "SSL_CERT_FILE": str(scenario.folder / "authority.pem"),
        }
        result = scenario.wait_for(scenario.start("sync", environment=environment))
    assert "undelivered" not in result.err
    assert [head.splitlines()[0] for head in far.heads] == [f"POST /{SECRET} HTTP/1.1"]
    assert [head.splitlines()[0] for head in proxy.heads] == ["CONNECT hooks.example:443 HTTP/1.1"]
    assert len(receiver.posts) == 1


def test_the_url_is_masked(scenario: Scenario, receiver: Receiver) -> None:
    """`config show` is pasted into tickets; whoever knows the URL may post there."""
    hook(scenario, receiver)
    shown = scenario.run("config", "show")
    assert_silent_about_it(shown)
    assert "on_success" in shown.out
    scenario.settings["hooks"]["on_failure"] = f"http://example.com/{SECRET}"
    assert_silent_about_it(scenario.run("sync", expect=2))
