"""What one chain reads, and whom it meets, page by page."""

from collections.abc import Iterator, Sequence

import msgspec

from etl.domain.chains import ChainStart, keys_of
from etl.domain.wire import Page
from etl.sync.chain import Chain, Pile
from etl.sync.steps import StoredChain
from etl.twilio.paging import FetchedPage


def row(number: int, version: int = 0) -> bytes:
    """Return a binding as it comes."""
    return msgspec.json.encode({"sid": f"BS{number:032x}", "version": version})


def pages(*numbers: Sequence[int]) -> list[FetchedPage]:
    """Return pages of rows, each with a link to the next one."""
    bodies = [[row(one) for one in page] for page in numbers]
    last = len(bodies) - 1
    return [
        FetchedPage(Page(rows, None, None), f"link-{index + 1}" if index < last else None)
        for index, rows in enumerate(bodies)
    ]


def opened(number: int, begin: int, first: list[FetchedPage]) -> Chain:
    """Return a chain that has read its first page."""
    chain = Chain(number, f"remembered-{begin}", begin)
    next(chain.read(iter(first), lambda _: iter(())))
    return chain


def read(chain: Chain, listed: list[FetchedPage], *ahead: Chain) -> list[list[bytes]]:
    """Return the rows that are this chain's own, page by page."""

    def nearest_first(rows: int) -> Iterator[Chain]:
        return (one for one in ahead if chain.may_meet(one, rows))

    return [fetched.page.rows for fetched in chain.read(iter(listed), nearest_first)]


def rows(*numbers: int) -> list[bytes]:
    """Return rows."""
    return [row(one) for one in numbers]


def test_a_chain_ends_where_another_one_began() -> None:
    """Were it to read on, all chains but the last would be read for nothing."""
    second = opened(1, 4, pages([4, 5, 6, 7]))
    first = Chain(0, None, 0)
    own = read(first, pages([0, 1], [2, 3, 4, 5], [6, 7, 8]), second)
    assert own == [rows(0, 1), rows(2, 3)]
    assert (first.met, first.met_after) == (second, 4)


def test_where_the_rest_is_short_one_page_more_is_read() -> None:
    """One row that is equal proves nothing, and giving up at a page's edge would meet nobody."""
    second = opened(1, 3, pages([3, 4, 5, 6]))
    first = Chain(0, None, 0)
    assert read(first, pages([0, 1, 2, 3], [4, 5, 6, 7]), second) == [rows(0, 1, 2), rows(7)]
    assert (first.met, first.met_after) == (second, 3)


def test_a_page_that_only_begins_alike_is_kept() -> None:
    """What was held back while it was not clear must not be lost."""
    second = opened(1, 3, pages([3, 9, 5, 6]))
    first = Chain(0, None, 0)
    listed = [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert read(first, pages(*listed), second) == [rows(*numbers) for numbers in listed]
    assert first.met is None


def test_the_end_may_come_while_it_is_not_clear() -> None:
    """The last rows must not be lost."""
    second = opened(1, 3, pages([3, 4, 5, 6]))
    first = Chain(0, None, 0)
    assert read(first, pages([0, 1, 2, 3]), second) == [rows(0, 1, 2, 3)]
    assert first.met is None


def test_nobody_is_met_too_early() -> None:
    """A server that answers each link alike would end the listing after its first page."""
    second = opened(1, 40, pages([0, 1, 2, 3]))
    first = Chain(0, None, 0)
    assert read(first, pages([0, 1, 2, 3]), second) == [rows(0, 1, 2, 3)]
    assert first.met is None


def test_a_chain_that_began_elsewhere_is_passed_by() -> None:
    """The next one is met in its place."""
    astray, third = opened(1, 4, pages([90, 91, 92])), opened(2, 8, pages([8, 9, 10, 11]))
    first = Chain(0, None, 0)
    own = read(first, pages([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12]), astray, third)
    assert own == [rows(0, 1, 2, 3), rows(4, 5, 6, 7), []]
    assert first.met is third


def test_a_row_that_changed_meanwhile_is_the_same_row_and_is_kept() -> None:
    """It was read later here than by the chain that began with it."""
    second = opened(1, 2, pages([2, 3, 4, 5]))
    listed = pages([0, 1, 2, 3], [4, 5])
    listed[0].page.rows[3] = row(3, version=1)
    first = Chain(0, None, 0)
    assert read(first, listed, second) == [[*rows(0, 1), row(3, version=1)]]
    assert first.met is second


def resumed(number: int, begin: int, first: list[int], link: str, rows_read: int) -> Chain:
    """Return a chain that another reading began, and this one goes on with."""
    start = ChainStart(begin, link, keys_of([row(one) for one in first]))
    return Chain.resume(StoredChain(number, start, rows_read))


def test_a_chain_that_goes_on_is_met_where_it_once_began() -> None:
    """Met where it goes on, what it had read before would be read twice; met nowhere, all of it."""
    second = resumed(1, 4, [4, 5, 6, 7], "link-8", 4)
    next(second.read(iter(pages([8, 9, 10, 11])), lambda _: iter(())))
    assert (second.rows, second.begin) == (4, 4)
    first = Chain(0, None, 0)
    own = read(first, pages([0, 1], [2, 3, 4, 5], [6, 7, 8]), second)
    assert first.met is second
    # How its first rows looked then is not known; so as they look now they are read once more.
    assert own == [rows(0, 1), rows(2, 3, 4, 5)]


def test_a_chain_whose_link_is_not_known_to_be_good_is_not_met() -> None:
    """The rest of what it should read would be missing."""
    second = resumed(1, 4, [4, 5, 6, 7], "link-8", 4)
    second.opened.set()  # as when its link was refused
    first = Chain(0, None, 0)
    assert read(first, pages([0, 1], [2, 3, 4, 5], [6, 7]), second) == [
        rows(0, 1),
        rows(2, 3, 4, 5),
        rows(6, 7),
    ]
    assert first.met is None


def test_nothing_goes_on_behind_a_meeting() -> None:
    """Resumed there, a chain would leave out the rows that it left to the one it met."""
    second = opened(1, 3, pages([3, 4, 5, 6]))
    first = Chain(0, None, 0)
    listed = [*pages([0, 1, 2, 3], [4, 5, 6, 7]), *pages([8])]
    pile = Pile(first, 2)
    for fetched in first.read(iter(listed), lambda _: iter([second])):
        pile.add(fetched)
    batch = pile.take()
    assert (batch.pages, batch.next_link, batch.start) == (2, None, None)


def test_a_batch_tells_how_its_chain_began() -> None:
    """Stored without it, nobody could meet the chain after a kill."""
    chain = Chain(1, "remembered", 10)
    pile = Pile(chain, 2)
    for fetched in chain.read(iter(pages([10, 11], [12, 13])), lambda _: iter(())):
        pile.add(fetched)
    start = ChainStart(10, "remembered", keys_of(rows(10, 11)))
    assert pile.take().start == start
    again = resumed(1, 10, [10, 11], "link-1", 2)
    assert again.start == start._replace(link="link-1")


def test_links_of_pages_are_sampled_but_for_the_one_it_began_at() -> None:
    """A link that is remembered again and again would outlive any token."""
    chain = Chain(1, "remembered", 10)
    read(chain, pages([10, 11], [12, 13], [14]))
    assert chain.sample.links == [(2, "link-1"), (4, "link-2")]
    assert (chain.rows, chain.last_link) == (5, "link-2")


def test_what_came_to_the_end_is_read_without_what_is_known() -> None:
    """Rows that did not change would be counted as seen twice."""
    chain = Chain(0, None, 0)
    read(chain, pages([0, 1], [2, 3]))
    again = chain.read_on(iter(pages([2, 3, 4], [5])))
    assert [fetched.page.rows for fetched in again] == [rows(4), rows(5)]
