"""What an interrupted reading by several chains has left, and which of its chains can go on."""

from collections.abc import Mapping, Sequence

import msgspec

from etl.domain.chains import ChainStart
from etl.sync.steps import StoredChain
from etl.warehouse.ledger import Progress

_decode_keys = msgspec.json.Decoder(list[str]).decode


def encode_keys(keys: Sequence[str]) -> str:
    """Return the text by which the first page of a chain is stored."""
    return msgspec.json.encode(keys).decode()


def find_chains(first: Progress, apart: Mapping[int, Progress]) -> list[StoredChain]:
    """Return the chains that go on behind the first one, in the order of the listing.

    Left out is what somebody has damaged: the chain before it then reads on.
    """
    found: list[StoredChain] = []
    begin = first.rows_before
    for number, line in sorted(apart.items(), key=lambda one: one[1].rows_before):
        keys = _read_keys(line.first_page)
        if keys and line.rows_before > begin:
            begin = line.rows_before
            start = ChainStart(begin, line.next_link, keys)
            found.append(StoredChain(number, start, line.rows_read))
    return found


def _read_keys(first_page: str | None) -> list[str]:
    try:
        return _decode_keys(first_page or "[]")
    except msgspec.DecodeError:
        return []
