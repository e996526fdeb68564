"""What becomes of stored rows under other privacy rules, column by column."""

import hashlib

import pytest

from etl.domain.hiding import Treatment
from etl.domain.privacy import Fate, PrivacyRules, RulesChange, infer_rules, rules_by

KEY, OTHER = b"key", b"other"
MODES: tuple[Treatment, ...] = ("keep", "hmac", "drop")
DIGEST = hashlib.sha256(b"").hexdigest()


def change(before: Treatment, after: Treatment, key: bytes = KEY) -> RulesChange:
    return RulesChange(rules_by(before, "keep", KEY), rules_by(after, "keep", key))


@pytest.mark.parametrize("mode", MODES)
def test_the_same_rules_leave_everything(mode: Treatment) -> None:
    """A run that is refused without a reason stops for good."""
    assert change(mode, mode).is_none
    assert change(mode, mode).in_words == []
    assert change("keep", "keep", OTHER).is_none  # a key that hashes nothing


@pytest.mark.parametrize(
    ("before", "after", "fate"),
    [
        ("keep", "hmac", Fate.REWRITTEN),
        ("keep", "drop", Fate.REWRITTEN),
        ("hmac", "drop", Fate.REWRITTEN),
        ("hmac", "keep", Fate.LOST),
        ("drop", "keep", Fate.LOST),
        ("drop", "hmac", Fate.LOST),
    ],
)
def test_what_can_be_made_of_a_column(before: Treatment, after: Treatment, fate: Fate) -> None:
    """What is taken for a plain name though it is a hash becomes the hash of a hash."""
    assert change(before, after).fate("identity") is fate
    assert change(before, after).fate("endpoint") is Fate.STAYS


def test_another_key_is_known_and_not_shown() -> None:
    """Two runs by two keys hash one person twice, and the check must not be the key."""
    found = change("hmac", "hmac", OTHER)
    assert found.fate("identity") is Fate.LOST
    assert found.in_words == ["privacy.key"]
    assert KEY.decode() not in str(found.before.key_check)
    assert found.past_key_checks(frozenset()) == {found.before.key_check}
    back = RulesChange(found.after, found.before)
    assert back.past_key_checks({str(found.before.key_check)}) == {found.after.key_check}
    assert change("hmac", "drop").past_key_checks({"x"}) == frozenset()


@pytest.mark.parametrize(
    ("rows", "configured", "inferred"),
    [
        ([], PrivacyRules("hmac", "drop"), ("hmac", "drop")),
        ([("fcm", "ada", "token")], PrivacyRules("hmac", "hmac"), ("keep", "keep")),
        ([("fcm", DIGEST, DIGEST)] * 2 + [("fcm", "ada", "x")], PrivacyRules(), ("hmac", "hmac")),
        ([("fcm", None, None)], PrivacyRules(), ("drop", "drop")),
        ([("apn", "ada", DIGEST)], PrivacyRules(), ("keep", "keep")),  # a device token
        ([("apn", "ada", DIGEST)], PrivacyRules("keep", "hmac"), ("keep", "hmac")),
        ([("fcm", DIGEST, DIGEST)], PrivacyRules("hmac", "keep"), ("hmac", "keep")),
    ],
)
def test_rows_show_by_what_rules_they_were_written(
    rows: list[tuple[str | None, str | None, str | None]],
    configured: PrivacyRules,
    inferred: tuple[Treatment, Treatment],
) -> None:
    """Where nobody wrote the rules down, a changed one would else pass unseen, or a right one be refused."""
    found = infer_rules(rows, configured)
    assert (found.identity, found.endpoint, found.key_check) == (*inferred, None)
