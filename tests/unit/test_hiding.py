"""What privacy hides of a row or of a reject, wherever it stands (docs/promises.md §14)."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from etl.domain.binding import Reject, Row
from etl.domain.hiding import Hiding, Treatment
from tests.unit.test_normalize import RULES, SENT, SID, raw, shape_bytes

NAME = "Zoë O'Hara+1@x.example"
KEY = b"a key"
MODES: list[tuple[Treatment, Treatment]] = [
    ("hmac", "hmac"),
    ("drop", "drop"),
    ("hmac", "keep"),
    ("drop", "keep"),
]
hidden_by = pytest.mark.parametrize(("identity", "endpoint"), MODES)

SPELLINGS = [
    NAME,
    NAME.upper(),
    quote(NAME),
    quote(quote(NAME)),
    f"https://x.example/Users/{quote(NAME, safe='')}/Bindings",
    json.dumps({"who": NAME}),
    f"{NAME}-endpoint",
]


def spelled(text: str) -> set[str]:
    return {text, text.upper(), quote(text), quote(quote(text)), json.dumps(text)[1:-1]}


def assert_hidden(text: str, name: str = NAME) -> None:
    assert not any(spelling in text for spelling in spelled(name)), text


def shaped(
    identity: Treatment, endpoint: Treatment, sent: bytes | None = None, /, **changes: Any
) -> Row | Reject:
    rules = replace(RULES, identity=identity, endpoint=endpoint, key=KEY)
    return shape_bytes(raw(**changes) if sent is None else sent, rules)


@hidden_by
@pytest.mark.parametrize(
    "place",
    [
        lambda text: {"endpoint": text},
        lambda text: {"url": text},
        lambda text: {"device": {"of": ["x", text]}},
        lambda text: {"device": {text: 1}},
        lambda text: {"message_types": ["new_message", text]},
        lambda text: {"binding_type": text},
    ],
    ids=["endpoint", "url", "value", "name", "message_types", "binding_type"],
)
def test_a_hidden_identity_is_in_no_column(
    identity: Treatment, endpoint: Treatment, place: Any
) -> None:
    """Endpoints are made of identities, and what is hidden in one column would be read in another."""
    for spelling in SPELLINGS:
        row = shaped(identity, endpoint, identity=NAME, **place(spelling))
        assert isinstance(row, Row)
        assert_hidden(json.dumps(row, ensure_ascii=False).replace("\\\\", "\\"))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_hidden_identity_is_in_no_reject(
    spelling: str,
) -> None:
    """The quarantine is a table like any other, and raw rows stand in it."""
    reject = shaped(
        "hmac", "keep", identity=NAME, date_updated="never", url=spelling, what=[spelling]
    )
    assert isinstance(reject, Reject)
    assert_hidden(reject.payload)
    assert json.loads(reject.payload)["date_updated"] == "never"
    assert json.loads(reject.payload)["sid"] == reject.sid == SID


@hidden_by
@pytest.mark.parametrize(
    "sent",
    [
        json.dumps(NAME).encode(),
        json.dumps([{"identity": NAME}]).encode(),
        b'{"sid": "' + SID.encode() + b'", "identity": "' + NAME.encode() + b'"',
        b'{"identity": "' + NAME.encode() + b'", "x": "\xff"}',
        b'{"sid": "x", "identity": "someone", "identity": {"name": "' + NAME.encode() + b'"}}',
        json.dumps({"sid": "x", "Identity": NAME, "also": NAME}).encode(),
        json.dumps({"sid": NAME, "identity": [NAME]}).encode(),
    ],
)
def test_odd_rejects_hide_it_too(identity: Treatment, endpoint: Treatment, sent: bytes) -> None:
    """A row that is no row names people as well."""
    reject = shaped(identity, endpoint, sent)
    assert isinstance(reject, Reject)
    assert_hidden(reject.payload)
    json.loads(reject.payload)


def test_what_cannot_be_read_leaves_its_length_and_a_hash() -> None:
    """Two rows that cannot be read must stay two, and somebody has to be able to tell them apart."""
    one, other = (Hiding("drop", "drop").hide_payload(f'{{"identity": "{who}"') for who in "ab")
    assert one != other
    assert json.loads(one)["hidden"]["bytes"] == len('{"identity": "a"')


def test_a_row_that_names_nobody_elsewhere_stays_as_it_is() -> None:
    """Hiding too much would empty columns that analysts need."""
    row, kept = shaped("hmac", "keep", identity="Ada"), shaped("keep", "keep", identity="Ada")
    assert isinstance(row, Row)
    assert isinstance(kept, Row)
    assert (
        kept._replace(identity=None, endpoint=None)[:-2]
        == row._replace(identity=None, endpoint=None)[:-2]
    )


def test_a_short_name_is_looked_for_as_a_word() -> None:
    """The user 42 is not in every token that holds these digits."""
    token = "ab42cd" * 10
    row = shaped("drop", "keep", identity="42", endpoint=token, tag="42", other="142")
    assert isinstance(row, Row)
    assert (row.endpoint, row.url) == (token, SENT["url"])
    assert json.loads(row.extra or "") == {"tag": None, "other": "142"}
    linked = shaped("drop", "keep", identity="42", endpoint="42_endpoint")
    assert isinstance(linked, Row)
    assert linked.endpoint is None


def test_endpoints_that_hold_the_identity_stay_comparable_when_hashed() -> None:
    """Shared endpoints are found by equal hashes."""
    one, other = (shaped("hmac", "keep", identity="Ada", endpoint="ada-phone") for _ in range(2))
    assert isinstance(one, Row)
    assert isinstance(other, Row)
    assert one.endpoint == other.endpoint
    assert len(one.endpoint or "") == 64


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["identity", "endpoint", "sid", "url", "x"]), json_values))
def test_hiding_twice_is_hiding_once(sent: dict[str, Any]) -> None:
    """A portion that is done again after a kill must come out the same."""
    hiding = Hiding("drop", "drop")
    once = hiding.hide_payload(json.dumps(sent))
    assert hiding.hide_payload(once) == once


@given(st.text(min_size=4).filter(lambda text: text.strip()), json_values)
@example("IDEN", None)  # which stands in the name of the field
def test_no_payload_holds_the_identity(name: str, other: Any) -> None:
    """Whatever stands beside it."""
    payload = json.dumps({"identity": name, "x": [name, {"y": f"<{name}>"}], "other": 1, "z": None})
    hidden = json.loads(Hiding("drop", "drop").hide_payload(payload))
    assert hidden["identity"] is None
    assert hidden["x"][0] is None
    assert hidden["x"][1] == {"y": None}
    del other
