"""How tables and sentences fit a terminal, and what a pipe gets."""

import re

import pytest

from etl.cli.screen import Part, Styled, Table, draw, plain_table, shorten

SIDS = [f"IS{letter * 8}{number:024x}" for number, letter in enumerate("abcd")]
COUNTERS = ("pages", "fetched", "inserted", "updated", "unchanged", "deleted", "rejected")


def table(numbers: tuple[int, ...] = (12, 1_200_000, 0, 5, 1_199_995, 7, 0)) -> Table:
    rows = [(sid, "service", Styled("published", "green"), *numbers) for sid in SIDS]
    headers = ("service", "scope", "status", *COUNTERS)
    return Table(headers, rows, optional=("pages", "fetched"), defaults={"scope": "service"})


def drawn(width: int, *parts: Part) -> list[str]:
    """Lines without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", draw(parts, width)).splitlines()


@pytest.mark.parametrize("width", [40, 60, 79, 80, 100, 140, 200])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    """A table that is broken in the middle of numbers cannot be read."""
    lines = drawn(width, table(), "  a sentence of many words that goes on and on " * 5)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.count("1,199,995") == len(SIDS)


def test_columns_without_a_figure_go() -> None:
    """Zeros push what happened off the screen."""
    head = drawn(140, table())[0].split()
    assert head == ["service", "status", "pages", "fetched", "updated", "unchanged", "deleted"]


def test_sids_are_whole_where_there_is_room_and_unique_where_there_is_none() -> None:
    """A whole SID can be copied to the command line; a short one must still name one service."""
    assert SIDS[0] in "\n".join(drawn(140, table()))
    narrow = drawn(80, table((12, 1_200_000, 10, 5, 1_199_995, 7, 1_000)))
    assert SIDS[0] not in "\n".join(narrow)
    assert len({line.split()[0] for line in narrow[1:]}) == len(SIDS)


def test_short_sids_grow_until_they_differ() -> None:
    """Two services of one name would be one."""
    like = [SIDS[0], SIDS[0][:12] + "f" + SIDS[0][13:]]
    assert sorted(shorten(like).values()) == sorted(sid[:13] + "…" for sid in like)
    assert shorten([]) == {}


def test_below_80_columns_the_layout_stands_upright() -> None:
    """One figure a line can be read on any terminal."""
    lines = drawn(60, table())
    assert lines[0] == SIDS[0]
    assert [line.split() for line in lines[1:4]] == [
        ["status", "published"],
        ["pages", "12"],
        ["fetched", "1,200,000"],
    ]
    assert drawn(60, Table(("table", "rows"), [("bindings", 3)]))[0].split() == ["table", "rows"]


def test_what_is_optional_goes_only_where_there_is_no_room() -> None:
    """Whoever has a wide terminal sees all there is."""
    wide = Table(("name", "more", "end"), [("n" * 50, "m" * 40, "e")], optional=("more",))
    assert "more" in drawn(140, wide)[0]
    assert "more" not in drawn(80, wide)[0]


def test_a_sentence_keeps_its_indent_when_it_is_broken() -> None:
    """Where the next fault begins is seen by the margin."""
    lines = drawn(40, "not done:\n  IS1: " + "word " * 20)
    assert lines[0] == "not done:"
    assert len(lines) > 2
    assert all(line.startswith("  ") for line in lines[1:])


def test_a_pipe_gets_plain_lines_with_every_column() -> None:
    """`cut`, `awk` and `grep` find things where they were, whatever the figures are."""
    text = draw(["a line", table(), Styled("red", "red")])
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "a line"
    assert lines[1].split() == ["service", "scope", "status", *COUNTERS]
    assert [line.split()[0] for line in lines[2:6]] == SIDS
    assert lines[6:] == ["red"]
    assert text.isascii()


def test_a_row_is_a_line_in_a_pipe() -> None:
    """A sentence with a line break must not make two rows of one."""
    assert len(plain_table(("id", "reason"), [(1, "one\ntwo\n three")]).splitlines()) == 2


def test_colours_follow_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """`NO_COLOR` and a dumb terminal are wishes of whoever sits there."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in draw([Styled("fine", "green")], 80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert draw([Styled("fine", "green")], 80) == "fine"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert draw([Styled("fine", "green")], 80) == "fine"


def test_a_table_lines_up() -> None:
    """Numbers are compared by eye, so they stand to the right."""
    assert plain_table(("name", "rows"), [("a", 5), ("long name", 1200)]).splitlines() == [
        "name        rows",
        "a              5",
        "long name  1,200",
    ]
    assert plain_table(("name", "rows"), []) == "name  rows"


def test_a_sentence_has_room_before_sids_are_whole() -> None:
    """Errors in a column as narrow as a word are read by nobody, while a SID is told apart by its beginning."""
    why = "HTTP 503, code 20503: the API is temporarily unavailable: try again later"
    told = Table(("service", "finding"), [(sid, why) for sid in SIDS], prose=("finding",))
    assert SIDS[0] in drawn(80, told)[1]
    wider = Table(("service", "name", "finding"), [(SIDS[0], "n" * 12, why)], prose=("finding",))
    assert drawn(80, wider)[1].startswith("ISaaaaaa…  nnn")


def test_a_sentence_names_services_as_the_columns_do() -> None:
    """Whole SIDs in a narrow column fill three lines; support needs the request's id whole."""
    request = "RQ" + "5" * 32
    rows = [(sid, "n" * 30, f"{sid}: it failed (request {request})") for sid in SIDS]
    table = Table(("service", "name", "error"), rows, prose=("error",))
    text = "\n".join(drawn(84, table))
    assert "ISaaaaaa…: it failed" in text
    assert SIDS[0] not in text
    assert request in text
