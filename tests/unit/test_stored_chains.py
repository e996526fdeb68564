"""Which chains of an interrupted reading can go on."""

from msgspec.structs import replace

from etl.sync.stored_chains import encode_keys, find_chains
from etl.warehouse.ledger import Progress

FIRST = Progress(7, "https://host/B?PageToken=a", 3, 300, rows_before=100, rows_read=50)


def apart(rows_before: int, keys: list[str]) -> Progress:
    """Return what is stored of a chain."""
    return Progress(
        -1, f"https://host/{rows_before}", 3, 300, rows_before, 20, first_page=encode_keys(keys)
    )


def test_chains_go_on_in_the_order_of_the_listing() -> None:
    """A chain would wait for one that lies behind it, or pass it by."""
    found = find_chains(FIRST, {1: apart(900, ["BS3"]), 4: apart(500, ["BS1", "BS2"])})
    assert [(one.number, one.start, one.rows_read) for one in found] == [
        (4, (500, "https://host/500", ["BS1", "BS2"]), 20),
        (1, (900, "https://host/900", ["BS3"]), 20),
    ]


def test_what_was_damaged_is_left_out() -> None:
    """Somebody may have changed the table by hand; the chain before it reads on."""
    good = apart(500, ["BS1"])
    damaged = {
        1: replace(good, first_page=None),
        2: replace(good, first_page="not JSON"),
        3: replace(good, first_page='{"a": 1}'),
        4: replace(good, first_page="[1, 2]"),
        5: replace(good, first_page="[]"),
        6: replace(good, rows_before=100),
        7: replace(good, rows_before=-5),
        8: good,
        9: good,
    }
    assert [one.number for one in find_chains(FIRST, damaged)] == [8]
