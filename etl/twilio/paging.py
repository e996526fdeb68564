"""A chain of pages: first link, next link, and what a next link may never do (contract §5.6, §5.7; facts §2).

The link is followed as an opaque string. It is taken apart only to see where it leads, never to be put together again: tokens
hold `.`, `:`, `_` and `=`, and rebuilding has broken two public clients (facts §2.4).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, urlencode

import httpx
import structlog

from etl import errors
from etl.domain.counters import Counters
from etl.domain.wire import Page, decode_page
from etl.twilio.client import Client
from etl.twilio.failures import Answer

log = structlog.get_logger()

# Twilio's own names for one API: a region's answers may name the global host (facts §2.8).
_CONVERSATIONS_HOST = re.compile(r"conversations(\.[a-z0-9-]+){0,2}\.twilio\.com")


@dataclass(frozen=True)
class Listing:
    """What is listed: a path below the origin, the key of its rows, and filters."""

    path: str
    key: str
    query: tuple[tuple[str, str], ...] = ()

    def first_link(self, origin: str, page_size: int) -> str:
        """The only link that this program makes; all others are the server's."""
        return f"{origin}{self.path}?{urlencode([('PageSize', str(page_size)), *self.query], quote_via=quote)}"


class Step(NamedTuple):
    """One page, and where it leads: None at the end."""

    page: Page
    next_link: str | None


def walk(client: Client, listing: Listing, counters: Counters, start: str | None = None) -> Iterator[Step]:
    """Follow a listing from its first page, or from a stored link, to its end.

    Raises:
        SourceError: typed; among them `ForeignLink` and `RepeatedLink`, before anything is sent there.
        Interrupted: the run is to stop.
    """
    met: set[int] = set()
    link: str | None
    if start is None:
        step = _first(client, listing, counters, met)
        link = step.next_link
        yield step
    else:
        link = check_link(start, client.origin + listing.path, client.origin, listing.path)
    while link is not None:
        step = _step(client, listing, client.fetch(link, counters, in_the_middle=True), link, met)
        link = step.next_link
        yield step


def check_link(link: str, current: str, origin: str, path: str) -> str:
    """Where `link`, found on the page `current`, leads, if that is a page of the same listing at the configured origin.

    Raises:
        ForeignLink: another scheme, host, port or path, or credentials in the link. Its text is not repeated: it may hold a filter.
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
    if (target.scheme, target.host, target.port) == (home.scheme, home.host, home.port):
        return str(target).partition("#")[0]
    if _is_twin(target, home):
        return origin + target.raw_path.decode("ascii")
    raise errors.ForeignLink(
        f"a next link leads to {target.scheme}://{target.netloc.decode('ascii')} and not to {origin}; nothing was sent there"
    )


_is_plain = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+").fullmatch
"""Characters that a URL may hold as they are, without a fragment."""


def _is_twin(target: httpx.URL, home: httpx.URL) -> bool:
    """Another of Twilio's names for this API, with the query of a page: the configured name is kept, path and query are taken."""
    same_api = all(
        _CONVERSATIONS_HOST.fullmatch(url.host) and url.scheme == "https" and url.port is None for url in (target, home)
    )
    return same_api and ("PageToken" in target.params or "Page" in target.params)


def _first(client: Client, listing: Listing, counters: Counters, met: set[int]) -> Step:
    while True:
        asked = client.page_size
        link = listing.first_link(client.origin, asked)
        try:
            answer = client.fetch(link, counters)
        except errors.PageSizeRefused:
            if client.page_size < asked or client.ask_for_smaller_pages(asked):
                continue
            raise
        step = _step(client, listing, answer, link, met)
        client.follow_down(step.page.page_size)
        return step


def _step(client: Client, listing: Listing, answer: Answer, link: str, met: set[int]) -> Step:
    try:
        page = decode_page(answer.body, listing.key)
        onward = None if page.next_link is None else check_link(page.next_link, link, client.origin, listing.path)
        _refuse_repetition(met, link, page, onward)
    except errors.SourceError as error:
        error.status, error.request_id = answer.status, answer.request_id
        raise
    return Step(page, onward)


def _refuse_repetition(met: set[int], link: str, page: Page, onward: str | None) -> None:
    """Links are met once, and so are pages: a link that only counts up can lead to the same rows for ever."""
    rows = hash((len(page.rows), *page.rows[:1], *page.rows[-1:]))  # both ends tell, and cost less than hashing all
    if page.rows and rows in met:
        raise errors.RepeatedLink("a page came again under another link, so the listing would never end; report it to Twilio")
    met |= {hash(link), rows}
    if onward is not None and hash(onward) in met:
        raise errors.RepeatedLink("a next link was followed before, so the listing would never end; report it to Twilio")
