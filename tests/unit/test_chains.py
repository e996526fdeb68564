"""Where a listing is cut, and when two chains meet: pure rules (docs/chains.md)."""

import itertools

import pytest

from etl.domain.chains import (
    Cut,
    LinkSample,
    Overlap,
    PageLink,
    compare_with_start,
    has_read_enough,
    keys_of,
    spread,
)


def links(*positions: int, page_size: int = 100) -> list[PageLink]:
    """Return links of pages that began behind so many rows."""
    return [PageLink(rows, page_size, f"link-{rows}") for rows in positions]


def positions(found: list[PageLink]) -> list[int]:
    """Return where links lead."""
    return [one.rows_before for one in found]


def test_a_listing_is_cut_into_equal_parts() -> None:
    """Were one part twice as long as the others, it would take the whole reading twice as long."""
    every_page = links(*range(100, 40_000, 100))
    remembered = spread(every_page, 40_000)
    assert len(remembered) == 63
    starts = positions(Cut(remembered, 8).starts)
    assert starts == [5000, 10_000, 15_000, 20_000, 25_000, 30_000, 35_000]


def test_a_short_listing_is_remembered_whole() -> None:
    """Every page of it is a place to cut at."""
    assert positions(spread(links(100, 200, 300), 350)) == [100, 200, 300]


@pytest.mark.parametrize("rows", [0, 50, 100])
def test_one_page_is_not_cut(rows: int) -> None:
    """There is nothing behind it."""
    assert spread(links(100), rows) == []


def test_parts_are_not_shorter_than_two_pages() -> None:
    """Each meeting costs a page; a part of one page would be read twice for nothing."""
    assert positions(Cut(links(100, 200, 300, 400), 5).starts) == [200]


def test_what_lies_behind_the_place_to_resume_at_is_cut() -> None:
    """A reading that goes on must not start a chain in what it has."""
    found = positions(Cut(links(*range(100, 1000, 100)), 3, begin=400).starts)
    assert found == [600, 800]


def test_links_that_say_nonsense_cut_nothing() -> None:
    """Somebody may have changed the table by hand."""
    assert Cut(links(-100, 0), 4).starts == []
    assert Cut([], 4).starts == []


def test_what_is_left_of_a_part_is_cut_in_its_middle() -> None:
    """A place that is free would stay so while the longest part is read by one chain."""
    cut = Cut(links(*range(100, 2000, 100)), 2)
    assert positions(cut.starts) == [1000]
    taken = [cut.take_middle(1200, 2000) for _ in range(3)]
    assert [one and one.rows_before for one in taken] == [1600, 1500, 1700]
    assert cut.take_middle(0, 300) is None
    assert cut.take_middle(950, 1300) is None


def test_a_sample_stays_small_and_even() -> None:
    """A million pages must not fill the memory, nor may only the first ones be kept."""
    sample = LinkSample()
    for page in range(5_000):
        sample.add(page * 100, str(page))
    rows = [before for before, _ in sample.links]
    assert 256 <= len(rows) <= 512
    assert len({after - before for before, after in itertools.pairwise(rows)}) == 1
    assert rows[-1] > 450_000


START = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("rest", "overlap"),
    [
        (["a", "b"], Overlap.MEETS),
        (["a", "b", "c", "d", "e"], Overlap.MEETS),
        (["a"], Overlap.SHORT),
        (["a", "c"], Overlap.NONE),
        (["b", "c"], Overlap.NONE),
        (["a", "b", "d"], Overlap.NONE),
        (["a", "b", "c", "d"][::-1], Overlap.NONE),
    ],
)
def test_half_a_page_has_to_be_equal(rest: list[str], overlap: Overlap) -> None:
    """One row alone may stand anywhere; rows in another order are another place."""
    assert compare_with_start(rest, START, 2) is overlap


def test_a_start_of_less_than_half_a_page_is_met_by_nobody() -> None:
    """It proves too little; whoever reads on comes to the end by itself."""
    assert compare_with_start(["a", "b"], ["a"], 2) is Overlap.NONE


@pytest.mark.parametrize(("rows", "enough"), [(0, False), (49, False), (50, True), (200, True)])
def test_half_of_what_lay_between_has_to_be_read(rows: int, enough: bool) -> None:
    """A server that ignores tokens answers every link with the first page, which equals itself."""
    assert has_read_enough(rows, 100) is enough


def test_rows_are_told_apart_by_sid_or_else_by_all_they_are() -> None:
    """A row that is updated while it is read is the same row; one without a SID has nothing else."""
    sid = "BS" + "a" * 32
    first, nameless, odd = keys_of(
        [b'{"sid":"%s","a":1}' % sid.encode(), b'{"a":"Zoe"}', b'{"sid":"Zoe"}']
    )
    assert first == sid
    # They are stored, and a row may name somebody.
    assert len({nameless, odd, *keys_of([b'{"a":"Mia"}'])}) == 3
    assert "Zoe" not in nameless + odd
