"""A chain of pages, and what a next link may never do (docs/promises.md §6, §7; docs/api.md §2).

The link is followed as an opaque string. It is taken apart only to see where it leads, never to be
put together again: tokens hold `.`, `:`, `_` and `=`, and rebuilding has broken two public clients
(docs/api.md §2.4).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote, urlencode

import httpx
import msgspec
import structlog

from etl import errors
from etl.domain.counters import Counters
from etl.domain.wire import Page, decode_page
from etl.twilio.client import Client, OneOffRetry
from etl.twilio.responses import ApiResponse

log = structlog.get_logger()

_SID = re.compile(r"[A-Z]{2}[0-9a-fA-F]{32}")
_MOST_REPEATED_PAGES = 10
_MOST_PAGES_WITHOUT_NEWS = 1_000

# Twilio's own names for one API: a region's answers may name the global host (docs/api.md §2.8).
_CONVERSATIONS_HOST = re.compile(r"conversations(\.[a-z0-9-]+){0,2}\.twilio\.com")


class Listing(msgspec.Struct, frozen=True):
    """What is listed: a path below the origin, the key of its rows, and filters."""

    path: str
    key: str
    query: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> str:
        """The path without the SIDs in it: listings of one kind are cut into pages alike."""
        return _SID.sub("{sid}", self.path)

    def first_link(self, origin: str, page_size: int) -> str:
        """Return the only link that this program makes; all others are the server's."""
        query = urlencode([("PageSize", str(page_size)), *self.query], quote_via=quote)
        return f"{origin}{self.path}?{query}"


class FetchedPage(NamedTuple):
    """One page, and where it leads: None at the end."""

    page: Page
    next_link: str | None
    repeated: bool = False
    """Seen before: rows moved while they were read, so the listing proves no absence."""
    request_id: str | None = None


class LoopDetector:
    """Notices a listing without end.

    Rows that are added at the head push a page on, and then it comes again under the next link; a
    filter may leave many pages empty. Only a run of such pages is a listing without end.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._repeated = 0
        self._without_news = 0

    def observe(self, link: str, page: Page, next_link: str | None) -> bool:
        """Note the page that came for `link`; return whether it was seen before.

        Raises:
            RepeatedLink: the next link was followed before, or too many pages in a row brought
                nothing new.
        """
        # Both ends tell a page from others, and cost less than hashing all of it.
        rows = hash((len(page.rows), *page.rows[:1], *page.rows[-1:]))
        repeated = bool(page.rows) and rows in self._seen
        if repeated or not page.rows:
            self._repeated += repeated
            self._without_news += 1
        else:
            self._repeated = self._without_news = 0
        self._seen |= {hash(link), rows}
        if next_link is not None and hash(next_link) in self._seen:
            raise errors.RepeatedLink(
                "a next link was followed before, so the listing would never end; "
                "report it to Twilio"
            )
        if self._repeated > _MOST_REPEATED_PAGES or self._without_news > _MOST_PAGES_WITHOUT_NEWS:
            raise errors.RepeatedLink(
                f"{self._without_news} pages in a row brought nothing new, "
                "so the listing would never end; report it to Twilio"
            )
        return repeated


def iter_pages(
    client: Client, listing: Listing, counters: Counters, start: str | None = None
) -> Iterator[FetchedPage]:
    """Yield the pages of a listing from its first one, or from a stored link, to its end.

    Raises:
        SourceError: typed; among them `ForeignLink` and `RepeatedLink`, before anything is sent
            there.
        Interrupted: the run is to stop.
    """
    loops, one_off = LoopDetector(), OneOffRetry()
    link: str | None
    if start is None:
        fetched = _fetch_first(client, listing, counters, loops)
        link = fetched.next_link
        yield fetched
    else:
        link = check_link(start, client.origin + listing.path, client.origin, listing.path)
    while link is not None:
        response = client.fetch(link, counters, one_off)
        fetched = _read_page(client, listing, response, link, loops)
        one_off.note_page()
        link = fetched.next_link
        yield fetched


def check_link(link: str, current: str, origin: str, path: str) -> str:
    """Return where `link`, found on the page `current`, leads: a page of the same listing.

    Raises:
        ForeignLink: another scheme, host, port or path, or credentials in the link. Its text is
            not repeated: it may hold a filter.
    """
    if link.startswith(f"{origin}{path}?") and _is_plain(link):
        return link  # the usual case: there is nothing to take apart
    try:
        target = httpx.URL(current).join(link)
    except (httpx.InvalidURL, ValueError, TypeError):
        raise errors.ForeignLink("a next link is not a URL; nothing was sent there") from None
    home = httpx.URL(origin)
    # The path as it would be sent: decoded, `%2F` would pass for a slash.
    if target.userinfo or target.raw_path.partition(b"?")[0] != path.encode():
        raise errors.ForeignLink(f"a next link leads outside {path}; nothing was sent there")
    if (target.scheme, target.host, target.port) == (home.scheme, home.host, home.port) or _is_twin(
        target, home
    ):
        return origin + target.raw_path.decode("ascii")
    raise errors.ForeignLink(
        f"a next link leads to another scheme, host or port than {origin}; nothing was sent there"
    )


_is_plain = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+").fullmatch
"""Characters that a URL may hold as they are, without a fragment."""


def _is_twin(target: httpx.URL, home: httpx.URL) -> bool:
    """Return whether it is another of Twilio's names for this API, with the query of a page.

    Then path and query are taken, and the configured name is kept.
    """
    same_api = all(
        _CONVERSATIONS_HOST.fullmatch(url.host) and url.scheme == "https" and url.port is None
        for url in (target, home)
    )
    return same_api and ("PageToken" in target.params or "Page" in target.params)


def _fetch_first(
    client: Client, listing: Listing, counters: Counters, loops: LoopDetector
) -> FetchedPage:
    kind = listing.kind
    while True:
        asked = client.page_size(kind)
        link = listing.first_link(client.origin, asked)
        try:
            response = client.fetch(link, counters)
        except errors.PageSizeRefused:
            if client.page_size(kind) < asked or client.ask_for_smaller_pages(kind, asked):
                continue
            raise
        fetched = _read_page(client, listing, response, link, loops)
        client.follow_down(kind, fetched.page.page_size)
        return fetched


def _read_page(
    client: Client, listing: Listing, response: ApiResponse, link: str, loops: LoopDetector
) -> FetchedPage:
    try:
        page = decode_page(response.body, listing.key)
        next_link = (
            None
            if page.next_link is None
            else check_link(page.next_link, link, client.origin, listing.path)
        )
        repeated = loops.observe(link, page, next_link)
    except errors.SourceError as error:
        error.status, error.request_id = response.status, response.request_id
        raise
    if repeated:
        log.warning("page.repeated", path=listing.path, twilio_request_id=response.request_id)
    return FetchedPage(page, next_link, repeated, response.request_id)
