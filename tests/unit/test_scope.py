"""Scopes: their names, what they hold, how they are cut up."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from etl.domain.scope import KNOWN_TYPES, Scope, overlap, types_in

SERVICE = Scope("main", "IS" + "a" * 32)
MAY = datetime(2023, 5, 4, 9, 42, tzinfo=UTC)
JUNE = datetime(2023, 6, 1, tzinfo=UTC)

kinds = st.sampled_from([*KNOWN_TYPES, "sms", "facebook-messenger"])
scopes = st.builds(
    Scope,
    account=st.just("main"),
    chat_service_sid=st.integers(0, 2**64).map(lambda number: f"IS{number:032x}"),
    binding_types=st.lists(kinds, unique=True, max_size=3).map(tuple),
    identities=st.lists(st.text(max_size=5), unique=True, max_size=2).map(tuple),
)


@pytest.mark.parametrize(
    ("scope", "label"),
    [
        (SERVICE, "service"),
        (replace(SERVICE, binding_types=("apn",)), "type:apn"),
        (replace(SERVICE, binding_types=("fcm", "apn")), "type:apn,fcm"),
        (replace(SERVICE, since=MAY), "since:2023-05-04T09:42:00.000000Z"),
        (
            replace(SERVICE, binding_types=("apn",), until=JUNE),
            "type:apn until:2023-06-01T00:00:00.000000Z",
        ),
    ],
)
def test_labels_are_fixed(scope: Scope, label: str) -> None:
    """Labels are keys in the warehouse: another one after an upgrade would lose every lease and every resume link."""
    assert scope.label == label


def test_a_label_names_no_one() -> None:
    """Labels are in logs and in the ledger, where no identity may be."""
    scope = replace(SERVICE, identities=("ada@example.com", "bob"))
    assert scope.label.startswith("identity:#")
    assert not any(text in scope.label for text in ("ada", "example", "bob"))
    assert scope.label == replace(scope, identities=("bob", "ada@example.com")).label


@given(scopes, scopes)
def test_equal_labels_are_equal_filters(one: Scope, other: Scope) -> None:
    """Two filters under one label would go on at each other's stored link."""
    same = (set(one.binding_types), set(one.identities)) == (
        set(other.binding_types),
        set(other.identities),
    )
    assert (one.label == other.label) is same


@pytest.mark.parametrize("strange", ["apn,fcm", "apn identity:#0", "apn since:2020", "type:apn"])
def test_a_strange_type_cannot_pose_as_another_filter(strange: str) -> None:
    """`--type` is free text; it must not be taken for two types or for part of a label."""
    label = replace(SERVICE, binding_types=(strange,)).label
    assert label not in {
        replace(SERVICE, binding_types=("apn", "fcm")).label,
        replace(SERVICE, binding_types=("apn",)).label,
    }
    assert len(types_in(label)) == 1
    assert not overlap(label, "type:apn")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("service", "service", True),
        ("service", "type:apn", True),
        ("type:apn", "type:apn", True),
        ("type:apn", "type:fcm", False),
        ("type:apn,fcm", "type:fcm,gcm", True),
        ("type:apn,fcm", "type:gcm,twilsock", False),
        ("type:apn identity:#0123", "type:fcm identity:#0123", False),
        ("type:apn identity:#0123", "type:apn", True),
        ("identity:#0123", "identity:#4567", True),
        ("identity:#0123", "type:apn", True),
        ("since:2023-01-01T00:00:00.000000Z", "service", True),
        (
            "type:apn since:2023-01-01T00:00:00.000000Z",
            "type:apn until:2022-01-01T00:00:00.000000Z",
            True,
        ),
    ],
)
def test_only_disjoint_types_keep_two_scopes_apart(one: str, other: str, expected: bool) -> None:
    """Two runs that write the same binding at once would undo each other; two that cannot meet need not wait."""
    assert overlap(one, other) is overlap(other, one) is expected


@given(scopes, scopes)
def test_scopes_that_share_a_type_overlap(one: Scope, other: Scope) -> None:
    """The lease reads labels only; what may hold the same binding must show in them."""
    apart = bool(
        one.binding_types
        and other.binding_types
        and not set(one.binding_types) & set(other.binding_types)
    )
    assert overlap(one.label, other.label) is not apart


def test_filters_are_repeated_keys() -> None:
    """Joined by commas, the API would look for one type of that name and find nothing: everything would be absent."""
    scope = replace(SERVICE, binding_types=("apn", "fcm"), identities=("a+b@c", "d"))
    assert scope.query == [
        ("BindingType", "apn"),
        ("BindingType", "fcm"),
        ("Identity", "a+b@c"),
        ("Identity", "d"),
    ]


@given(scopes)
def test_partitions_are_disjoint_and_keep_the_rest(scope: Scope) -> None:
    """A type in two partitions is read twice; one in none is never read."""
    parts = scope.partitions()
    assert tuple(kind for part in parts for kind in part.binding_types) == (
        scope.binding_types or KNOWN_TYPES
    )
    assert {replace(part, binding_types=()) for part in parts} == {replace(scope, binding_types=())}


def test_only_an_undated_scope_may_delete() -> None:
    """A dated scan passes rows over; what it did not look at is not absent."""
    assert SERVICE.may_delete
    assert replace(SERVICE, binding_types=("apn",), identities=("a",)).may_delete
    assert not replace(SERVICE, since=MAY).may_delete
    assert not replace(SERVICE, until=MAY).may_delete


@pytest.mark.parametrize(
    ("date_updated", "held"),
    [
        ("2023-05-04 09:41:59.999999", False),
        ("2023-05-04 09:42:00.000000", True),
        ("2023-05-31 23:59:59.999999", True),
        ("2023-06-01 00:00:00.000000", False),
        (None, False),
    ],
)
def test_a_span_begins_at_since_and_ends_before_until(date_updated: str | None, held: bool) -> None:
    """Two spans end to end must hold every row once."""
    assert replace(SERVICE, since=MAY, until=JUNE).holds(date_updated) is held
    assert SERVICE.holds(date_updated)


@pytest.mark.parametrize("year", [1, 300, 999])
def test_a_span_may_begin_in_any_year(year: int) -> None:
    """Times are compared as text; a year of three digits would sort after 2023 and pass over every row."""
    assert replace(SERVICE, since=datetime(year, 1, 1, tzinfo=UTC)).holds(
        "2023-05-04 09:42:00.000000"
    )
    assert not replace(SERVICE, until=datetime(year, 1, 1, tzinfo=UTC)).holds(
        "2023-05-04 09:42:00.000000"
    )


@given(st.datetimes(), st.datetimes(), st.datetimes())
def test_spans_compare_as_times_do(moment: datetime, since: datetime, until: datetime) -> None:
    """Text that sorts otherwise than time would load the wrong rows."""
    scope = replace(SERVICE, since=since.replace(tzinfo=UTC), until=until.replace(tzinfo=UTC))
    assert scope.holds(moment.isoformat(sep=" ", timespec="microseconds")) is (
        since <= moment < until
    )
