"""Below HTTP: connections that break, drip or stay silent, certificates, proxies, and places where nothing may ever arrive."""

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.acceptance.fault_proxy import (
    Handler,
    Listener,
    answer_with,
    drip,
    listening,
    pass_on,
    reset_after,
    stay_silent,
    tunnel_to,
)  # fmt: skip
from tests.acceptance.run_records import assert_complete, assert_failed
from tests.acceptance.scenario import Result, Scenario

MakeScenario = Callable[..., Scenario]


@pytest.fixture
def one_service(make_scenario: MakeScenario) -> Scenario:
    """One service of 230 bindings, named in the configuration, so that discovery is not in the way."""
    return naming_services(make_scenario(bindings=(230,)))


def naming_services(scenario: Scenario) -> Scenario:
    scenario.account["services"] = list(scenario.world.services)
    return scenario


def only_service(scenario: Scenario) -> str:
    return next(iter(scenario.world.services))


def sync_with(scenario: Scenario, expect: int = 0, **environment: str) -> Result:
    """`sync --json` with an environment of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return scenario.sync(expect=expect)


# --- connections that go wrong ---


def test_a_connection_that_is_reset_in_mid_body_is_made_again(one_service: Scenario) -> None:
    """Load balancers drop connections; half a page taken for a whole one would lose its other half."""
    with listening(reset_after(one_service.simulator.base_url, 20_000, times=2)) as proxy:
        one_service.account["base_url"] = proxy.url
        result = one_service.sync()
    assert_complete(one_service, result)
    assert result.totals["retries"] == 2
    assert proxy.connections == 3


def test_a_kept_connection_that_ends_as_it_is_used_is_no_failed_try(one_service: Scenario) -> None:
    """Load balancers close what lies idle; a request that meets it was never answered, and waiting would not help it."""

    async def end_at_the_second(
        listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await answer_with(lambda listener: page_leading_on(len(listener.heads)))(
            listener, reader, writer
        )
        listener.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())

    def page_leading_on(asked: int) -> bytes:
        link = "?Page=1" if asked == 1 else None
        body = json.dumps(
            {"bindings": [], "meta": {"key": "bindings", "next_page_url": link}}
        ).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    with listening(end_at_the_second) as server:
        one_service.account["base_url"] = server.url
        (said,) = one_service.sync().json["services"]
    assert (said["complete"], said["pages"], said["requests"], said["retries"]) == (True, 2, 2, 0)
    assert (server.connections, len(server.heads)) == (2, 3)


def test_one_byte_at_a_time_ends_within_the_time_limit(one_service: Scenario) -> None:
    """Each byte renews an ordinary read timeout, so a dripping server, even in its headers, would hold a run for ever."""
    one_service.settings["retry"] |= {"timeout_seconds": 0.5, "attempts": 2}
    with listening(drip(one_service.simulator.base_url, 0.1)) as proxy:
        one_service.account["base_url"] = proxy.url
        started = time.monotonic()
        result = one_service.sync(expect=4)
    assert time.monotonic() - started < 60
    said = assert_failed(
        one_service, result, only_service(one_service), "Unavailable", request_id=False
    )
    assert "did not answer in time" in said["error"]["message"]
    assert said["requests"] == 2


def test_a_socket_that_never_answers_ends_within_the_time_limit(one_service: Scenario) -> None:
    """A half-open connection sends nothing at all; without a limit the nightly run would still hang in the morning."""
    one_service.settings["retry"] |= {"timeout_seconds": 0.3, "attempts": 2}
    with listening(stay_silent) as proxy:
        one_service.account["base_url"] = proxy.url
        result = one_service.sync(expect=4)
    assert proxy.connections == 2
    assert_failed(one_service, result, only_service(one_service), "Unavailable", request_id=False)


def test_a_tls_handshake_that_never_answers_ends_within_the_time_limit(
    one_service: Scenario,
) -> None:
    """The handshake has waits of its own, and they need the same limit."""
    one_service.settings["retry"] |= {"timeout_seconds": 0.3, "attempts": 2}
    with listening(stay_silent) as proxy:
        one_service.account["base_url"] = f"https://127.0.0.1:{proxy.port}"
        result = one_service.sync(expect=4)
    assert_failed(one_service, result, only_service(one_service), "Unavailable", request_id=False)


def reason_told(scenario: Scenario, base_url: str) -> str:
    """What the run says of why nothing could be read at `base_url`."""
    scenario.account["base_url"] = base_url
    scenario.settings["retry"] |= {"timeout_seconds": 0.5, "attempts": 2}
    result = scenario.sync(expect=4)
    said = assert_failed(scenario, result, only_service(scenario), "Unavailable", request_id=False)
    message: str = said["error"]["message"]
    return message


def test_nobody_at_the_address(one_service: Scenario) -> None:
    """A refused connection is a sentence of its own and exit 4, never a traceback."""
    with listening(stay_silent) as gone:
        pass
    message = reason_told(one_service, gone.url)
    assert message.startswith(f"{gone.url} refused the connection")


@pytest.mark.parametrize("host", ["a" * 70 + ".invalid", "conversations.invalid"])
def test_a_host_that_cannot_be_looked_up(one_service: Scenario, host: str) -> None:
    """A mistyped host is the operator's to mend, in another place than a closed port."""
    message = reason_told(one_service, f"https://{host}")
    assert message.startswith(f"the host name of https://{host} was not found")


def test_a_port_that_takes_no_more_connections(one_service: Scenario) -> None:
    """A firewall that swallows packets needs another remedy than a port with no listener."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(contextlib.closing(socket.socket()))
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(contextlib.closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        message = reason_told(one_service, f"http://127.0.0.1:{full.getsockname()[1]}")
    assert "did not take the connection in time" in message


def test_something_that_speaks_no_tls(one_service: Scenario) -> None:
    """https to a port of plain http would otherwise read as an API that is down."""
    origin = one_service.simulator.base_url.replace("http:", "https:")
    assert reason_told(one_service, origin).startswith(f"no TLS with {origin}")


def test_a_connection_that_ends_without_an_answer(one_service: Scenario) -> None:
    """What was reached and broke off is no fault of the address."""
    with listening(answer_with(b"")) as server:
        message = reason_told(one_service, server.url)
    assert message.startswith(f"the answer of {server.url} broke off")


@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1:9", "refused the connection"), ("proxy.invalid:3128", "was not found")],
)
def test_a_proxy_that_cannot_be_reached_is_told_apart(
    small: Scenario, host: str, reason: str
) -> None:
    """Whoever looks at base_url while the proxy is down looks in the wrong place."""
    small.account["base_url"] = f"https://{FAR}"
    result = sync_with(small, expect=4, HTTPS_PROXY=f"http://{host}")
    message = result.json["services"][0]["error"]["message"]
    assert [words for words in ("the proxy", reason, "HTTPS_PROXY") if words not in message] == []


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 40\r\n\r\n"
        + gzip.compress(b"{}" * 400, mtime=0)[:40],
        b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"meta": {"key": "bindings"}, "bindings": [{}',
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    ],
    ids=[
        "not-http",
        "nothing",
        "bad-length",
        "bad-chunk",
        "not-gzip",
        "cut-gzip",
        "cut-without-length",
        "endless-header",
    ],
)
def test_what_is_not_http_is_no_fault_of_the_program(one_service: Scenario, raw: bytes) -> None:
    """Anything may listen on a mistyped port; exit 1 would send people to our issue tracker instead of their configuration."""
    one_service.settings["retry"]["attempts"] = 2
    with listening(answer_with(raw)) as proxy:
        one_service.account["base_url"] = proxy.url
        result = one_service.sync(expect=4)
    assert_failed(one_service, result, only_service(one_service), "Unavailable", request_id=False)


def test_a_page_that_is_packed_twice_is_not_unpacked(one_service: Scenario) -> None:
    """A few bytes packed over and over become more than any machine holds."""
    body = gzip.compress(gzip.compress(bytes(2**20)))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    with listening(answer_with(head + body)) as server:
        one_service.account["base_url"] = server.url
        result = one_service.sync(expect=4)
    assert_failed(one_service, result, only_service(one_service), "NotTheApi", request_id=False)


@pytest.mark.parametrize(
    "header",
    [
        "Twilio-Concurrent-Requests: \xb2",
        "Twilio-Concurrent-Requests: " + "9" * 5000,
        "Twilio-Request-Id: RQ<script>",
        "X: \xff",
    ],
    ids=["odd-digit", "huge-number", "odd-id", "odd-letter"],
)
def test_odd_headers_are_passed_over(one_service: Scenario, header: str) -> None:
    """A diagnostic header that cannot be read must not cost the page that came with it."""
    body = b'{"bindings": [], "meta": {"key": "bindings", "next_page_url": null}}'
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{header}\r\nConnection: close\r\n\r\n"
    )
    with listening(answer_with(head.encode("latin-1") + body)) as server:
        one_service.account["base_url"] = server.url
        assert one_service.sync().json["services"][0]["complete"]


# --- places where nothing may arrive ---


@pytest.mark.parametrize("name", ["foreign-host", "redirect"])
def test_credentials_never_reach_another_place(make_scenario: MakeScenario, name: str) -> None:
    """Whoever can write a link into an answer could otherwise collect the account's key; not even a connection may be made."""
    scenario = naming_services(make_scenario(bindings=(230,)))
    with listening(stay_silent) as stranger:
        scenario.simulator.faults.add(name, target=stranger.url)
        result = scenario.sync(expect=4)
        time.sleep(0.05)
        assert stranger.connections == 0
    said = assert_failed(
        scenario,
        result,
        only_service(scenario),
        "NotTheApi" if name == "redirect" else "ForeignLink",
    )
    assert str(stranger.port) not in said["error"]["message"]


@pytest.mark.parametrize(
    "link",
    [
        "http://{stranger}{path}?Page=1&PageToken=PT1",
        "//{stranger}{path}?Page=1&PageToken=PT1",
        "http://{home}@{stranger}{path}?Page=1",
        "http://{stranger}\\@{home}{path}?Page=1",
        "http:{stranger}{path}?Page=1",
        "\\\\{stranger}{path}?Page=1",
        "ftp://{home}{path}?Page=1",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://{home}{path}/../../../../v2/Keys?Page=1",
        "http://{home}{path}%2f..?Page=1",
        "http://{home}/v1/Services?Page=1",
        "http://{home}:0{path}?Page=1",
        "http://[::1{path}",
        "http://{home}.evil.invalid{path}?Page=1",
    ],
)
def test_no_spelling_of_a_foreign_link_is_followed(make_scenario: MakeScenario, link: str) -> None:
    """Two parsers that disagree about a URL are how credentials leak; every doubtful spelling ends the scan instead."""
    scenario = naming_services(make_scenario(bindings=(1,)))
    path = f"/v1/Services/{only_service(scenario)}/Bindings"
    with listening(stay_silent) as stranger:

        def page(server: Listener) -> bytes:
            written = link.format(
                stranger=f"127.0.0.1:{stranger.port}", home=f"127.0.0.1:{server.port}", path=path
            )
            body = json.dumps(
                {"bindings": [], "meta": {"key": "bindings", "next_page_url": written}}
            ).encode()
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

        with listening(answer_with(page)) as server:
            scenario.account["base_url"] = server.url
            result = scenario.sync(expect=4)
            assert (stranger.connections, len(server.heads)) == (0, 1)
    assert_failed(scenario, result, only_service(scenario), "ForeignLink", request_id=False)


# --- certificates ---


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """A certificate authority of the test's own, as `authority.pem` in the test's folder."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    return made


def serving_tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def small(make_scenario: MakeScenario) -> Scenario:
    """One page of bindings, so that no link, which names the plain simulator, is followed."""
    scenario = naming_services(make_scenario(bindings=(60,)))
    scenario.settings["retry"]["attempts"] = 2
    return scenario


def test_tls_with_a_trusted_certificate(small: Scenario, authority: trustme.CA) -> None:
    """Companies have authorities of their own; SSL_CERT_FILE has to be enough for them."""
    with listening(
        pass_on(small.simulator.base_url), serving_tls(authority, "localhost")
    ) as server:
        small.account["base_url"] = f"https://localhost:{server.port}"
        result = sync_with(small, SSL_CERT_FILE=str(small.folder / "authority.pem"))
    assert_complete(small, result)


@pytest.mark.parametrize("case", ["self-signed", "wrong-name"])
def test_tls_with_a_certificate_that_proves_nothing(
    small: Scenario, authority: trustme.CA, case: str
) -> None:
    """Credentials sent to whoever answers would be worse than no TLS at all; asking again would not help either."""
    name = "localhost" if case == "self-signed" else "elsewhere.example"
    trusted = {"SSL_CERT_FILE": str(small.folder / "authority.pem")} if case == "wrong-name" else {}
    with listening(pass_on(small.simulator.base_url), serving_tls(authority, name)) as server:
        small.account["base_url"] = f"https://localhost:{server.port}"
        result = sync_with(small, expect=4, **trusted)
    said = assert_failed(small, result, only_service(small), "NotTheApi", request_id=False)
    assert "certificate" in said["error"]["message"]
    assert (said["requests"], said["retries"], len(small.simulator.requests)) == (1, 0, 0)


def test_an_authority_that_is_not_there_is_a_fault_of_the_environment(small: Scenario) -> None:
    """A mistyped SSL_CERT_FILE is the operator's to mend, so it has to be named, with exit 2."""
    small.account["base_url"] = "https://localhost:9"
    result = sync_with(small, expect=2, SSL_CERT_FILE=str(small.folder / "no-such-file.pem"))
    assert "SSL_CERT_FILE" in result.err


# --- proxies ---

FAR = "conversations.example"  # a name that no resolver knows: only a proxy gets there


@contextlib.contextmanager
def behind_a_proxy(
    scenario: Scenario, authority: trustme.CA, handler: Handler
) -> Iterator[Listener]:
    """The API at https://conversations.example, which only the proxy that is given can reach."""
    scenario.account["base_url"] = f"https://{FAR}"
    with (
        listening(handler, serving_tls(authority, FAR)) as server,
        listening(tunnel_to(server.port)) as proxy,
    ):
        yield proxy


def through(scenario: Scenario, address: str, **environment: Any) -> Result:
    """`sync --json` where the environment names a proxy."""
    certificates = str(scenario.folder / "authority.pem")
    return sync_with(scenario, HTTPS_PROXY=address, SSL_CERT_FILE=certificates, **environment)


def test_a_proxy_of_the_environment_tunnels(small: Scenario, authority: trustme.CA) -> None:
    """In many companies nothing else gets out; the proxy sees a CONNECT and no key."""
    with behind_a_proxy(small, authority, pass_on(small.simulator.base_url)) as proxy:
        result = through(small, f"http://porter:p%40ss%3Aword@127.0.0.1:{proxy.port}")
    assert_complete(small, result)
    (head,) = proxy.heads
    assert head.splitlines()[0] == f"CONNECT {FAR}:443 HTTP/1.1"
    signed_in = f"Proxy-Authorization: Basic {b64encode(b'porter:p@ss:word').decode()}"
    assert [line.lower() for line in head.splitlines() if "authorization" in line.lower()] == [
        signed_in.lower()
    ]


def test_as_many_go_through_a_proxy_as_are_allowed(
    one_service: Scenario, authority: trustme.CA
) -> None:
    """`concurrency` is the operator's word; a limit of the HTTP library beneath it would let the others wait until they fail."""
    number = 16
    body = b'{"bindings": [], "meta": {"key": "bindings", "next_page_url": null}}'
    answer = answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    all_there = asyncio.Event()

    async def answer_when_all_are_there(
        server: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if server.connections == number:
            all_there.set()
        await all_there.wait()
        await answer(server, reader, writer)

    one_service.account |= {
        "services": [f"IS{place:032x}" for place in range(number)],
        "concurrency": number,
    }
    with behind_a_proxy(one_service, authority, answer_when_all_are_there) as proxy:
        result = through(one_service, proxy.url)
    assert result.totals["requests"] == number


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_plain_http_never_goes_through_a_proxy(small: Scenario, variable: str) -> None:
    """A proxy reads plain http, and the key in it, which is for the API alone."""
    with listening(tunnel_to(9)) as proxy:
        assert_complete(small, sync_with(small, **dict[str, Any]({variable: proxy.url})))
    assert proxy.connections == 0


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_loopback_never_goes_through_a_proxy(
    small: Scenario, authority: trustme.CA, host: str
) -> None:
    """A proxy's loopback is another machine: what listens there would be asked instead."""
    with (
        listening(pass_on(small.simulator.base_url), serving_tls(authority, host)) as server,
        listening(tunnel_to(9)) as proxy,
    ):
        small.account["base_url"] = f"https://{host}:{server.port}"
        assert_complete(small, through(small, proxy.url, ALL_PROXY=proxy.url))
    assert proxy.connections == 0


@pytest.mark.parametrize("exempt", [FAR, "*", f"elsewhere.example,{FAR}", ".example"])
def test_no_proxy_exempts(small: Scenario, authority: trustme.CA, exempt: str) -> None:
    """What the operator exempts must not go through the proxy."""
    with behind_a_proxy(small, authority, pass_on(small.simulator.base_url)) as proxy:
        result = sync_with(small, expect=4, HTTPS_PROXY=proxy.url, NO_PROXY=exempt, no_proxy=exempt)
    assert (proxy.connections, result.totals["requests"]) == (0, 2)


def test_a_proxy_that_refuses_is_told_apart(small: Scenario) -> None:
    """A proxy's refusal must not pass for Twilio's: the remedy is elsewhere."""
    refusal = answer_with(
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    )
    small.account["base_url"] = f"https://{FAR}"
    with listening(refusal) as refusing:
        result = sync_with(small, expect=4, HTTPS_PROXY=refusing.url)
    assert "proxy" in result.json["services"][0]["error"]["message"]


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:port", "socks5://127.0.0.1:1080", "http://[::1", "http://"]
)
def test_a_proxy_that_cannot_be_used_is_a_fault_of_the_environment(
    small: Scenario, address: str
) -> None:
    """A proxy variable that cannot be read is the operator's to mend, so it has to be named, with exit 2."""
    small.account["base_url"] = f"https://{FAR}"
    result = sync_with(small, expect=2, HTTPS_PROXY=address, https_proxy=address)
    assert "HTTPS_PROXY" in result.err
    assert "Traceback" not in result.err
