"""Long lists, cut for statements that take only so many parameters."""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

# SQLite takes 32,766 parameters, PostgreSQL 65,535, and a statement may need a list twice.
AT_ONCE = 1_000


def portions(values: Collection[T], size: int = AT_ONCE) -> Iterator[list[T]]:
    """Yield the values in order, in lists that fit into any statement."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some
