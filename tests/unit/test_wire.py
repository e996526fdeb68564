"""Pages as the API sends them, and as it might (docs/api.md §1.2, §2)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.domain.slices import slice_array, slice_object
from etl.domain.wire import decode_page, decode_sids
from etl.errors import MalformedPage, NotTheApi

NEXT = "https://conversations.twilio.com/v1/Services/IS0/Bindings?PageSize=2&Page=1&PageToken=PTa.b:c_d=e"
META = {
    "key": "bindings",
    "next_page_url": NEXT,
    "page": 0,
    "page_size": 2,
    "previous_page_url": None,
    "url": "…",
}
ROWS: list[Any] = [{"sid": "BS1", "identity": "ü"}, {"sid": "BS2"}]

nested = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


def page(meta: Any = META, rows: Any = ROWS, **others: Any) -> bytes:
    return json.dumps({"meta": meta, "bindings": rows, **others}).encode()


def with_row(row: bytes) -> bytes:
    return (
        b'{"meta": {"key": "bindings"}, "bindings": [{"sid": "first"}, '
        + row
        + b', {"sid": "last"}]}'
    )


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in META.items() if key != name}


@pytest.mark.parametrize(
    "body",
    [
        page(),
        json.dumps({"bindings": ROWS, "meta": META}, indent=2).encode(),
        b"\n " + page() + b" \n",
    ],
)
def test_rows_and_link_are_found_in_any_order(body: bytes) -> None:
    """The API gives `meta` first or last; a reader that counts on one order would lose pages."""
    rows, next_link, page_size = decode_page(body, "bindings")
    assert [json.loads(row) for row in rows] == ROWS
    assert (next_link, page_size) == (NEXT, 2)


def test_the_list_is_found_under_the_key_that_meta_names() -> None:
    """Twilio's own libraries read it so; a renamed list must not look like an empty one."""
    body = json.dumps({"meta": {**META, "key": "items"}, "items": ROWS, "bindings": []}).encode()
    assert len(decode_page(body, "bindings").rows) == 2


@pytest.mark.parametrize("meta", [without("key"), {**META, "key": None}])
def test_without_a_key_the_list_goes_by_its_usual_name(meta: dict[str, Any]) -> None:
    """The key is a hint; its absence is no reason to give up."""
    assert len(decode_page(page(meta), "bindings").rows) == 2
    assert (
        len(decode_page(json.dumps({"meta": meta, "services": ROWS}).encode(), "services").rows)
        == 2
    )


@pytest.mark.parametrize(
    "meta",
    [{**META, "next_page_url": None}, {**META, "next_page_url": ""}, without("next_page_url")],
)
def test_no_next_link_is_the_end(meta: dict[str, Any]) -> None:
    """Null, empty, missing are one (docs/api.md §2.2); one taken for a link fails every scan."""
    assert decode_page(page(meta), "bindings").next_link is None


def test_an_empty_page_is_a_page() -> None:
    """An empty service is read as such, and an empty page in the middle leads on."""
    assert decode_page(page(rows=[]), "bindings") == ([], NEXT, 2)


def test_the_next_link_comes_through_untouched() -> None:
    """A token that loses a character brings an empty page with 200 (docs/api.md §2.4)."""
    link = NEXT + "%7e%2B+/..//"
    escaped = page({**META, "next_page_url": link}).replace(b"/", b"\\/")
    assert decode_page(escaped, "bindings").next_link == link


OTHER_STYLES = [
    "nextToken", "next_token", "NextPageToken", "next_page_token", "page_token", "pageToken", "next_page_uri", "nextPageUrl",
    "next", "cursor", "endCursor", "has_more", "hasNext",
]  # fmt: skip


@pytest.mark.parametrize("key", ["bindings", "services"])
@pytest.mark.parametrize("name", OTHER_STYLES)
@pytest.mark.parametrize("value", ["abc", {"href": "/"}, 7, True])
def test_another_style_of_paging_is_an_error(key: str, name: str, value: Any) -> None:
    """It must not be taken for the last page: everything behind it would be deleted."""
    meta = {"key": key, "pageSize": 50, "previousToken": None, "next_page_url": None}
    for document in (
        {"meta": {**meta, name: value}, key: ROWS},
        {"meta": meta, key: ROWS, name: value},
    ):
        with pytest.raises(MalformedPage, match="token"):
            decode_page(json.dumps(document).encode(), key)


@pytest.mark.parametrize(
    "others",
    [dict.fromkeys(OTHER_STYLES), dict.fromkeys(OTHER_STYLES, ""), {"previousToken": "x", "n": 7}],
)
def test_another_style_that_leads_nowhere_is_the_end(others: dict[str, Any]) -> None:
    """A last page may say in several ways that it is the last, and where it was come from."""
    assert (
        decode_page(page({**META, "next_page_url": None, **others}, **others), "bindings").next_link
        is None
    )


def test_another_style_beside_a_link_is_passed_over() -> None:
    """The link alone drives the paging (docs/api.md §2.2); a field beside it ends no scan."""
    assert decode_page(page({**META, "next_page_token": "x"}), "bindings").next_link == NEXT


@pytest.mark.parametrize("size", ["fifty", "100", 100.0, True, None, [], {}])
def test_a_page_size_that_is_no_number_is_passed_over(size: Any) -> None:
    """It is only advice on what to ask for, and no reason to lose a service."""
    assert decode_page(page({**META, "page_size": size}), "bindings") == (
        [json.dumps(row).encode() for row in ROWS],
        NEXT,
        None,
    )


def test_another_style_is_seen_beside_a_row_that_cannot_be_decoded() -> None:
    """The careful reader has to find what the quick one does."""
    with pytest.raises(MalformedPage, match="token"):
        decode_page(with_row(b'{"sid": "\\ud800"}')[:-1] + b', "cursor": "x"}', "bindings")


@pytest.mark.parametrize("row", [b"{}", b'"\\ud800"'])
def test_rows_without_number_are_refused(row: bytes) -> None:
    """Millions of tiny rows fit into one body, and would take the memory of the whole run."""
    with pytest.raises(MalformedPage, match="rows"):
        decode_page(
            b'{"meta": {"key": "bindings"}, "bindings": [' + row + b",{}" * 100_000 + b"]}",
            "bindings",
        )


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"null",
        b'"text"',
        b"7",
        json.dumps({"meta": META}).encode(),
        json.dumps({"bindings": ROWS}).encode(),
        page(meta=None),
        page(meta=[]),
        page(meta="meta"),
        page(rows=None),
        page(rows={}),
        page(rows={"0": ROWS[0]}),
        page(rows="rows"),
        page(rows=7),
        page({**META, "next_page_url": 7}),
        page({**META, "next_page_url": [NEXT]}),
        page({**META, "key": 7}),
        page({**META, "key": "elsewhere"}),
        page({**META, "key": "meta"}),
        json.dumps({"code": 20404, "message": "not found", "status": 404}).encode(),
    ],
)
def test_json_that_is_no_page_is_malformed(body: bytes) -> None:
    """Taken for an empty page, it would delete a whole service."""
    with pytest.raises(MalformedPage):
        decode_page(body, "bindings")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"<html><body>Welcome! Please log in</body></html>",
        b"upstream connect error",
        b"\xff\xfe\x00",
        page()[:-1],
        page()[: len(page()) // 2],
        page()[:-2],
        page() + b"}",
        page() + page(),
        b'{"meta": {"key": "bindings"}, "bindings": [{"sid": "a]}',
        b'{"meta": {"key": "bindings"}, "bindings": [{"sid": "a"]}',
    ],
)
def test_what_is_no_json_is_not_the_api(body: bytes) -> None:
    """A captive portal or half an answer is told as such, so that the operator looks in the right place."""
    with pytest.raises(NotTheApi):
        decode_page(body, "bindings")


@given(
    st.integers(0, len(page()) - 1),
    st.sampled_from([page(), page(rows=[]), with_row(b'{"sid": "BS1", "i": "\\ud800"}')]),
)
def test_a_page_that_is_cut_is_never_a_page(length: int, body: bytes) -> None:
    """A cut answer that passes for a whole one would make the rows behind the cut absent."""
    if length < len(body):
        with pytest.raises((NotTheApi, MalformedPage)):
            decode_page(body[:length], "bindings")


@pytest.mark.parametrize("style", ["deep lists", "deep objects"])
def test_nesting_without_end_costs_one_row(style: str) -> None:
    """One absurd row must not keep a whole service from being read."""
    deep = (
        b"[" * 50_000 + b"]" * 50_000
        if style == "deep lists"
        else b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    )
    rows = decode_page(with_row(b'{"sid": "BS1", "x": ' + deep + b"}"), "bindings").rows
    assert decode_sids(rows) == ["first", "BS1", "last"]


@pytest.mark.parametrize(
    "row",
    [
        b'{"sid": "BS1", "identity": "\\ud83d"}',
        b'{"identity": "half an emoji \\ud83d and on", "sid": "BS1"}',
        b'{"sid": "BS1", "identity": "\\udc00"}',
        b'{"sid": "BS1", "identity": "\xff\xfe"}',
        b'{"sid": "BS1", "identity": "bell \x07"}',
        b'{"sid": "BS1", "identity": "\\q"}',
        b'{"sid": "BS1", "size": 1e999}',
        b'{"sid": "BS1", "size": 007}',
        b'{"sid": "BS1", "\\ud800": "name"}',
        b'{"sid": "BS1", "text": "], [ } { \\" ,"}',
        b'{"\\u0073id": "BS1", "identity": "\\ud800"}',
    ],
)
def test_a_row_that_cannot_be_decoded_costs_one_row(row: bytes) -> None:
    """One bad row costs one row (docs/promises.md §4), and with its SID known it is not taken for absent."""
    rows = decode_page(with_row(row), "bindings").rows
    assert rows[1] == row
    assert decode_sids(rows) == ["first", "BS1", "last"]


@pytest.mark.parametrize(
    "row",
    [
        b'"BS1"',
        b"null",
        b"7",
        b"[]",
        b"{}",
        b'{"sid": null}',
        b'{"sid": 7}',
        b'{"sid": ["BS1"]}',
        b'{"SID": "BS1"}',
        b'{"sid": "\\ud800"}',
        b'{"sid": "\xff"}',
        b'{"sid": "BS1"',
        b'{"sid": "BS1"} {"sid": "BS2"}',
        b'{"sid": "BS1"]',
        b"",
    ],
)
def test_what_has_no_readable_sid_has_none(row: bytes) -> None:
    """A SID read out of rubbish would name the wrong row."""
    assert decode_sids([row]) == [None]


def test_of_a_sid_that_comes_twice_in_a_row_the_last_counts() -> None:
    """The quick reader and the careful one must see the same row."""
    assert decode_sids(
        [b'{"sid": "BS1", "sid": "BS2"}', b'{"sid": "BS1", "sid": "BS2", "x": "\\ud800"}']
    ) == ["BS2", "BS2"]


@given(st.lists(nested, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_slices_of_a_list_are_its_elements(
    elements: list[Any], indent: int | None, ascii_only: bool
) -> None:
    """A slice too few loses a row, one too many makes two rejects of a good one."""
    raw = json.dumps(elements, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )
    assert [json.loads(element) for element in slice_array(raw)] == elements


@given(st.dictionaries(st.text(max_size=8), nested, max_size=5), st.sampled_from([None, 1]))
def test_slices_of_an_object_are_its_members(members: dict[str, Any], indent: int | None) -> None:
    """A name or value cut in the wrong place would hide the list or the SID."""
    assert {
        name: json.loads(raw)
        for name, raw in slice_object(json.dumps(members, indent=indent).encode()).items()
    } == members


@given(st.text(alphabet='[]{},:"\\a 1', max_size=30).map(str.encode))
def test_rubbish_is_sliced_without_losing_a_byte(raw: bytes) -> None:
    """Whatever stands between the brackets belongs to some slice; a byte in none could be a row that vanishes."""
    try:
        elements = slice_array(raw)
    except ValueError:
        return
    whole = raw.strip()[1:-1]
    assert b",".join(elements).replace(b" ", b"") == whole.replace(b" ", b"")
