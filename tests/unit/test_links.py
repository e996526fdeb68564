"""Where a next link may lead (docs/promises.md §6, docs/api.md §2.4, §2.8)."""

from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etl.errors import ForeignLink
from etl.twilio.paging import Listing, check_link

HOST = "conversations.twilio.com"
ORIGIN = f"https://{HOST}"
PATH = f"/v1/Services/IS{'a' * 32}/Bindings"
HERE = ORIGIN + PATH
LOOPBACK = "http://127.0.0.1:8000"


def follow(link: str, origin: str = ORIGIN) -> str:
    return check_link(link, f"{origin}{PATH}?PageSize=50", origin, PATH)


def sent(link: str) -> bytes:
    """What the server gets to see of a checked link: the raw target of the request."""
    return httpx.Request("GET", link).url.raw_path


@pytest.mark.parametrize(
    "link",
    [
        f"{HERE}?Page=1",
        f"{HERE}?",
        HERE,
        f"//{HOST}{PATH}?Page=1",
        f"{PATH}?Page=1",
        "?Page=1",
        "Bindings?Page=1",
    ],
)
def test_links_of_the_same_listing_are_followed(link: str) -> None:
    """Absolute and relative links name the same page; refusing one would end every scan."""
    assert follow(link).removesuffix("?Page=1").removesuffix("?") == HERE


@pytest.mark.parametrize(
    "link",
    [
        f"{ORIGIN}:443{PATH}?Page=1",
        f"HTTPS://{HOST.upper()}{PATH}?Page=1",
        f"https://{HOST}:0443{PATH}?Page=1",
    ],
)
def test_another_writing_of_the_same_place_is_followed(link: str) -> None:
    """Case of the host and the usual port written out change nothing about where it leads, nor how the origin is written there."""
    assert follow(link) == f"{HERE}?Page=1"
    assert follow(link, f"{ORIGIN}:443") == f"{ORIGIN}:443{PATH}?Page=1"


@pytest.mark.parametrize(
    "token",
    [
        "PTMGf9a4",
        "PTclosed_2024-01-18T03:17:17.005Z_CHa09ace",
        "PTeyJwYWdlT2Zmc2V0IjoxfQ==",
        "a.b:c_d=e+f/g%2Fh%2fi~j",
        "%7E%7e%2B%20%zz%",
        "a%00b%0D%0A",
        "http://evil.example/../..//x?y",
        "a;b,c!d$e'f(g)h*i@j[k]",
        "x&Identity=a%2Bb%40c&BindingType=apn&BindingType=fcm",
    ],
)
@pytest.mark.parametrize(
    "base",
    [HERE, PATH, "", f"{ORIGIN}:443{PATH}", f"https://conversations.dublin.ie1.twilio.com{PATH}"],
)
def test_a_token_arrives_as_it_was_given(base: str, token: str) -> None:
    """A damaged token brings an empty 200 (docs/api.md §2.4): all behind it would be deleted."""
    query = f"PageSize=50&Page=1&PageToken={token}"
    assert sent(follow(f"{base}?{query}")) == f"{PATH}?{query}".encode()


@given(st.text("abcXYZ019.:_=+/%~-&?!$'()*,;@", max_size=60))
@example("%")
def test_any_query_arrives_as_it_was_given(query: str) -> None:
    """The link is the server's own text; rebuilding it has broken two public clients."""
    assert sent(follow(f"{HERE}?Page=1&{query}")) == f"{PATH}?Page=1&{query}".encode()


def test_a_fragment_is_no_part_of_the_link() -> None:
    """It is never sent, so two links that differ in it only are the same page, and a loop over them must show."""
    assert follow(f"{HERE}?Page=1#a") == follow("?Page=1#b") == f"{HERE}?Page=1"


@pytest.mark.parametrize(
    "link",
    [
        f"http://{HOST}{PATH}?Page=1",
        f"ftp://{HOST}{PATH}",
        f"https://evil.example{PATH}",
        f"https://{HOST}.evil.example{PATH}",
        f"https://evil-{HOST}{PATH}",
        f"https://twilio.com{PATH}",
        f"https://chat.twilio.com{PATH}",
        f"https://{HOST}:444{PATH}",
        f"https://{HOST}:80{PATH}",
        f"https://{HOST}.{PATH}",
        f"//evil.example{PATH}",
        f"///evil.example{PATH}",
        f"\\\\evil.example{PATH}",
        f"/\\evil.example{PATH}",
        f"https:\\\\evil.example{PATH}",
        f"https://user@{HOST}{PATH}",
        f"https://user:pass@{HOST}{PATH}",
        f"https://{HOST}@evil.example{PATH}",
        f"https://{HOST}%40evil.example{PATH}",
        f"https://evil.example\\@{HOST}{PATH}",
        f"https://evil.example#@{HOST}{PATH}",
        f"https://evil.example?@{HOST}{PATH}",
        f"https://{HOST}\\.evil.example{PATH}",
        f"https://{HOST}%2eevil.example{PATH}",
        f"https://{HOST.replace('.', '%2e')}{PATH}",
        f"https://{HOST.replace('.', '。')}.evil.example{PATH}",
        f"https://{HOST.replace('o', 'о')}{PATH}",  # the second is Cyrillic
        f"https://{HOST.replace('c', 'ⓒ', 1)}{PATH}",
        f"https://{HOST}\u200b{PATH}",
        f"https://[::1]{PATH}",
        f"https://127.0.0.1{PATH}",
        "javascript:alert(1)",
        "data:,x",
        "mailto:ada@example.com",
        f"file://{PATH}",
    ],
)
def test_another_place_is_refused(link: str) -> None:
    """Whoever gets a request gets the key."""
    with pytest.raises(ForeignLink):
        follow(link)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/Services",
        f"{PATH}/",
        f"{PATH}//",
        f"/{PATH}",
        f"{PATH}/BS{'0' * 32}",
        f"{PATH};x",
        PATH.lower(),
        PATH.replace("IS" + "a" * 32, "IS" + "b" * 32),
        PATH.replace("/Bindings", "%2FBindings"),
        PATH.replace("Bindings", "Bind%69ngs"),
        PATH.replace("Bindings", "Users/%2e%2e/Bindings"),
        f"{PATH}/..",
        f"{PATH}/%2e%2e/Bindings",
        f"{PATH}/..%2FBindings",
        f"{PATH}%00",
        f"{PATH}%3Fx",
        f"{PATH}\\..\\Bindings",
        f"{PATH}/../../../../v2/Services",
    ],
)
@pytest.mark.parametrize("origin", [ORIGIN, ""])
def test_another_path_is_refused(origin: str, path: str) -> None:
    """Outside the service's path are other people's rows; the path counts as it is sent, not as it could be read."""
    with pytest.raises(ForeignLink):
        follow(f"{origin}{path}?Page=1")


@pytest.mark.parametrize(
    "link",
    [
        "https://[::1",
        "https://host:port/",
        f"{HERE}?a\nb",
        f"{HERE}?a\x00b",
        f"\t{HERE}",
        "?" + "a" * 70_000,
        "\ud800",
        "?\udc00",
    ],
)
def test_what_is_no_url_is_refused(link: str) -> None:
    """Any other error would be told as a fault of the program."""
    with pytest.raises(ForeignLink):
        follow(link)


@pytest.mark.parametrize(
    "link",
    [
        f"{HERE}/Users?Identity=ada",
        "https://ada:secret@evil.example/?Identity=ada",
        f"https://evil.example{PATH}?Identity=ada",
    ],
)
def test_a_refusal_repeats_nothing_of_the_link(link: str) -> None:
    """Filters hold identities, a host may be anything; and the message goes to logs and the ledger (docs/promises.md §6)."""
    with pytest.raises(ForeignLink) as refusal:
        follow(link)
    assert "ada" not in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert "evil.example" not in str(refusal.value)


# --- Twilio's own names for one API ---

DUBLIN = "https://conversations.dublin.ie1.twilio.com"


@pytest.mark.parametrize(
    ("origin", "named"),
    [(DUBLIN, ORIGIN), (ORIGIN, DUBLIN), (DUBLIN, "https://conversations.ie1.twilio.com")],
)
def test_a_link_to_the_api_s_other_name_is_followed_at_the_configured_one(
    origin: str, named: str
) -> None:
    """A region's answers may name the global host (docs/api.md §2.8), which knows no such key."""
    assert (
        follow(f"{named}{PATH}?PageSize=50&Page=1&PageToken=PTa.b:c_d%2B=", origin)
        == f"{origin}{PATH}?PageSize=50&Page=1&PageToken=PTa.b:c_d%2B="
    )


@pytest.mark.parametrize(
    "link",
    [
        f"{ORIGIN}{PATH}",
        f"{ORIGIN}{PATH}?PageSize=50",
        f"http://{HOST}{PATH}?Page=1",
        f"{ORIGIN}:444{PATH}?Page=1",
        f"{ORIGIN}/v1/Services?Page=1",
        f"https://user@{HOST}{PATH}?Page=1",
        f"https://conversations.a.b.c.twilio.com{PATH}?Page=1",
        f"https://conversations.evil.example{PATH}?Page=1",
        f"https://conversations.dublin.ie1.twilio.com.evil.example{PATH}?Page=1",
        f"https://chat.twilio.com{PATH}?Page=1",
    ],
)
def test_only_a_page_of_the_same_api_is_taken_for_a_twin(link: str) -> None:
    """The exception for regions must not become a hole."""
    with pytest.raises(ForeignLink):
        follow(link, DUBLIN)


@pytest.mark.parametrize(
    "origin", [LOOPBACK, "https://proxy.example", "https://proxy.example:8443"]
)
def test_a_link_to_the_real_host_is_refused_elsewhere(origin: str) -> None:
    """From a simulator or a proxy the real host is a foreign one: what answers there is not what is being read."""
    with pytest.raises(ForeignLink):
        follow(f"{ORIGIN}{PATH}?Page=1&PageToken=PT", origin)
    assert follow(f"{origin}{PATH}?Page=1", origin) == f"{origin}{PATH}?Page=1"


@pytest.mark.parametrize(
    "link",
    [
        "http://127.0.0.1",
        "http://127.0.0.1:8001",
        "https://127.0.0.1:8000",
        "http://localhost:8000",
        "http://127.0.0.2:8000",
        "http://[::1]:8000",
    ],
)
def test_another_loopback_place_is_refused(link: str) -> None:
    """On one machine, another port is another program."""
    with pytest.raises(ForeignLink):
        follow(f"{link}{PATH}?Page=1", LOOPBACK)


# --- whatever comes ---

places = [
    HOST,
    HOST.upper(),
    DUBLIN,
    ORIGIN,
    PATH,
    HERE,
    "evil.example",
    "user",
    "::1",
    "443",
    "80",
]
signs = [
    "https:",
    "http:",
    "//",
    "/",
    "\\",
    "@",
    ":",
    "?",
    "#",
    "..",
    "%2e",
    "%2F",
    "%5c",
    "[",
    "]",
    "&",
    ";",
    "。",
    "\u2100",
    "\t",
    "\n",
    " ",
]
pieces = st.sampled_from([*places, *signs, "Page=1", "PageToken=x"])


@given(
    st.lists(pieces | st.characters(), max_size=8).map("".join),
    st.sampled_from([ORIGIN, DUBLIN, LOOPBACK, f"{ORIGIN}:443", "https://[::1]:8443"]),
)
def test_a_link_leads_home_or_nowhere(link: str, origin: str) -> None:
    """However two libraries read a URL, both must see the configured scheme, host, port and path in what is sent."""
    try:
        followed = follow(link, origin)
    except ForeignLink:
        return
    home, seen, asked = urlsplit(origin), urlsplit(followed), httpx.URL(followed)
    standard = {"https": 443, "http": 80}[home.scheme]
    assert (seen.scheme, seen.hostname, seen.port or standard, seen.path) == (
        home.scheme,
        home.hostname,
        home.port or standard,
        PATH,
    )
    assert (asked.scheme, asked.host, asked.port or standard, asked.path) == (
        home.scheme,
        home.hostname,
        home.port or standard,
        PATH,
    )
    assert asked.raw_path.partition(b"?")[0] == PATH.encode()
    assert (seen.username, seen.password, seen.fragment, asked.userinfo) == (None, None, "", b"")
    assert follow(followed, origin) == followed


# --- the first link ---


def test_the_first_link_repeats_keys_and_escapes_values() -> None:
    """Identities are e-mail addresses; a bare `+` would ask for another one, and find nothing."""
    listing = Listing(
        PATH,
        "bindings",
        (("BindingType", "apn"), ("BindingType", "fcm"), ("Identity", "a+b@c.d&PageSize=1 ü")),
    )
    link = listing.first_link(ORIGIN, 100)
    assert (
        link
        == f"{HERE}?PageSize=100&BindingType=apn&BindingType=fcm&Identity=a%2Bb%40c.d%26PageSize%3D1%20%C3%BC"
    )
    assert follow(link) == link
