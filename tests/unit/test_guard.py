"""The guard before the deletes (docs/promises.md §3)."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.domain.guard import Absence, Guard, Sample, Verdict, draw_sample, judge, weigh

GONE, ALIVE, UNKNOWN = Absence.GONE, Absence.ALIVE, Absence.UNKNOWN


@pytest.mark.parametrize(
    ("absent", "active", "refused"),
    [
        (0, 0, False),
        (0, 1000, False),
        (20, 20, False),
        (20, 100, False),
        (21, 105, False),
        (21, 104, True),
        (21, 21, True),
        (200, 1000, False),
        (201, 1000, True),
        (1000, 1000, True),
    ],
)
def test_both_limits_must_be_exceeded(absent: int, active: int, refused: bool) -> None:
    """At the limit is not beyond it: a guard off by one refuses ordinary days or lets a disaster pass."""
    assert Guard(max_fraction=0.2, min_rows=20).refuses(absent, active) is refused


@pytest.mark.parametrize("percent", range(101))
def test_exactly_the_share_is_never_refused(percent: int) -> None:
    """0.29 of 100 is 28.999… to a computer; the operator's 29 % must hold all the same."""
    guard = Guard(percent / 100, 0)
    assert not guard.refuses(percent, 100)
    assert not guard.refuses(percent * 7, 700)
    assert percent == 100 or guard.refuses(percent + 1, 100)


def test_the_extremes_of_the_share_mean_what_they_say() -> None:
    """0 refuses every delete beyond min_rows, 1 refuses none."""
    assert Guard(0, 0).refuses(1, 1_000_000)
    assert not Guard(1, 0).refuses(1_000_000, 1_000_000)
    assert not Guard(0, 20).refuses(20, 20)


@given(st.lists(st.text(max_size=4), unique=True, max_size=40), st.integers(1, 45))
def test_a_sample_is_a_part_without_repetition(absent: list[str], limit: int) -> None:
    """A SID asked for twice, or one that is not absent, would make the sample smaller than it claims."""
    sample = draw_sample(iter(absent), limit)
    assert len(sample.sids) == len(set(sample.sids)) == min(limit, len(absent))
    assert set(sample.sids) <= set(absent)
    assert (sample.size, sample.is_part) == (len(absent), limit < len(absent))


@given(st.lists(st.text(max_size=4), unique=True, max_size=40))
def test_few_enough_are_all_asked(absent: list[str]) -> None:
    """Up to the limit the answers are for all; leaving one out would delete it unasked."""
    assert draw_sample(absent, max(1, len(absent))) == Sample(tuple(absent), len(absent))


def test_the_sample_is_even() -> None:
    """A sample that favours the first rows would never meet the living ones of the last page."""
    random.seed(4711)
    drawn: Counter[str] = Counter()
    for _ in range(4000):
        drawn.update(draw_sample(map(str, range(40)), 10).sids)
    assert set(drawn) == set(map(str, range(40)))
    assert all(
        850 <= count <= 1150 for count in drawn.values()
    )  # 1000 expected, five standard deviations either way


@pytest.mark.parametrize(
    ("answers", "sampled", "verdict"),
    [
        ({}, False, Verdict(frozenset(), deletes_allowed=True)),
        ({"a": GONE, "b": GONE}, False, Verdict(frozenset(), deletes_allowed=True)),
        ({"a": GONE, "b": ALIVE}, False, Verdict(frozenset("b"), deletes_allowed=True)),
        ({"a": GONE, "b": UNKNOWN}, False, Verdict(frozenset("b"), deletes_allowed=True)),
        ({"a": ALIVE, "b": UNKNOWN}, False, Verdict(frozenset("ab"), deletes_allowed=True)),
        ({"a": GONE, "b": GONE}, True, Verdict(frozenset(), deletes_allowed=True)),
        (
            {"a": GONE, "b": ALIVE},
            True,
            Verdict(frozenset("b"), deletes_allowed=False, refused=True),
        ),
        (
            {"a": GONE, "b": UNKNOWN},
            True,
            Verdict(frozenset("b"), deletes_allowed=False, refused=False),
        ),
        (
            {"a": ALIVE, "b": UNKNOWN},
            True,
            Verdict(frozenset("ab"), deletes_allowed=False, refused=True),
        ),
    ],
)
def test_what_follows_from_the_answers(
    answers: dict[str, Absence], sampled: bool, verdict: Verdict
) -> None:
    """A living binding that is deleted is the worst that this program can do."""
    assert judge(answers, sampled=sampled) == verdict


def test_a_404_without_a_word_is_worth_what_its_path_is_worth() -> None:
    """Who trusts an empty 404 blindly believes every gateway; who never does deletes nothing behind some."""
    answers = {"a": Absence.WORDLESS, "b": GONE, "c": ALIVE, "d": UNKNOWN}
    assert weigh(answers, trusted=True) == answers | {"a": GONE}
    assert weigh(answers, trusted=False) == answers | {"a": UNKNOWN}
