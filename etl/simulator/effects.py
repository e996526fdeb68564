"""What each fault does, by name: another response, edits of a page, damage on the wire.

Most were seen at the API, its proxies or its clients (docs/api.md §2.7, §2.8, §3.1, §3.2, §9); the
others are what a careful client has to survive anyway.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import partial
from time import time
from typing import Any, Literal
from urllib.parse import urlsplit

from etl.simulator.devices import HOME
from etl.simulator.page_tokens import read_token, write_token
from etl.simulator.pages import Page
from etl.simulator.replies import Reply, error, html_reply, json_reply, with_headers

Route = Literal["bindings", "binding", "services", "service", "configuration", "token"]

ELSEWHERE = "elsewhere.invalid"
STRANGER = "f" * 32


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as faults see it."""

    route: Route
    account_sid: str
    service_sid: str | None = None
    page: int = 0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Knobs:
    """What can be set about a fault's effect."""

    seconds: float = 1.0
    target: str | None = None


def always(_: Asked) -> bool:
    """Strike on any page."""
    return True


def later_pages(asked: Asked) -> bool:
    """Strike behind the first page."""
    return asked.page > 0


def token_pages(asked: Asked) -> bool:
    """Strike where a token is shown."""
    return asked.token is not None


def odd_pages(asked: Asked) -> bool:
    """Strike on pages 1, 3, 5 …, so that the pages between still bring the rows."""
    return asked.page % 2 == 1


@dataclass(frozen=True, slots=True)
class Instead:
    """Answers in place of the API."""

    text: str
    act: Callable[[Knobs], Reply]
    strikes: Callable[[Asked], bool] = always
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """Changes a page before it is rendered."""

    text: str
    act: Callable[[Page, Knobs], None]
    strikes: Callable[[Asked], bool] = always
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Wire:
    """Damages an answer on its way."""

    text: str
    act: Callable[[Reply, Knobs], Reply]
    strikes: Callable[[Asked], bool] = always
    times: int | None = None


Effect = Instead | Edit | Wire


# Answers in place of the API.


def refuse(code: int, _: Knobs) -> Reply:
    """Give one of the API's error bodies."""
    return error(code)


def show(status: int, title: str, _: Knobs) -> Reply:
    """Give a page for people."""
    return html_reply(status, title)


def throttle_for_seconds(knobs: Knobs) -> Reply:
    """Refuse with the seconds to wait (docs/api.md §3.3)."""
    return with_headers(error(20429), {"retry-after": f"{knobs.seconds:g}"})


def throttle_until_date(knobs: Knobs) -> Reply:
    """Refuse with the date to wait for, in whole seconds rounded up (docs/api.md §3.3)."""
    return with_headers(
        error(20429), {"retry-after": formatdate(int(time() + knobs.seconds + 1), usegmt=True)}
    )


def suspend(_: Knobs) -> Reply:
    """Refuse as for a suspended account (docs/api.md §3.2)."""
    return error(20003, "Authenticate: the account is suspended")


def redirect(knobs: Knobs) -> Reply:
    """Answer with a redirect to another host."""
    return Reply(302, b"", {"location": f"{knobs.target or f'http://{ELSEWHERE}'}/v1/Services"})


def stray(_: Knobs) -> Reply:
    """Answer as a gateway that knows no such route."""
    return json_reply({"message": "no Route matched with those values"}, 404)


# Next links.


def link_from(page: Page) -> str:
    """Give the next link, or on the last page some link that could be one."""
    return page.meta["next_page_url"] or page.query.link(page.query.page + 1, page.query.token)


def set_next(page: Page, link: str) -> None:
    """Set the next link."""
    page.meta["next_page_url"] = link


def move_link(page: Page, **parts: Any) -> None:
    """Change parts of the next link's address."""
    set_next(page, urlsplit(link_from(page))._replace(**parts).geturl())


def loop(page: Page, _: Knobs) -> None:
    """Let the next link repeat itself."""
    set_next(page, page.meta["url"])


def loop_long(page: Page, _: Knobs) -> None:
    """Let the second page lead back to the first."""
    set_next(page, page.meta["first_page_url"])


def foreign_host(page: Page, knobs: Knobs) -> None:
    """Name another host, or the target set."""
    target = urlsplit(knobs.target or f"//{ELSEWHERE}")
    move_link(page, netloc=target.netloc, scheme=target.scheme or urlsplit(page.query.base).scheme)


def foreign_scheme(page: Page, _: Knobs) -> None:
    """Name the other scheme."""
    move_link(page, scheme="http" if page.query.base.startswith("https") else "https")


def foreign_port(page: Page, _: Knobs) -> None:
    """Name another port of the same host."""
    here = urlsplit(page.query.base)
    move_link(page, netloc=f"{here.hostname}:{(here.port or 80) ^ 1}")


def foreign_path(page: Page, _: Knobs) -> None:
    """Leave the service's path."""
    move_link(page, path=f"/v1/Services/IS{STRANGER}/Bindings")


def userinfo_link(page: Page, _: Knobs) -> None:
    """Put somebody's name in front of the host."""
    move_link(page, netloc=f"mallory:secret@{urlsplit(page.query.base).netloc}")


def relative_link(page: Page, _: Knobs) -> None:
    """Give path and query only, as the 2010 API does (docs/api.md §2.1), but on the last page."""
    if page.meta["next_page_url"]:
        move_link(page, scheme="", netloc="")


def real_host_link(page: Page, _: Knobs) -> None:
    """Name the API's public host, as behind a proxy (docs/api.md §2.8)."""
    home = urlsplit(HOME)
    move_link(page, scheme=home.scheme, netloc=home.netloc)


def empty_next(page: Page, _: Knobs) -> None:
    """End with an empty string in place of null (docs/api.md §2.2)."""
    page.meta["next_page_url"] = page.meta["next_page_url"] or ""


def missing_next(page: Page, _: Knobs) -> None:
    """End without the key (docs/api.md §2.2)."""
    if page.meta["next_page_url"] is None:
        del page.meta["next_page_url"]


def empty_page(page: Page, _: Knobs) -> None:
    """Show nothing and lead on to the rows of this page under a new token."""
    query = page.query
    place = read_token(query.path, query.token or "")
    if place and place.position and page.rows:
        page.rows = []
        set_next(
            page, query.link(query.page + 1, write_token(query.path, place.position, "closed"))
        )


def trailing_empty_page(page: Page, _: Knobs) -> None:
    """Follow a full last page by an empty one (docs/api.md §2.2)."""
    if page.rows and page.end and page.meta["next_page_url"] is None:
        set_next(page, page.query.link(page.query.page + 1, write_token(page.query.path, page.end)))


# The page as a whole.


def no_rows(page: Page, _: Knobs) -> None:
    """Show nothing and end (docs/api.md §2.4, §9.1)."""
    page.rows = []
    page.meta["next_page_url"] = None


def hidden_row(page: Page, _: Knobs) -> None:
    """Leave out the first row, as when rows move while they are read (docs/api.md §2.6)."""
    page.rows = page.rows[1:]


def duplicate_rows(page: Page, _: Knobs) -> None:
    """Show the next page's first row here too (docs/api.md §2.6)."""
    page.rows += [page.peek] if page.peek else []


def without(member: str, page: Page, _: Knobs) -> None:
    """Leave a member of the body out."""
    page.members.remove(member)


def arrange(members: tuple[str, ...], page: Page, _: Knobs) -> None:
    """Give the members in this order (docs/api.md §1.2)."""
    page.members = [member for member in members if member in page.members]


def list_not_array(page: Page, _: Knobs) -> None:
    """Give an object where the list should be."""
    page.rows, page.brackets = [], b"{}"


def renamed_key(page: Page, _: Knobs) -> None:
    """Put the list under another key and say so in `meta.key` (docs/api.md §1.2)."""
    page.key = page.meta["key"] = "items"


def token_only_style(page: Page, _: Knobs) -> None:
    """Page in the newer style, by token and without addresses (docs/api.md §2.7)."""
    token = (page.meta["next_page_url"] or "").partition("PageToken=")[2] or None
    size = page.meta["page_size"]
    page.meta = {"key": page.key, "pageSize": size, "nextToken": token, "previousToken": None}


# Single rows.


def each_row(page: Page, _: Knobs) -> None:
    """Add a field to every row that is not known today."""
    page.rows = [text[:-1] + b', "device": {"model": "phone", "os": 17.2}}' for text in page.rows]


def middle_row(change: Callable[[dict[str, Any]], Any], page: Page, _: Knobs) -> None:
    """Spoil the row in the middle of the page."""
    if page.rows:
        middle = len(page.rows) // 2
        row = json.loads(page.rows[middle])
        page.rows[middle] = json.dumps(change(row) if isinstance(row, dict) else row).encode()


def with_field(field: str, value: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Set one field."""
    return row | {field: value}


def without_sid(row: dict[str, Any]) -> dict[str, Any]:
    """Leave the SID out."""
    return {field: value for field, value in row.items() if field != "sid"}


def with_nul(row: dict[str, Any]) -> dict[str, Any]:
    """Put a NUL into the identity, which some engines cannot hold."""
    return row | {"identity": f"nul\x00{row.get('identity')}"}


def as_text(row: dict[str, Any]) -> str:
    """Give a string in place of the row."""
    return str(row.get("sid"))


def spoiled(change: Callable[[dict[str, Any]], Any]) -> Callable[[Page, Knobs], None]:
    """Make an effect of a change to one row."""
    return partial(middle_row, change)


def setting(field: str, value: Any) -> Callable[[Page, Knobs], None]:
    """Make an effect of one field's value."""
    return spoiled(partial(with_field, field, value))


# On the wire.


def sent(manner: Literal["cut", "reset", "trickle", "huge"], reply: Reply, knobs: Knobs) -> Reply:
    """Send the body in a manner of its own."""
    return replace(reply, manner=manner, seconds=knobs.seconds)


def late(reply: Reply, knobs: Knobs) -> Reply:
    """Send the body after a while."""
    return replace(reply, seconds=knobs.seconds)


def wordless(reply: Reply, _: Knobs) -> Reply:
    """Leave the body of an error out."""
    return reply if reply.status == 200 else Reply(reply.status, b"", reply.headers)


def bad_gzip(reply: Reply, _: Knobs) -> Reply:
    """Send a compressed body that is damaged behind the ten bytes of its header."""
    packed = bytearray(gzip.compress(reply.body))
    packed[10:12] = b"\xff\xff"
    return with_headers(replace(reply, body=bytes(packed)), {"content-encoding": "gzip"})


EFFECTS: dict[str, Effect] = {
    "throttle": Instead("429 with code 20429, no Retry-After", partial(refuse, 20429)),
    "throttle-retry-after": Instead("429 with Retry-After in seconds", throttle_for_seconds),
    "throttle-retry-date": Instead("429 with Retry-After as a date", throttle_until_date),
    "error-500": Instead("500 with code 20500", partial(refuse, 20500)),
    "error-500-html": Instead(
        "500 with a page for people", partial(show, 500, "500 Internal Server Error")
    ),
    "error-502": Instead("502 with a page for people", partial(show, 502, "502 Bad Gateway")),
    "error-503": Instead("503 with code 20503", partial(refuse, 20503)),
    "error-504-html": Instead(
        "504 with a page for people", partial(show, 504, "504 Gateway Time-out")
    ),
    "empty-503": Instead("503 with an empty body", lambda _: Reply(503)),
    "timeout-408": Instead(
        "408 with a page for people", partial(show, 408, "408 Request Time-out")
    ),
    "unauthorized": Instead("401 with code 20003", partial(refuse, 20003)),
    "suspended": Instead("401 with code 20003: the account is suspended", suspend),
    "permission": Instead(
        "401 with code 70051: the key lacks the permission", partial(refuse, 70051)
    ),
    "forbidden": Instead("403 with code 20006", partial(refuse, 20006)),
    "service-404": Instead("404 with code 20404: the service is gone", partial(refuse, 20404)),
    "odd-401": Instead(
        "a single 401 in the middle of a listing", partial(refuse, 20003), later_pages, 1
    ),
    "odd-404": Instead(
        "a single 404 in the middle of a listing", partial(refuse, 20404), later_pages, 1
    ),
    "token-expired": Instead(
        "400 with code 21481 on any page token", partial(refuse, 21481), token_pages
    ),
    "empty-404": Instead("404 with an empty body", lambda _: Reply(404)),
    "gateway-404": Instead("404 with a gateway's words in JSON", stray),
    "redirect": Instead("302 to another host", redirect),
    "html-200": Instead(
        "200 with a page for people: a captive portal", partial(show, 200, "Welcome! Please log in")
    ),
    "loop": Edit("the next link repeats itself", loop),
    "loop-long": Edit("the second page leads back to the first", loop_long, later_pages),
    "foreign-host": Edit("the next link names another host", foreign_host),
    "foreign-scheme": Edit("the next link names another scheme", foreign_scheme),
    "foreign-port": Edit("the next link names another port", foreign_port),
    "foreign-path": Edit("the next link leaves the service's path", foreign_path),
    "userinfo-link": Edit("the next link holds user and password", userinfo_link),
    "relative-link": Edit("the next link has no scheme and host", relative_link),
    "real-host-link": Edit("the next link names the API's public host", real_host_link),
    "empty-next": Edit("the last page's next link is an empty string", empty_next),
    "missing-next": Edit("the last page has no next link at all", missing_next),
    "empty-page": Edit("every other page is empty and leads on", empty_page, odd_pages),
    "trailing-empty-page": Edit("an empty page follows the last full one", trailing_empty_page),
    "empty-service": Edit("no rows and no next link where there are rows", no_rows),
    "hidden-row": Edit("the first row is left out, though it exists", hidden_row),
    "token-empty": Edit("no rows and no next link on any page token", no_rows, token_pages),
    "duplicate-rows": Edit("a row is shown on two pages", duplicate_rows),
    "no-list": Edit("the list is missing", partial(without, "list")),
    "no-meta": Edit("`meta` is missing", partial(without, "meta")),
    "list-not-array": Edit("the list is an object", list_not_array),
    "meta-first": Edit("`meta` comes before the list", partial(arrange, ("meta", "list"))),
    "meta-last": Edit("`meta` comes after the list", partial(arrange, ("list", "meta"))),
    "renamed-key": Edit("the list is under the key `items`, and `meta.key` says so", renamed_key),
    "token-only-style": Edit("`meta` holds tokens and no addresses", token_only_style),
    "unknown-field": Edit("every row has a field not known today", each_row),
    "bad-sid": Edit("a row's SID is malformed", setting("sid", "BSnot-a-sid")),
    "missing-sid": Edit("a row has no SID", spoiled(without_sid)),
    "bad-date": Edit(
        "a row's date cannot be read", setting("date_updated", "yesterday, about noon")
    ),
    "bad-message-types": Edit(
        "a row's message_types are no list", setting("message_types", {"new_message": True})
    ),
    "foreign-service-row": Edit(
        "a row is of another service", setting("chat_service_sid", f"IS{STRANGER}")
    ),
    "foreign-account-row": Edit(
        "a row is of another account", setting("account_sid", f"AC{STRANGER}")
    ),
    "not-an-object": Edit("a row is a string", spoiled(as_text)),
    "nul-text": Edit("a row's identity holds a NUL", spoiled(with_nul)),
    "empty-errors": Wire("whatever is no 200 has an empty body", wordless),
    "slow": Wire("the answer comes late", late),
    "trickle": Wire("the body comes byte by byte", partial(sent, "trickle")),
    "cut-body": Wire("the body is shorter than its Content-Length", partial(sent, "cut")),
    "reset": Wire("the connection is reset in the middle of the body", partial(sent, "reset")),
    "bad-gzip": Wire("the body is damaged gzip", bad_gzip),
    "huge": Wire("the body is larger than 64 MB", partial(sent, "huge")),
}
