"""When a scan is rejected as a whole (docs/promises.md §4)."""

import pytest

from etl.domain.rejection import Rejections, common_reason, refuse_common_reason
from etl.errors import RowsRejected


def seen(taken: int, active: int = 0, **reasons: int) -> Rejections:
    """Rows taken, rows rejected by reason, and how many of the first reason are active."""
    first = next(iter(reasons), "")
    return Rejections(taken, reasons, {first: active} if active else {})


@pytest.mark.parametrize(
    ("rejections", "active", "whole", "reason"),
    [
        (seen(0, bad=11), 0, True, "bad"),
        (seen(0, bad=10), 0, True, None),
        (seen(1, bad=11), 0, True, None),
        (seen(0, bad=11, other=1), 0, True, "bad"),
        (seen(0, bad=6, other=6), 0, True, None),
        (seen(0, bad=11), 0, False, None),
        (seen(1000, 11, bad=11), 21, False, "bad"),
        (seen(1000, 11, bad=11), 22, True, None),
        (seen(1000, 10, bad=900), 10, True, None),
        (seen(0), 0, True, None),
    ],
)
def test_a_common_reason(
    rejections: Rejections, active: int, whole: bool, reason: str | None
) -> None:
    """A limit that is off by one fails good services, or calls a service fresh that holds nothing."""
    assert common_reason(rejections, active, whole=whole) == reason
    if reason is None:
        refuse_common_reason(rejections, active, whole=whole)
    else:
        with pytest.raises(RowsRejected, match=f"for one reason: {reason};"):
            refuse_common_reason(rejections, active, whole=whole)


def test_batches_add_up() -> None:
    """A service is read in many batches; what counts is their sum."""
    total = Rejections().plus(3, ["a", "b", "a"], ["a"]).plus(2, ["a"], ["a", "b"])
    assert total == Rejections(5, {"a": 3, "b": 1}, {"a": 2, "b": 1})
