"""From a raw row to a row of the warehouse, or to a reject with its reason (docs/warehouse.md; docs/promises.md §4)."""

import hmac
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from etl.domain.binding import HashedRow, Reject, Row
from etl.domain.normalize import NormalizationRules, Normalizer, split

ACCOUNT = "AC" + "a1" * 16
SERVICE = "IS" + "b2" * 16
CREDENTIAL = "CR" + "c3" * 16
SID = "BS" + "d4" * 16

RULES = NormalizationRules("main", ACCOUNT, SERVICE)
SENT: dict[str, Any] = {
    "sid": SID,
    "account_sid": ACCOUNT,
    "chat_service_sid": SERVICE,
    "credential_sid": CREDENTIAL,
    "binding_type": "apn",
    "identity": "Ada Lovelace",
    "endpoint": "ada:device1",
    "message_types": ["removed_from_conversation", "new_message", "added_to_conversation"],
    "date_created": "2016-10-21T11:37:03Z",
    "date_updated": "2016-10-21T11:37:04Z",
    "url": f"https://conversations.twilio.com/v1/Services/{SERVICE}/Bindings/{SID}",
}

texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
some_hex = st.text("0123456789abcdefABCDEF", min_size=32, max_size=32)
bindings = st.fixed_dictionaries(
    {"sid": some_hex.map("BS".__add__)},
    optional={
        "account_sid": st.just(ACCOUNT) | st.none(),
        "chat_service_sid": st.just(SERVICE) | st.none(),
        "credential_sid": some_hex.map("CR".__add__) | st.none(),
        "binding_type": st.sampled_from(["apn", "fcm", "new-kind", ""]) | st.none(),
        "identity": texts | st.none(),
        "endpoint": texts | st.none(),
        "message_types": st.lists(
            st.sampled_from(["new_message", "added_to_conversation", "x"]), max_size=3
        )
        | st.none(),
        "date_created": st.datetimes().map(lambda moment: f"{moment.isoformat()}Z") | st.none(),
        "url": texts | st.none(),
        "device": st.dictionaries(texts, st.integers() | texts | st.none(), max_size=3),
        "tags": st.lists(texts, max_size=3),
    },
)


def raw(**changes: Any) -> bytes:
    return json.dumps({**SENT, **changes}).encode()


def shape_bytes(sent: bytes, rules: NormalizationRules = RULES) -> Row | Reject:
    normalizer = Normalizer(rules)
    keys, rejects = normalizer.hash_rows([sent])
    return normalizer.normalize(*keys.values()) if keys else rejects[0]


def row(sent: bytes, rules: NormalizationRules = RULES) -> Row:
    shaped = shape_bytes(sent, rules)
    assert isinstance(shaped, Row), shaped
    return shaped


def reject(sent: bytes) -> Reject:
    shaped = shape_bytes(sent)
    assert isinstance(shaped, Reject), shaped
    assert shaped.payload == sent.decode()
    return shaped


def test_a_row_in_normal_form() -> None:
    """This is the row that every analyst's query stands on."""
    shaped = row(raw())
    assert shaped._replace(content_hash="", source_hash="") == Row(
        sid=SID,
        account="main",
        account_sid=ACCOUNT,
        chat_service_sid=SERVICE,
        credential_sid=CREDENTIAL,
        binding_type="apn",
        identity="Ada Lovelace",
        endpoint="ada:device1",
        message_types='["added_to_conversation","new_message","removed_from_conversation"]',
        date_created="2016-10-21 11:37:03.000000",
        date_updated="2016-10-21 11:37:04.000000",
        url=SENT["url"],
        extra=None,
        content_hash="",
        source_hash="",
    )


@pytest.mark.parametrize(
    "field", [name for name in SENT if name not in ("sid", "chat_service_sid")]
)
def test_null_and_missing_stay_null(field: str) -> None:
    """Every field may be null (docs/api.md §1.1); an invented value or a reject would be wrong."""
    missing = json.dumps({name: value for name, value in SENT.items() if name != field}).encode()
    assert getattr(row(raw(**{field: None})), field) is None
    assert row(missing)[:-1] == row(raw(**{field: None}))[:-1]


@pytest.mark.parametrize("sent", [raw(chat_service_sid=None), json.dumps({"sid": SID}).encode()])
def test_the_service_is_never_null(sent: bytes) -> None:
    """A row without its service would be in no service's scope: never updated, never deleted."""
    assert row(sent).chat_service_sid == SERVICE


def test_all_null_is_a_row() -> None:
    """The API declares everything nullable; a row of nothing but its SID is thin, not bad."""
    shaped = row(json.dumps({**dict.fromkeys(SENT), "sid": SID}).encode())
    assert [value for value in shaped[:-2] if value is not None] == [SID, "main", SERVICE]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"account_sid": "AC" + "0" * 32}, "another account"),
        ({"account_sid": "AC123"}, "account_sid is malformed"),
        ({"account_sid": ACCOUNT + "\n"}, "account_sid is malformed"),
        ({"account_sid": ""}, "account_sid is malformed"),
        ({"account_sid": 7}, "account_sid is malformed"),
        ({"account_sid": [ACCOUNT]}, "account_sid is malformed"),
        ({"chat_service_sid": "IS" + "0" * 32}, "another service"),
        ({"chat_service_sid": "is" + "b2" * 16}, "chat_service_sid is malformed"),
        ({"chat_service_sid": False}, "chat_service_sid is malformed"),
        ({"credential_sid": "CR" + "g" * 32}, "credential_sid is malformed"),
        ({"credential_sid": SERVICE}, "credential_sid is malformed"),
        ({"credential_sid": {}}, "credential_sid is malformed"),
        ({"date_created": "yesterday, about noon"}, "date_created"),
        ({"date_updated": "2023-02-29T00:00:00Z"}, "date_updated"),
        ({"date_updated": "2023-05-04T09:42:00"}, "date_updated"),
        ({"date_updated": ""}, "date_updated"),
        ({"date_updated": 1683193320}, "date_updated"),
        ({"date_updated": "18 Dec " + "9" * 30 + " 20:02:01 +0000"}, "date_updated"),
        ({"message_types": "new_message"}, "message_types"),
        ({"message_types": {"new_message": True}}, "message_types"),
        ({"message_types": ["new_message", None]}, "message_types"),
        ({"message_types": [["new_message"]]}, "message_types"),
        ({"message_types": 0}, "message_types"),
        ({"binding_type": 5}, "binding_type"),
        ({"binding_type": "x" * 256}, "binding_type"),
        ({"identity": {"name": "Ada"}}, "identity"),
        ({"identity": 5}, "identity"),
        ({"endpoint": ["x"]}, "endpoint"),
        ({"url": True}, "url"),
        ({"identity": "nul\x00nul"}, "NUL"),
        ({"endpoint": "\x00"}, "NUL"),
        ({"message_types": ["new\x00message"]}, "NUL"),
        ({"device": {"deep": [{"er": "\x00"}]}}, "NUL"),
        ({"de\x00vice": 1}, "NUL"),
    ],
)
def test_a_bad_row_is_rejected_whole_and_with_its_sid(changes: dict[str, Any], reason: str) -> None:
    """Without its SID a reject would count as absent and its last good image be deleted."""
    rejected = reject(raw(**changes))
    assert rejected.sid == SID
    assert reason in rejected.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": 987654},
        {"endpoint": {"token": 987654}},
        {"date_created": "987654"},
        {"credential_sid": "987654"},
    ],
)
def test_a_reason_quotes_nothing(changes: dict[str, Any]) -> None:
    """Reasons are logged and shown; a value could be an identity or an endpoint."""
    assert "987654" not in reject(raw(**changes)).reason


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b'"BS1"', "not an object"),
        (b"[1, 2]", "not an object"),
        (b"null", "not an object"),
        (b"7", "not an object"),
        (b"{}", "sid"),
        (raw(sid=None), "sid"),
        (raw(sid=""), "sid"),
        (raw(sid="BSnot-a-sid"), "sid"),
        (raw(sid=SID + "0"), "sid"),
        (raw(sid=SID + "\n"), "sid"),
        (raw(sid="bs" + "d4" * 16), "sid"),
        (raw(sid="BS" + "٤" * 32), "sid"),
        (raw(sid=["BS"]), "sid"),
    ],
)
def test_a_row_without_a_sid_is_rejected_without_one(sent: bytes, reason: str) -> None:
    """Such a row may be any binding, so it must show as unreadable: then the scan proves no absence."""
    rejected = reject(sent)
    assert rejected.sid is None
    assert reason in rejected.reason


@pytest.mark.parametrize(
    ("sent", "payload"),
    [
        (b'{"sid": "%s", "identity": "\\ud83d"}' % SID.encode(), None),
        (
            b'{"sid": "%s", "identity": "\xff\xfe"}' % SID.encode(),
            f'{{"sid": "{SID}", "identity": "\\xff\\xfe"}}',
        ),
        (
            b'{"sid": "%s", "identity": "a\x00b"}' % SID.encode(),
            f'{{"sid": "{SID}", "identity": "a\\x00b"}}',
        ),
        (b'{"sid": "%s", "size": 1e9999}' % SID.encode(), None),
        (b'{"sid": "%s", "x": %s}' % (SID.encode(), b"[" * 30_000 + b"]" * 30_000), None),
        (b'{"sid": "%s", "x": %s}' % (SID.encode(), b"[" * 960 + b'"\\u0000"' + b"]" * 960), None),
    ],
    ids=[
        "half a pair",
        "not UTF-8",
        "raw NUL",
        "number out of range",
        "nested too deep",
        "NUL deep inside",
    ],
)
def test_what_no_engine_can_hold_is_rejected_by_name(sent: bytes, payload: str | None) -> None:
    """One row that breaks the decoder or the engine must cost one row, and its payload must fit into every quarantine."""
    rejected = shape_bytes(sent)
    assert isinstance(rejected, Reject)
    assert rejected.sid == SID
    assert rejected.payload == (payload or sent.decode())
    assert "\x00" not in rejected.payload
    rejected.payload.encode()


def test_an_escaped_backslash_is_no_nul() -> None:
    """The quick look for NUL sees text; what it finds must be looked at again before a good row is refused."""
    assert row(raw(identity="a \\u0000 b")).identity == "a \\u0000 b"


def test_upper_case_hexadecimal_is_a_sid() -> None:
    """The API's own pattern takes it (docs/api.md §1.1); in another case it is another SID."""
    shaped = row(raw(sid="BS" + "ABCDEF01" * 4, credential_sid="CR" + "ABCDEF01" * 4))
    assert (shaped.sid, shaped.credential_sid) == ("BS" + "ABCDEF01" * 4, "CR" + "ABCDEF01" * 4)
    assert (
        len(Normalizer(RULES).hash_rows([raw(sid="BS" + "A" * 32), raw(sid="BS" + "a" * 32)])[0])
        == 2
    )


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("APN", "apn"),
        ("TwilSock", "twilsock"),
        ("facebook-messenger", "facebook-messenger"),
        ("", ""),
    ],
)
def test_binding_types_are_lower_case_and_open(sent: str, stored: str) -> None:
    """twilsock came without notice (docs/api.md §1.3); the next new type must load too."""
    assert row(raw(binding_type=sent)).binding_type == stored


def test_identity_and_endpoint_are_kept_to_the_letter() -> None:
    """Identities are case-sensitive and of any length; one that is trimmed is somebody else."""
    long = " Ünïcode 😀 " + "x" * 100_000
    shaped = row(raw(identity=long, endpoint=long))
    assert shaped.identity == shaped.endpoint == long


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ([], "[]"),
        (None, None),
        (
            ["Twilio.Channel.ADDED_TO_CHANNEL ", "new_message", "new_message"],
            '["added_to_conversation","new_message"]',
        ),
        (["schön"], '["schön"]'),
    ],
)
def test_message_types_are_a_set_as_json(sent: Any, stored: str | None) -> None:
    """Null and empty say different things, and views take the text apart as JSON."""
    assert row(raw(message_types=sent)).message_types == stored


def test_legacy_names_are_kept_where_the_rules_say_so() -> None:
    """`legacy_message_types: keep` is an operator's choice."""
    kept = replace(RULES, map_legacy=False)
    assert (
        row(raw(message_types=["added_to_channel"]), kept).message_types == '["added_to_channel"]'
    )


def test_the_cache_of_message_types_never_changes_a_result() -> None:
    """A hostile service with ever new sets must neither fill the memory nor get another row's set."""
    normalizer = Normalizer(RULES)
    keys, _ = normalizer.hash_rows(
        [raw(sid=f"BS{number:032x}", message_types=[f"m{number % 1500}"]) for number in range(3000)]
    )
    for number, key in enumerate(keys.values()):
        shaped = normalizer.normalize(key)
        assert isinstance(shaped, Row)
        assert shaped.message_types == f'["m{number % 1500}"]'


def test_unknown_fields_go_into_extra() -> None:
    """A field that Twilio adds tomorrow must not be lost, nor its order count as a change."""
    one = row(
        raw(device={"os": 17.2, "model": "phone"}, tags=["b", "a"], count=2**70, nothing=None)
    )
    other = row(
        json.dumps(
            {
                "nothing": None,
                "tags": ["b", "a"],
                "count": 2**70,
                "device": {"model": "phone", "os": 17.2},
                **SENT,
            }
        ).encode()
    )
    assert json.loads(one.extra or "") == {
        "device": {"os": 17.2, "model": "phone"},
        "tags": ["b", "a"],
        "count": 2**70,
        "nothing": None,
    }
    assert (one.extra, one.content_hash) == (other.extra, other.content_hash)


NUMBERS = (
    "1.10", "-0.0", "-0", "0.1234567890123456789012345", "1E3", "1e400", "1.5e-7", "0e-999", "12345678901234567890123",
)  # fmt: skip


@pytest.mark.parametrize("number", [*NUMBERS, "9" * 1000])
@pytest.mark.parametrize("around", ["%s", '{"deep": [%s, null]}'])
def test_a_number_of_an_unknown_field_stays_as_it_was_sent(number: str, around: str) -> None:
    """An amount, a version or a long id that comes back changed is wrong data."""
    shaped = row(raw()[:-1] + b', "x": %s}' % (around % number).encode())
    assert shaped.extra == '{"x":%s}' % (around.replace(" ", "") % number)


@pytest.mark.parametrize("number", ["1e1001", "-1.0E-1001", "9" * 1001, "0." + "0" * 999])
def test_a_number_that_no_engine_needs_to_hold_is_rejected(number: str) -> None:
    """PostgreSQL refuses numbers that are long enough, and one would fail its whole batch there."""
    rejected = shape_bytes(raw()[:-1] + b', "x": [%s]}' % number.encode())
    assert isinstance(rejected, Reject)
    assert "a number has more than 1000 digits" in rejected.reason


def test_a_number_that_is_written_otherwise_is_a_change() -> None:
    """What the content hash does not see is never stored again."""
    hashes = {
        row(raw()[:-1] + b', "x": %s}' % number).content_hash
        for number in (b"1.1", b"1.10", b"11e-1")
    }
    assert len(hashes) == 3


def test_how_an_unknown_field_is_laid_out_is_no_change() -> None:
    """Blanks, escapes and the order of names differ between answers and mean nothing."""
    one = row(raw()[:-1] + b', "y": null, "x": {"a": "\\u00e9\\/", "b": [1.10,2]}}')
    other = row(raw()[:-1] + ', "x" : { "b":[ 1.10, 2 ], "a": "é/" }, "y":null}'.encode())
    assert one.extra == '{"x":{"a":"é/","b":[1.10,2]},"y":null}'
    assert (one.extra, one.content_hash) == (other.extra, other.content_hash)


def test_of_a_name_that_comes_twice_in_a_row_the_last_counts() -> None:
    """`jsonb` keeps the last; another choice elsewhere would make the engine part of the result."""
    shaped = row(raw()[:-1] + b', "x": 1, "x": {"a": 1.0, "a": 2.0}, "identity": "last"}')
    assert (shaped.extra, shaped.identity) == ('{"x":{"a":2.0}}', "last")


@given(bindings)
def test_an_unknown_field_changes_nothing_else(sent: dict[str, Any]) -> None:
    """Rows of known fields only are read in a quicker way; it must see the same row."""
    known = {name: value for name, value in sent.items() if name not in {"device", "tags"}}
    quick, careful = (
        row(json.dumps(known).encode()),
        row(json.dumps({**known, "device": "\\u0000"}).encode()),
    )
    assert careful._replace(extra=None)[:-2] == quick[:-2]
    assert careful.content_hash != quick.content_hash


def test_privacy_keeps_hashes_or_drops() -> None:
    """What an operator wants hashed or dropped must be in no column, and equal values must stay equal for counting."""
    hashed = replace(RULES, identity="hmac", endpoint="hmac", key=b"key")
    one, other = row(raw(endpoint="Ada Lovelace"), hashed), row(raw(identity="Bob"), hashed)
    assert one.identity == one.endpoint == hmac.new(b"key", b"Ada Lovelace", "sha256").hexdigest()
    assert one.identity != other.identity
    assert row(raw(), replace(hashed, key=b"other")).identity != one.identity
    assert row(raw(identity=None), hashed).identity is None
    assert "Ada" not in repr(one)
    dropped = row(raw(), replace(RULES, identity="drop", endpoint="drop"))
    assert (dropped.identity, dropped.endpoint) == (None, None)
    assert "Ada" not in repr(dropped)


def test_of_a_sid_that_comes_twice_the_last_counts() -> None:
    """Rows may move between pages while they are read; the later reading is the truer one."""
    keys, rejects = Normalizer(RULES).hash_rows(
        [raw(identity="first"), raw(sid="BS" + "0" * 32), raw(identity="last")]
    )
    assert rejects == []
    assert set(keys) == {SID, "BS" + "0" * 32}
    assert json.loads(keys[SID].raw)["identity"] == "last"


def test_bad_rows_leave_the_others_alone() -> None:
    """One bad row costs one row (docs/promises.md §4)."""
    normalizer = Normalizer(RULES)
    keys, unreadable = normalizer.hash_rows(
        [raw(sid="BS" + "1" * 32), b"{}", raw(date_created="?"), raw(sid="BS" + "2" * 32), b"null"]
    )
    rows, rejects = split(normalizer.normalize(key) for key in keys.values())
    assert [shaped.sid for shaped in rows] == ["BS" + "1" * 32, "BS" + "2" * 32]
    assert ([one.sid for one in rejects], len(unreadable)) == ([SID], 2)


@given(bindings, st.randoms(use_true_random=False), st.sampled_from([None, 2]), st.booleans())
def test_other_bytes_of_the_same_content_have_the_same_hash(
    sent: dict[str, Any], order: random.Random, indent: int | None, ascii_only: bool
) -> None:
    """If spacing, order or escapes counted, a change of the API's encoder would rewrite the whole warehouse."""
    names = list(sent)
    order.shuffle(names)
    again = {name: sent[name] for name in names}
    if again.get("message_types"):
        again["message_types"] = [
            f" Twilio.Channel.{name.upper()}" for name in reversed(again["message_types"])
        ] * 2
    rewritten = json.dumps(again, indent=indent, ensure_ascii=ascii_only).encode()
    one, other = row(json.dumps(sent).encode()), row(rewritten)
    assert one[:-1] == other[:-1]


@given(bindings, bindings)
def test_the_content_hash_is_equal_exactly_when_the_content_is(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """A hash that misses a change loses it for ever; one that sees a change where none is rewrites for nothing."""
    left, right = row(json.dumps(one).encode()), row(json.dumps({**one, **other}).encode())
    assert (left.content_hash == right.content_hash) is (left[:-2] == right[:-2])


@pytest.mark.parametrize("field", [*SENT, "something_new"])
def test_every_field_counts_in_the_content_hash(field: str) -> None:
    """A column outside the hash would never be updated."""
    others = {
        "sid": "BS" + "0" * 32,
        "account_sid": None,
        "credential_sid": None,
        "message_types": ["new_message"],
    }
    others |= {"date_created": "2020-01-01T00:00:00Z", "date_updated": None}
    changed = row(
        raw(**{field: others.get(field, "other")}) if field != "chat_service_sid" else raw(), RULES
    )
    if field == "chat_service_sid":
        changed = row(raw(chat_service_sid=None), replace(RULES, chat_service_sid="IS" + "0" * 32))
    assert changed.content_hash != row(raw()).content_hash


@pytest.mark.parametrize(
    "other",
    [
        replace(RULES, account="other"),
        replace(RULES, account_sid="AC" + "0" * 32),
        replace(RULES, chat_service_sid="IS" + "0" * 32),
        replace(RULES, map_legacy=False),
        replace(RULES, identity="drop"),
        replace(RULES, endpoint="drop"),
        replace(RULES, identity="hmac", key=b"key"),
        replace(RULES, key=b"key"),
    ],
)
def test_the_source_hash_depends_on_every_rule(other: NormalizationRules) -> None:
    """A row is not looked into while its source hash stands; after a change of rules the old form would stay for ever."""

    def source_hash(rules: NormalizationRules) -> str:
        return Normalizer(rules).hash_rows([raw()])[0][SID].source_hash

    assert source_hash(other) != source_hash(RULES) == source_hash(replace(RULES))


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_the_source_hash_depends_on_every_byte(one: bytes, other: bytes) -> None:
    """Bytes that differ under one source hash would be a change that is never seen."""

    def source_hash(junk: bytes) -> str:
        return (
            Normalizer(RULES)
            .hash_rows([raw()[:-1] + b', "x": "' + junk.hex().encode() + b'"}'])[0][SID]
            .source_hash
        )

    assert (source_hash(one) == source_hash(other)) is (one == other)


def test_the_content_hash_is_the_same_in_every_process() -> None:
    """It is stored: one that depends on the process, or on the release, would make a run rewrite everything."""
    assert row(raw()).content_hash == "820b1f13756e04130cfdc5465f19a1dc"


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\ud0sBS1', max_size=60).map(str.encode))
def test_any_bytes_give_a_row_or_a_reject(sent: bytes) -> None:
    """An error in place of a reject would end the scan of a whole service."""
    shaped = shape_bytes(sent)
    assert isinstance(shaped, Row | Reject)


def test_a_key_may_be_shaped_more_than_once() -> None:
    """A retried transaction shapes the same keys again."""
    normalizer = Normalizer(RULES)
    key = HashedRow(SID, "hash", raw())
    assert normalizer.normalize(key) == normalizer.normalize(key)
