"""Rows as a piece of SQL, for MariaDB and MySQL: what it holds is text of strangers."""

import pytest

from etl.warehouse.engines.mariadb.literals import CONVERSIONS, Literals, as_literals


def test_rows_stand_behind_their_numbers() -> None:
    """A row at the wrong place, or a NULL that became a text, would change what is stored."""
    lines = as_literals((7, 1), [("ann", None, ""), ("100 %s", "👟", None)])
    assert lines is not None
    assert lines.sql == "(7,1,'ann',NULL,''),(7,1,'100 %s','👟',NULL)"
    assert CONVERSIONS[Literals](lines, None) == lines.sql


@pytest.mark.parametrize("text", ["O'Brien", "'", "\\", "a\\' OR 1=1 -- "])
def test_what_could_end_a_literal_is_left_to_the_driver(text: str) -> None:
    """A name with a quote would otherwise break the statement, or be run as one."""
    assert as_literals((7, 1), [("ann", "x"), ("bob", text)]) is None


def test_what_is_too_long_for_one_statement_is_left_to_the_driver() -> None:
    """The server cuts the connection at a packet that is too long, and would at every run."""
    assert as_literals((7, 1), [("é" * 400_000,)]) is not None
    assert as_literals((7, 1), [("é" * 500_000,)]) is None


def test_its_repr_shows_no_row() -> None:
    """It stands among the parameters of a statement, and those of a failed one may be printed."""
    lines = as_literals((7, 1), [("ann@example.com",)])
    assert "ann" not in repr(lines)
