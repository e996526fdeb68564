"""How many requests an account may have in flight (docs/api.md §3.4)."""

import threading
import time

import pytest

from etl.errors import Interrupted
from etl.stopping import Stop
from etl.twilio.throttle import Throttle


def test_it_begins_at_what_is_configured() -> None:
    """`concurrency` is the operator's word."""
    assert Throttle(4).limit == 4


def test_it_halves_and_never_goes_below_one() -> None:
    """Zero places would be a run that never ends."""
    throttle = Throttle(8)
    limits = []
    for _ in range(6):
        throttle.cut(time.monotonic())
        limits.append(throttle.limit)
    assert limits == [4, 2, 1, 1, 1, 1]


def test_a_burst_is_cut_once() -> None:
    """Requests under way together are refused together; counted one by one they would throttle the account to a crawl."""
    throttle = Throttle(16)
    with (
        throttle.slot(Stop()) as first,
        throttle.slot(Stop()) as second,
        throttle.slot(Stop()) as third,
    ):
        pass
    for sent_at in (first, second, third):
        throttle.cut(sent_at)
    assert throttle.limit == 8
    with throttle.slot(Stop()) as later:
        throttle.cut(later)
    assert throttle.limit == 4


def test_it_grows_back_by_one_place_per_round() -> None:
    """Growing faster than that would run into the next 429 at once, growing never would leave the run slow."""
    throttle = Throttle(4)
    throttle.cut(time.monotonic())
    throttle.cut(time.monotonic())
    successes = 0
    reached: dict[int, int] = {}
    while throttle.limit < 4 and successes < 100:
        throttle.grow()
        successes += 1
        reached.setdefault(throttle.limit, successes)
    assert reached[2] == 1
    assert 2 <= reached[3] - reached[2] <= 3
    assert 3 <= reached[4] - reached[3] <= 4


def test_it_never_grows_beyond_what_is_configured() -> None:
    """The limit is shared with the customer's live traffic."""
    throttle = Throttle(3)
    for _ in range(50):
        throttle.grow()
    assert throttle.limit == 3
    throttle.cut(time.monotonic())
    for _ in range(50):
        throttle.grow()
    assert throttle.limit == 3


def test_a_place_is_given_back_also_after_an_error() -> None:
    """A place lost with each failure would end in a run that waits for ever."""
    throttle = Throttle(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), throttle.slot(Stop()):
            raise ZeroDivisionError
    with throttle.slot(Stop()):
        pass


def test_no_more_than_the_limit_are_in_flight() -> None:
    """That is what the API counts."""
    throttle, lock = Throttle(3), threading.Lock()
    in_flight, most = 0, 0

    def fetch() -> None:
        nonlocal in_flight, most
        for _ in range(20):
            with throttle.slot(Stop()):
                with lock:
                    in_flight += 1
                    most = max(most, in_flight)
                with lock:
                    in_flight -= 1

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most <= 3


def test_a_stop_ends_the_wait_for_a_place() -> None:
    """A request that hangs must not keep the others from stopping."""
    throttle, stop = Throttle(1), Stop()
    with throttle.slot(stop):
        stop.request("asked to")
        with pytest.raises(Interrupted), throttle.slot(stop):
            pass


def test_the_highest_report_is_kept() -> None:
    """It tells the operator how near the account came to its limit."""
    throttle = Throttle(4)
    for reported in ("3", None, "12", "7"):
        throttle.report(reported)
    assert throttle.highest_seen == 12


@pytest.mark.parametrize("reported", ["", "-1", "1.5", "many", "²", "٣", "9" * 5000, " 4"])
def test_a_report_that_is_no_number_is_passed_over(reported: str) -> None:
    """The header is the server's to write; it must not be able to end the scan."""
    throttle = Throttle(4)
    throttle.report(reported)
    assert throttle.highest_seen == 0
