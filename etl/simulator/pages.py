"""Pages of a listing: query, tokens, `meta` and links (docs/api.md §1.2, §1.4, §2)."""

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, quote
from zlib import crc32

from etl.simulator.replies import RefusedError, Reply, text_reply
from etl.simulator.views import Order
from etl.simulator.world import Row

Oversize = Literal["clamp", "refuse", "refuse20001"]
BadToken = Literal["refuse", "empty"]
State = Literal["active", "closed", "before"]

DEFAULT_SIZE = 50
TOKEN = re.compile(
    r"(?P<body>PT(?P<state>active|closed|before)_(?P<position>[\d:T.-]+Z_\w+))"
    r"\.(?P<seal>[\w-]{6}==)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Rules:
    """How this server pages, where docs/api.md §2.3, §2.4 and §10 leave it open."""

    max_page_size: int = 100
    oversize: Oversize = "clamp"
    bad_token: BadToken = "refuse"  # noqa: S105
    order: Order = "sid"


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


class Place(NamedTuple):
    """Where a token points to: from a position on, or up to it."""

    position: str | None
    state: State = "active"


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
    """Where the rows of a listing come from: those after a position, those before one."""

    key: str
    after: Callable[[str | None, int], list[Row]]
    before: Callable[[str, int], list[Row]]


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


def write_token(path: str, position: str, state: State = "active") -> str:
    """Write a page token: state, time and SID (docs/api.md §2.4), then a seal against damage."""
    body = f"PT{state}_{position}"
    return f"{body}.{_seal(path, body)}"


def read_token(path: str, token: str) -> Place | None:
    """Read a page token; nothing if it is damaged or of another listing."""
    match = TOKEN.fullmatch(token)
    if match is None or match["seal"] != _seal(path, match["body"]):
        return None
    return Place(match["position"], match["state"])  # type: ignore[arg-type]


def turn_to(query: Query, source: Source, rules: Rules) -> Page:
    """Find the page that a query asks for in the store as it stands now."""
    place = Place(None) if query.token is None else read_token(query.path, query.token)
    if place is None and rules.bad_token == "refuse":  # noqa: S105
        raise RefusedError(
            21481, "Invalid PageToken, be sure you are requesting the provided paging urls"
        )
    if place is None:
        return _page(query, source.key, [], None)
    if place.state == "before" and place.position:
        place = Place(_start_before(source, place.position, query.size))
    rows = source.after(place.position, query.size + 1)
    return _page(
        query, source.key, rows[: query.size], rows[query.size] if len(rows) > query.size else None
    )


def _start_before(source: Source, position: str, size: int) -> str | None:
    rows = source.before(position, size + 1)
    return rows[0].position if len(rows) > size else None


def _page(query: Query, key: str, rows: list[Row], peek: Row | None) -> Page:
    end = rows[-1].position if rows else None
    following = query.link(query.page + 1, write_token(query.path, end)) if peek and end else None
    previous = query.page > 0 and rows
    back = write_token(query.path, rows[0].position, "before") if previous else None
    meta = {
        "page": query.page,
        "page_size": query.size,
        "first_page_url": query.link(0),
        "previous_page_url": query.link(query.page - 1, back) if previous else None,
        "url": query.link(query.page, query.token),
        "next_page_url": following,
        "key": key,
    }
    return Page(query, key, [row.text for row in rows], meta, peek.text if peek else None, end)


def _seal(path: str, body: str) -> str:
    return urlsafe_b64encode(crc32(f"{path} {body}".encode()).to_bytes(4, "big")).decode()
