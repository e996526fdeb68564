"""Pages of a listing: query, tokens, `meta` and links (docs/api.md §1.2, §1.4, §2)."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, quote

from etl.simulator.page_tokens import PageTokens, Place
from etl.simulator.replies import RefusedError, Reply, text_reply
from etl.simulator.views import Order
from etl.simulator.world import Row

Oversize = Literal["clamp", "refuse", "refuse20001"]
BadToken = Literal["refuse", "empty", "not-found"]

DEFAULT_SIZE = 50


@dataclass(frozen=True, slots=True)
class Rules:
    """How this server pages, where docs/api.md §2.3, §2.4 and §10 leave it open."""

    max_page_size: int = 100
    oversize: Oversize = "clamp"
    bad_token: BadToken = "refuse"  # noqa: S105
    order: Order = "sid"
    tokens: PageTokens = field(default_factory=PageTokens)


@dataclass(frozen=True, slots=True)
class Query:
    """What a listing was asked for."""

    path: str
    base: str
    types: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    size: int = DEFAULT_SIZE
    page: int = 0
    token: str | None = None

    @property
    def filters(self) -> str:
        """Write the filters that all links carry, a key for each value (docs/api.md §1.4, §2.6)."""
        types = [f"BindingType={quote(kind, safe='')}&" for kind in self.types]
        return "".join(types + [f"Identity={quote(name, safe='')}&" for name in self.identities])

    def link(self, page: int, token: str | None = None) -> str:
        """Write the absolute address of a page; tokens go in unescaped (docs/api.md §2.4)."""
        tail = f"&PageToken={token}" if token else ""
        return f"{self.base}{self.path}?{self.filters}PageSize={self.size}&Page={page}{tail}"


@dataclass(slots=True)
class Page:
    """One page before it is rendered; faults edit it."""

    query: Query
    key: str
    rows: list[bytes]
    meta: dict[str, Any]
    peek: bytes | None = None
    end: str | None = None
    members: list[str] = field(default_factory=lambda: ["meta", "list"])
    brackets: bytes = b"[]"

    def reply(self) -> Reply:
        """Render the page by joining rows that are JSON already."""
        parts = {"meta": self._meta, "list": self._list}
        return text_reply(b"{" + b", ".join(parts[member]() for member in self.members) + b"}")

    def _meta(self) -> bytes:
        return b'"meta": ' + json.dumps(self.meta).encode()

    def _list(self) -> bytes:
        opening, closing = self.brackets[:1], self.brackets[1:]
        return b'"%s": %s%s%s' % (self.key.encode(), opening, b", ".join(self.rows), closing)


class Source(NamedTuple):
    """Where the rows of a listing come from: after or before a position, or by number."""

    key: str
    after: Callable[[str | None, int], list[Row]]
    before: Callable[[str, int], list[Row]]
    at: Callable[[int, int], list[Row]]
    find: Callable[[str], str | None]


class Shown(NamedTuple):
    """What surrounds the rows of a page: how many lie before, and the one behind."""

    offset: int
    peek: Row | None


def read_query(raw: str, path: str, base: str, rules: Rules) -> Query:
    """Read a listing's query string, or refuse it."""
    pairs = parse_qsl(raw, keep_blank_values=True)
    last = dict(pairs)
    query = Query(
        path,
        base,
        tuple(value for name, value in pairs if name == "BindingType"),
        tuple(value for name, value in pairs if name == "Identity"),
        page_size(last.get("PageSize"), rules),
        whole_number("Page", last.get("Page", "0"), 0),
        last.get("PageToken"),
    )
    if query.page and query.token is None:
        raise RefusedError(20001, "PageToken is required for paging.")
    return query


def page_size(text: str | None, rules: Rules) -> int:
    """Read the page size and apply the server's maximum in the way it is set to."""
    size = (
        whole_number("PageSize", text, 1)
        if text is not None
        else min(DEFAULT_SIZE, rules.max_page_size)
    )
    if size <= rules.max_page_size or rules.oversize == "clamp":
        return min(size, rules.max_page_size)
    code = 20007 if rules.oversize == "refuse" else 20001
    raise RefusedError(code, f"Page size too large, maximum is {rules.max_page_size}")


def whole_number(name: str, text: str, least: int) -> int:
    """Read a whole number from the query, or refuse it."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise RefusedError(20001, f"Invalid parameter {name}")
    return int(text)


def turn_to(query: Query, source: Source, rules: Rules) -> Page:
    """Find the page that a query asks for in the store as it stands now."""
    rules.tokens.count_request()
    place = Place(None) if query.token is None else rules.tokens.read(query.path, query.token)
    if place is not None and place.row is not None:
        position = source.find(place.row)
        place = place._replace(position=position) if position else None
    if place is None and rules.bad_token == "refuse":  # noqa: S105
        raise RefusedError(
            21481, "Invalid PageToken, be sure you are requesting the provided paging urls"
        )
    if place is None and rules.bad_token == "not-found":  # noqa: S105
        raise RefusedError(20404, f"The requested resource {query.path} was not found")
    if place is None:
        return _page(query, source.key, [], Shown(0, None), rules.tokens)
    start, rows = _rows_of(query, place, source, rules)
    shown = Shown(start, rows[query.size] if len(rows) > query.size else None)
    return _page(query, source.key, rows[: query.size], shown, rules.tokens)


def _rows_of(query: Query, place: Place, source: Source, rules: Rules) -> tuple[int, list[Row]]:
    """Give the rows of a page and one more, and how many lie before them where that is known."""
    if rules.tokens.style == "offset" and place.position is None:
        back = query.size if place.state == "before" else 0
        start = max(0, place.offset - back)
        return start, source.at(start, query.size + 1)
    position = place.position
    if place.state == "before" and position:
        position = _start_before(source, position, query.size)
    return place.offset, source.after(position, query.size + 1)


def _start_before(source: Source, position: str, size: int) -> str | None:
    rows = source.before(position, size + 1)
    return rows[0].position if len(rows) > size else None


def _page(query: Query, key: str, rows: list[Row], shown: Shown, tokens: PageTokens) -> Page:
    end = rows[-1].position if rows else None
    following = back = None
    if shown.peek and end:
        place = Place(end, offset=shown.offset + len(rows))
        following = query.link(query.page + 1, tokens.write(query.path, place))
    if query.page > 0 and rows:
        place = Place(rows[0].position, "before", shown.offset)
        back = query.link(query.page - 1, tokens.write(query.path, place))
    meta = {
        "page": query.page,
        "page_size": query.size,
        "first_page_url": query.link(0),
        "previous_page_url": back,
        "url": query.link(query.page, query.token),
        "next_page_url": following,
        "key": key,
    }
    peek = shown.peek.text if shown.peek else None
    return Page(query, key, [row.text for row in rows], meta, peek, end)
