"""A listing followed to its end, without a socket (docs/promises.md §6, §7)."""

import httpx
import pytest

from etl import errors
from etl.domain.counters import Counters
from etl.domain.wire import Page
from etl.twilio.client import Client
from etl.twilio.paging import FetchedPage, Listing, LoopDetector, iter_pages
from tests.unit.api import BINDINGS, ORIGIN, SERVICE, Handler, client_of, page, refusal

LISTING = Listing(f"/v1/Services/{SERVICE}/Bindings", "bindings")


def read(client: Client, start: str | None = None) -> list[FetchedPage]:
    return list(iter_pages(client, LISTING, Counters(), start))


def linked(pages: dict[str, httpx.Response]) -> Handler:
    """Return a handler that answers each page's token."""
    return lambda request: pages[request.url.params.get("PageToken", "")]


def to(token: str) -> str:
    return f"{BINDINGS}?PageSize=50&PageToken={token}"


THREE_PAGES = {
    "": page({"sid": "BS1"}, next_link=to("a")),
    "a": page({"sid": "BS2"}, {"sid": "BS3"}, next_link=to("b")),
    "b": page({"sid": "BS4"}),
}


def test_all_pages_come_in_their_order() -> None:
    """A page that is left out looks like deletes."""
    fetched = read(client_of(linked(THREE_PAGES)))
    assert [len(one.page.rows) for one in fetched] == [1, 2, 1]
    assert [one.next_link for one in fetched] == [to("a"), to("b"), None]
    assert not any(one.repeated for one in fetched)


def test_a_stored_link_goes_on_where_it_leads() -> None:
    """A resumed scan must not read again what it has."""
    fetched = read(client_of(linked(THREE_PAGES)), to("b"))
    assert [one.page.rows for one in fetched] == [[b'{"sid":"BS4"}']]


@pytest.mark.parametrize(
    "link", [f"https://evil.example/v1/Services/{SERVICE}/Bindings?a=b", f"{ORIGIN}/v1/Services"]
)
def test_nothing_is_sent_to_a_foreign_link(link: str) -> None:
    """Whoever gets a request gets the key."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return page({"sid": "BS1"}, next_link=link)

    with pytest.raises(errors.ForeignLink):
        read(client_of(handle))
    assert len(asked) == 1


def test_a_link_that_comes_again_ends_the_listing() -> None:
    """It would be followed for ever."""
    pages = THREE_PAGES | {"b": page({"sid": "BS4"}, next_link=to("a"))}
    with pytest.raises(errors.RepeatedLink):
        read(client_of(linked(pages)))


def test_a_page_that_comes_again_is_noticed() -> None:
    """Rows moved, so the listing proves no absence, and yet goes on to its end."""
    pages = THREE_PAGES | {"a": page({"sid": "BS1"}, next_link=to("b"))}
    assert [one.repeated for one in read(client_of(linked(pages)))] == [False, True, False]


def test_ten_repeated_pages_in_a_row_are_borne() -> None:
    """Rows that are added at the head push a page on; only an endless run of it is a loop."""
    loops = LoopDetector()
    again = Page([b"1"], None, None)
    loops.observe("first", again, "0")
    for number in range(10):
        assert loops.observe(str(number), again, str(number + 1))
    with pytest.raises(errors.RepeatedLink):
        loops.observe("10", again, "11")


def test_many_empty_pages_are_borne_and_not_endlessly() -> None:
    """A filter may leave many pages empty."""
    loops = LoopDetector()
    empty = Page([], None, None)
    for number in range(1000):
        assert not loops.observe(str(number), empty, str(number + 1))
    with pytest.raises(errors.RepeatedLink):
        loops.observe("1000", empty, "1001")


def test_a_refused_size_is_asked_smaller() -> None:
    """A server that takes 50 at most must not end every scan."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(size := request.url.params["PageSize"])
        return page({"sid": "BS1"}) if size == "50" else refusal(400, 20007)

    client = client_of(handle)
    assert len(read(client)) == 1
    assert asked == ["100", "50"]
    read(client)
    assert asked[2:] == ["50"]


def test_a_size_below_the_smallest_is_refused_for_good() -> None:
    """There is nothing smaller to ask for."""
    with pytest.raises(errors.PageSizeRefused):
        read(client_of(lambda _request: refusal(400, 20007)))


def test_an_answer_that_is_no_page_tells_its_request_id() -> None:
    """It is what Twilio's support asks for."""
    odd = httpx.Response(200, content=b"[]", headers={"twilio-request-id": "RQ9"})
    with pytest.raises(errors.MalformedPage) as raised:
        read(client_of(lambda _request: odd))
    assert (raised.value.status, raised.value.request_id) == (200, "RQ9")


def test_one_odd_404_amid_the_pages_is_borne() -> None:
    """A slip of the API would cost a whole service its run."""
    slips = iter([refusal(404, 20404)])

    def handle(request: httpx.Request) -> httpx.Response:
        token = request.url.params.get("PageToken", "")
        return next(slips, THREE_PAGES[token]) if token == "b" else THREE_PAGES[token]

    assert len(read(client_of(handle))) == 3


def test_a_404_for_the_first_page_is_no_slip() -> None:
    """A service that is gone would be asked for twice by each run."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return refusal(404, 20404)

    with pytest.raises(errors.ServiceNotFound):
        read(client_of(handle))
    assert len(asked) == 1
