"""Each fault, seen by its name from outside with plain HTTP."""

import json
import socket
import threading
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx
import pytest

from etl.simulator import Fault, Simulator, World, describe_faults

STATUS = {
    "throttle": (429, 20429),
    "throttle-retry-after": (429, 20429),
    "throttle-retry-date": (429, 20429),
    "error-500": (500, 20500),
    "error-503": (503, 20503),
    "unauthorized": (401, 20003),
    "suspended": (401, 20003),
    "permission": (401, 70051),
    "forbidden": (403, 20006),
    "service-404": (404, 20404),
}

PAGES_FOR_PEOPLE = {
    "error-500-html": 500,
    "error-502": 502,
    "error-504-html": 504,
    "timeout-408": 408,
    "html-200": 200,
}

LINKS = {
    "foreign-host": lambda _, link: link.hostname == "elsewhere.invalid" and link.scheme == "http",
    "foreign-scheme": lambda here, link: link.scheme == "https" and link.netloc == here.netloc,
    "foreign-port": lambda here, link: link.hostname == here.hostname and link.port != here.port,
    "foreign-path": lambda here, link: link.netloc == here.netloc and link.path != here.path,
    "userinfo-link": lambda here, link: (
        link.username and link.password and link.hostname == here.hostname
    ),
    "relative-link": lambda here, link: (
        (link.scheme, link.netloc, link.path) == ("", "", here.path)
    ),
    "real-host-link": lambda here, link: (
        link.netloc == "conversations.twilio.com" and link.path == here.path
    ),
}

ROWS = {
    "bad-sid": lambda row: row["sid"] == "BSnot-a-sid",
    "missing-sid": lambda row: "sid" not in row,
    "bad-date": lambda row: "T" not in row["date_updated"],
    "bad-message-types": lambda row: isinstance(row["message_types"], dict),
    "foreign-service-row": lambda row: row["chat_service_sid"] == "IS" + "f" * 32,
    "foreign-account-row": lambda row: row["account_sid"] == "AC" + "f" * 32,
    "not-an-object": lambda row: isinstance(row, str),
    "nul-text": lambda row: "\x00" in row["identity"],
}

TESTED = {
    *STATUS, *PAGES_FOR_PEOPLE, *LINKS, *ROWS, "empty-503", "odd-401", "odd-404", "token-expired", "redirect",
    "loop", "loop-long", "empty-next", "missing-next", "empty-page", "trailing-empty-page", "empty-service", "hidden-row",
    "token-empty", "duplicate-rows", "no-list", "no-meta", "list-not-array", "meta-first", "meta-last",
    "renamed-key", "token-only-style", "unknown-field", "slow", "trickle", "cut-body", "reset", "bad-gzip", "huge",
    "empty-404", "gateway-404", "empty-errors",
}  # fmt: skip


def test_every_fault_is_tested_and_described():
    """If this failed, a fault could stop working, or be unknown to its users, without notice."""
    described = describe_faults()
    assert set(described) == TESTED
    assert all(text and "\n" not in text for text in described.values())
    assert len(set(described.values())) == len(described)


@pytest.mark.parametrize("name", STATUS)
def test_refusals(stand, name):
    """If this failed, a refusal would not be the API's."""
    answer = stand(faults=[name]).get()
    assert (answer.status_code, answer.json()["code"]) == STATUS[name]
    assert ("retry-after" in answer.headers) == name.startswith("throttle-")


@pytest.mark.parametrize("name", PAGES_FOR_PEOPLE)
def test_pages_for_people(stand, name):
    """If this failed, clients that expect JSON everywhere would not be found out."""
    answer = stand(faults=[name]).get()
    assert answer.status_code == PAGES_FOR_PEOPLE[name]
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text.startswith("<html>")


def test_empty_body(stand):
    """If this failed, clients that parse an error's body unseen would not be found out."""
    answer = stand(faults=["empty-503"]).get()
    assert (answer.status_code, answer.content) == (503, b"")


def test_a_404_that_is_not_the_api_s(stand):
    """If this failed, clients that take any 404 for the API's word would not be found out."""
    answer = stand(faults=["empty-404"]).get()
    assert (answer.status_code, answer.content) == (404, b"")
    answer = stand(faults=["gateway-404"]).get()
    assert (answer.status_code, answer.json().keys()) == (404, {"message"})


def test_errors_without_a_body(stand):
    """If this failed, a client that needs the error's code could not be tried without one."""
    here = stand(3, faults=[Fault("empty-errors", on="binding")])
    path = f"{here.path}/"
    known = here.rows()[0]["sid"]
    assert here.client.get(path + known).json()["sid"] == known
    answer = here.client.get(f"{path}BS{'0' * 32}")
    assert (answer.status_code, answer.content) == (404, b"")


def test_retry_after(stand):
    """If this failed, a client's waiting could not be measured."""
    here = stand(faults=["throttle-retry-after"])
    assert here.get().headers["retry-after"] == "1"
    here.simulator.faults.clear()
    here.simulator.faults.add("throttle-retry-after", seconds=40)
    assert here.get().headers["retry-after"] == "40"


def test_retry_date(stand):
    """If this failed, a client could not read the date to wait for, or it would have passed already."""
    asked = datetime.now(UTC)
    date = parsedate_to_datetime(stand(faults=["throttle-retry-date"]).get().headers["retry-after"])
    assert date > asked


@pytest.mark.parametrize(("name", "status"), [("odd-401", 401), ("odd-404", 404)])
def test_odd_refusals_come_once_and_in_the_middle(stand, name, status):
    """If this failed, the single odd refusal would come at the start or stay."""
    here = stand(9, faults=[name])
    link = here.page(PageSize=3)["meta"]["next_page_url"]
    assert [here.client.get(link).status_code for _ in range(3)] == [status, 200, 200]
    assert here.get().status_code == 200


def test_expired_tokens(stand):
    """If this failed, resuming with an old link could not be refused."""
    here = stand(9, faults=["token-expired"])
    answer = here.client.get(here.page(PageSize=3)["meta"]["next_page_url"])
    assert (answer.status_code, answer.json()["code"]) == (400, 21481)


def test_tokens_that_give_nothing(stand):
    """If this failed, the silent truncation behind a token could not be played."""
    assert len(stand(9, faults=["token-empty"]).rows(PageSize=3)) == 3


def test_redirect(stand):
    """If this failed, a client that follows redirects with its credentials would not be found out."""
    here = stand(faults=[Fault("redirect", target="http://localhost:9")])
    answer = here.get()
    assert (answer.status_code, answer.headers["location"]) == (
        302,
        "http://localhost:9/v1/Services",
    )
    here.simulator.faults.clear()
    here.simulator.faults.add("redirect")
    assert "elsewhere.invalid" in here.get().headers["location"]


@pytest.mark.parametrize("bindings", [2, 9])
@pytest.mark.parametrize("name", LINKS)
def test_strange_links(stand, name, bindings):
    """If this failed, a client that sends its credentials wherever a link leads would not be found out."""
    here = stand(bindings, faults=[name])
    page = here.page(PageSize=3)
    if name == "relative-link" and bindings == 2:  # this one is harmless: the listing still ends
        assert page["meta"]["next_page_url"] is None
    else:
        assert LINKS[name](urlsplit(page["meta"]["url"]), urlsplit(page["meta"]["next_page_url"]))


def test_foreign_host_can_be_chosen(stand):
    """If this failed, a test could not watch the host to which credentials would leak."""
    here = stand(9, faults=[Fault("foreign-host", target="http://localhost:4711")])
    assert here.page(PageSize=3)["meta"]["next_page_url"].startswith(
        f"http://localhost:4711{here.path}?"
    )


@pytest.mark.parametrize("bindings", [2, 9])
def test_loop(stand, bindings):
    """If this failed, the endless listing of one link could not be played."""
    here = stand(bindings, faults=["loop"])
    page = here.page(PageSize=3)
    assert page["meta"]["next_page_url"] == page["meta"]["url"]
    assert here.follow(page) == page


def test_long_loop(stand):
    """If this failed, the endless listing over several links could not be played."""
    here = stand(9, faults=["loop-long"])
    first = here.page(PageSize=3, Page=0)
    second = here.follow(first)
    assert second["bindings"] != first["bindings"]
    assert here.follow(second) == first


@pytest.mark.parametrize("name", ["empty-next", "missing-next"])
def test_other_ways_to_end(stand, name):
    """If this failed, the end of a listing could only be played as null."""
    here = stand(9, faults=[name])
    pages = list(here.pages(PageSize=3))
    assert len(pages) == 3
    assert all(page["meta"]["next_page_url"] for page in pages[:2])
    assert (
        pages[2]["meta"].get("next_page_url", "missing")
        == {"empty-next": "", "missing-next": "missing"}[name]
    )


def test_empty_pages_in_the_middle(stand):
    """If this failed, a client that takes an empty page for the end would not be found out."""
    here = stand(9, faults=["empty-page"])
    pages = list(here.pages(PageSize=3))
    assert [len(page["bindings"]) for page in pages] == [3, 0, 3, 0, 3]
    assert {row["sid"] for page in pages for row in page["bindings"]} == set(here.service.bindings)
    links = [page["meta"]["url"] for page in pages]
    tokens = [link.partition("PageToken=")[2] for link in links]
    assert len(set(links)) == len(set(tokens)) == 5


def test_trailing_empty_page(stand):
    """If this failed, the empty page behind a full last one could not be played."""
    pages = list(stand(6, faults=["trailing-empty-page"]).pages(PageSize=3))
    assert [len(page["bindings"]) for page in pages] == [3, 3, 0]


def test_empty_service(stand):
    """If this failed, the sudden disappearance of all rows could not be played."""
    page = stand(9, faults=["empty-service"]).page(PageSize=3)
    assert (page["bindings"], page["meta"]["next_page_url"]) == ([], None)


def test_hidden_row(stand):
    """If this failed, a row that a listing misses although it exists could not be played."""
    here = stand(9, faults=["hidden-row"])
    assert len(here.page(PageSize=3)["bindings"]) == 2
    assert len(here.service.bindings) == 9


def test_duplicate_rows(stand):
    """If this failed, a row on two pages could not be played."""
    here = stand(9, faults=["duplicate-rows"])
    rows = [row["sid"] for row in here.rows(PageSize=3)]
    assert len(rows) == 11
    assert set(rows) == set(here.service.bindings)


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("no-list", ["meta"]),
        ("no-meta", ["bindings"]),
        ("meta-first", ["meta", "bindings"]),
        ("meta-last", ["bindings", "meta"]),
        ("renamed-key", ["meta", "items"]),
        ("list-not-array", ["meta", "bindings"]),
    ],
)
def test_members_of_the_body(stand, name, members):
    """If this failed, the body's outer form could not be varied."""
    page = stand(9, faults=[name]).page()
    assert list(page) == members
    assert (
        page.get("meta", {}).get("key", members[-1])
        == (set(members) - {"meta"} or {"bindings"}).pop()
    )
    assert isinstance(page.get(members[-1]), dict) == (
        name in {"list-not-array", "no-list", "meta-last"}
    )


def test_newer_style(stand):
    """If this failed, a client that takes the newer style for the end of the listing would not be found out."""
    meta = stand(9, faults=["token-only-style"]).page(PageSize=3)["meta"]
    assert set(meta) == {"key", "pageSize", "nextToken", "previousToken"}
    assert meta["nextToken"].startswith("PT")


def test_unknown_field(stand):
    """If this failed, fields not known today could not be played."""
    here = stand(9, faults=["unknown-field"])
    assert {row["sid"]: {**row, "device": None} for row in here.rows()} == {
        sid: {**row, "device": None} for sid, row in here.service.bindings.items()
    }
    assert all(row["device"] == {"model": "phone", "os": 17.2} for row in here.rows())


@pytest.mark.parametrize("name", ROWS)
def test_bad_rows(stand, name):
    """If this failed, a single bad row could not be played, or would spoil its neighbours."""
    here = stand(5, faults=[name])
    rows = here.rows()
    good = list(here.service.bindings.values())
    assert [index for index, row in enumerate(rows) if row != good[index]] == [2]
    assert ROWS[name](rows[2])


def test_slow(stand):
    """If this failed, a client's time limit could not be tested."""
    here = stand(faults=[Fault("slow", seconds=30)])
    with pytest.raises(httpx.ReadTimeout):
        here.client.get(here.path, timeout=httpx.Timeout(60, read=0.2))


def test_slow_answers_at_last(stand):
    """If this failed, a slow answer would be a lost one."""
    assert len(stand(faults=[Fault("slow", seconds=0.01)]).rows()) == 12


def raw(here):
    """Open a plain connection and ask for a page."""
    address = urlsplit(str(here.client.base_url))
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    authorization = here.client.build_request("GET", "/").headers
    request = next(
        here.client.auth.sync_auth_flow(httpx.Request("GET", "http://x", headers=authorization))
    )
    lines = [
        f"GET {here.path} HTTP/1.1",
        "Host: x",
        f"Authorization: {request.headers['authorization']}",
        "",
        "",
    ]
    connection.sendall("\r\n".join(lines).encode())
    return connection


def read_all(connection):
    """Read until the other side closes."""
    while connection.recv(65_536):
        pass


def test_trickle(stand):
    """If this failed, a body that never ends within any read limit could not be played."""
    here = stand(faults=[Fault("trickle", seconds=0.01)])
    pieces: list[bytes] = []
    with raw(here) as connection:
        while len(pieces) < 20:
            pieces.append(connection.recv(65_536))
    assert b"200 OK" in pieces[0]
    assert b"".join(pieces).partition(b"\r\n\r\n")[2].startswith(b'{"meta"')
    assert max(len(piece) for piece in pieces[1:]) < 1_000


def test_trickle_ends(stand):
    """If this failed, a patient client would not get the whole body."""
    assert stand(0, faults=[Fault("trickle", seconds=0)]).page()["bindings"] == []


def test_cut_body(stand):
    """If this failed, a body that breaks off could not be played."""
    here = stand(faults=["cut-body"])
    with raw(here) as connection, connection.makefile("rb") as stream:
        head, _, body = stream.read().partition(b"\r\n\r\n")
    promised = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert 0 < len(body) < promised
    with pytest.raises(httpx.RemoteProtocolError):
        here.get()


def test_reset(stand):
    """If this failed, a connection reset by the network could not be played."""
    here = stand(faults=["reset"])
    with raw(here) as connection, pytest.raises(ConnectionResetError):
        read_all(connection)
    with pytest.raises(httpx.TransportError):
        here.get()


def test_bad_gzip(stand):
    """If this failed, damaged compression could not be played."""
    with pytest.raises(httpx.DecodingError):
        stand(faults=["bad-gzip"]).get()


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_huge(stand, encoding):
    """If this failed, a client that reads bodies of any size would not be found out."""
    here = stand(3, faults=["huge"])
    size, tail = 0, b""
    with here.client.stream("GET", here.path, headers={"accept-encoding": encoding}) as answer:
        for piece in answer.iter_bytes():
            size += len(piece)
            tail = (tail + piece)[-10_000:]
    assert size > 64 << 20
    assert len(json.loads(tail)["bindings"]) == 3


# When faults strike.


def statuses(here, number, **query):
    """Ask so many times and give the statuses."""
    return [here.get(**query).status_code for _ in range(number)]


def test_every_nth(stand):
    """If this failed, occasional faults would come always or never."""
    assert statuses(stand(faults=["error-500:3"]), 7) == [200, 200, 500, 200, 200, 500, 200]


def test_times(stand):
    """If this failed, a fault that heals could not be played."""
    assert statuses(stand(faults=[Fault("error-500", times=2)]), 4) == [500, 500, 200, 200]


def test_only_pages(stand):
    """If this failed, a fault could not be placed in the middle of a listing."""
    here = stand(9, faults=[Fault("error-500", only_pages={2})])
    first = here.page(PageSize=3)
    second = here.follow(first)
    assert here.client.get(second["meta"]["next_page_url"]).status_code == 500


def test_one_service_or_account(stand):
    """If this failed, one bad service could not be played beside good ones."""
    here = stand()
    other = here.world.add_service(2)
    here.simulator.faults.add("error-500", service=other.sid)
    here.simulator.faults.add("error-503", account="AC" + "0" * 32)
    assert here.client.get(f"/v1/Services/{other.sid}/Bindings").status_code == 500
    assert here.get().status_code == 200


def test_other_routes(stand):
    """If this failed, discovery and the confirming of absences could not be disturbed."""
    here = stand()
    single = f"{here.path}/{next(iter(here.service.bindings))}"
    for route, path in {"binding": single, "services": "/v1/Services"}.items():
        here.simulator.faults.add("error-503", on=route)
        assert here.client.get(path).status_code == 503
        assert here.get().status_code == 200
        here.simulator.faults.clear()
        assert here.client.get(path).status_code == 200


def test_edits_leave_single_resources_alone(stand):
    """If this failed, a fault of lists would break the server where there is no list."""
    here = stand()
    here.simulator.faults.add("no-list", on="binding")
    assert here.client.get(f"{here.path}/{next(iter(here.service.bindings))}").status_code == 200


def test_own_condition(stand):
    """If this failed, tests could not place a fault by a rule of their own."""
    here = stand(9, faults=[Fault("error-500", when=lambda asked: asked.token is not None)])
    page = here.page(PageSize=3)
    assert here.client.get(page["meta"]["next_page_url"]).status_code == 500


def test_faults_come_and_go_while_serving(stand):
    """If this failed, an outage could not begin or end during a run."""
    here = stand()
    fault = here.simulator.faults.add("error-500")
    assert statuses(here, 1) == [500]
    here.simulator.faults.remove(fault)
    assert statuses(here, 1) == [200]
    here.simulator.faults.add("error-502:2")
    assert statuses(here, 2) == [200, 502]
    assert (fault.met, fault.struck, len(here.simulator.faults)) == (1, 1, 1)


def test_faults_join(stand):
    """If this failed, two things could not go wrong at once."""
    page = stand(9, faults=["meta-last", "renamed-key", "loop"]).page(PageSize=3)
    assert list(page) == ["items", "meta"]
    assert page["meta"]["next_page_url"] == page["meta"]["url"]


def test_wrong_credentials_come_before_faults(stand):
    """If this failed, a stranger's request would use up a fault meant for the client."""
    here = stand(faults=[Fault("error-500", times=1)])
    assert httpx.get(f"{here.simulator.base_url}{here.path}").status_code == 401
    assert statuses(here, 2) == [500, 200]


@pytest.mark.parametrize(
    "text", ["nonsense", "", "throttle:", "throttle:x", "throttle:0", "throttle:-1", ":2"]
)
def test_misspelt_faults_are_refused(text):
    """If this failed, a test or a demo would run without the fault it asked for."""
    with pytest.raises(ValueError, match=r"fault|NAME"):
        Simulator(World(1), faults=[text])


def test_near_names_are_offered():
    """If this failed, a misspelt name would cost a look into the source."""
    with pytest.raises(ValueError, match="near to throttle"):
        Fault("throtle")


def test_counting_is_exact_side_by_side(stand):
    """If this failed, `times` would not hold when requests come at once."""
    here = stand(faults=[Fault("error-500", times=3)])
    answers: list[httpx.Response] = []

    def ask():
        answers.extend(
            httpx.get(f"{here.simulator.base_url}{here.path}", auth=here.client.auth)
            for _ in range(5)
        )

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(answer.status_code == 500 for answer in answers) == 3


def test_stopping_does_not_wait_for_slow_answers(stand):
    """If this failed, a test with a slow answer would hang at its end."""
    here = stand(faults=[Fault("slow", seconds=600)])
    with pytest.raises(httpx.ReadTimeout):
        here.client.get(here.path, timeout=httpx.Timeout(60, read=0.2))
    here.stop()
    with pytest.raises(httpx.ConnectError):
        here.get()
