"""Which account reads a service that several can read, and which keys open the wrong account."""

from typing import Any

import pytest

from etl.config import Account
from etl.domain.service import Service, decode_services
from etl.errors import ConfigurationError
from etl.sync.claims import Claims, group_by_owner, require_own_key

ONE, TWO = "IS" + "1" * 32, "IS" + "2" * 32
HERE, THERE = "AC" + "a" * 32, "AC" + "b" * 32


def account(name: str, account_sid: str = HERE, services: Any = "all") -> Account:
    return Account(name=name, account_sid=account_sid, auth_token="token", services=services)  # type: ignore[arg-type]


def test_of_several_that_find_a_service_the_first_of_the_file_reads_it() -> None:
    """Were it left to chance, rows would change hands from run to run."""
    claims = Claims([account("first"), account("second")], {})
    assert claims.reader_of(ONE, {"second": [ONE], "first": [ONE]}) == "first"
    assert claims.reader_of(ONE, {"second": [ONE], "first": []}) == "second"
    assert claims.reader_of(ONE, {"second": [ONE]}) == "second"


def test_a_list_wins_over_all() -> None:
    """Whoever names a service has said more than whoever takes what there is."""
    claims = Claims([account("first"), account("second", services=[ONE])], {ONE: "first"})
    assert claims.reader_of(ONE, {"first": [ONE]}) == "second"


@pytest.mark.parametrize(
    ("found", "reader"),
    [
        ({"first": [ONE], "second": [ONE]}, "second"),
        ({"first": [ONE]}, "second"),
        ({"first": [ONE], "second": []}, "first"),
    ],
    ids=["found by both", "not asked", "not found any more"],
)
def test_who_has_read_it_before_goes_on(found: dict[str, list[str]], reader: str) -> None:
    """A failure of one account must not hand its rows to another one."""
    claims = Claims([account("first"), account("second")], {ONE: "second"})
    assert claims.reader_of(ONE, found) == reader


@pytest.mark.parametrize(
    "others",
    [
        [],
        [account("before", services=[TWO])],
        [account("before", account_sid=THERE)],
    ],
    ids=["not configured", "reads other services", "another account"],
)
def test_who_cannot_read_it_any_more_hands_it_on(others: list[Account]) -> None:
    """A service of an account that left the configuration must not stay unread."""
    claims = Claims([*others, account("today")], {ONE: "before"})
    assert claims.reader_of(ONE, {"today": [ONE]}) == "today"


def test_blocks_of_one_account_are_asked_together() -> None:
    """Apart, none of them would know what the other finds."""
    groups = group_by_owner([account("a"), account("b", THERE), account("c")])
    assert sorted([one.name for one in group] for group in groups) == [["a", "c"], ["b"]]


def test_a_key_of_another_configured_account_is_refused() -> None:
    """A copied line would load one account's rows under the name of another."""
    right, wrong = account("right"), account("wrong", THERE)
    found = [Service(ONE, HERE)]
    require_own_key(right, found, [wrong, right])
    with pytest.raises(ConfigurationError, match=f"wrong opens {HERE}, which is account right"):
        require_own_key(wrong, found, [wrong, right])
    require_own_key(wrong, [Service(ONE), Service(TWO, THERE)], [wrong, right])


def test_a_service_is_decoded_as_far_as_it_can_be() -> None:
    """A name of an odd shape must not hide a service from every run."""
    rows = [
        b'{"sid": "IS1", "account_sid": "AC1", "friendly_name": "Shop\\u0000"}',
        b'{"sid": "IS2", "friendly_name": 7}',
        b'{"sid": "IS3", "friendly_name": "\\ud800"}',
        b'{"sid": null}',
    ]
    assert decode_services(rows) == [
        Service("IS1", "AC1", "Shop"),
        Service("IS2"),
        Service("IS3"),
        None,
    ]
