"""Turns between the scans of a run."""

import threading
from functools import partial

from etl.sync.turns import Turns
from tests.acceptance.trial import wait_until


def test_of_those_who_wait_the_first_to_join_goes_first() -> None:
    """Whoever began first has to end first, so that its publishing overlaps the reading of the others."""
    turns = Turns()
    ranks = [turns.join() for _ in range(4)]
    order: list[int] = []

    def take(rank: int) -> None:
        with turns.turn(rank):
            order.append(rank)

    def waiting(number: int) -> bool:
        return len(turns._waiting) == number

    threads = [threading.Thread(target=take, args=(rank,)) for rank in reversed(ranks[1:])]
    with turns.turn(ranks[0]):
        for number, thread in enumerate(threads, start=1):
            thread.start()
            wait_until(partial(waiting, number))
        assert order == []
    for thread in threads:
        thread.join()
    assert order == ranks[1:]


def test_nobody_waits_for_ever_for_one_who_hangs() -> None:
    """A warehouse that keeps one scan waiting must not stop the services that it would serve."""
    turns = Turns()
    hanging, other = turns.join(), turns.join()
    passed = threading.Event()

    def take() -> None:
        with turns.turn(other):
            passed.set()

    with turns.turn(hanging):
        thread = threading.Thread(target=take)
        thread.start()
        assert passed.wait(timeout=30)
    thread.join()


def test_a_turn_that_fails_is_given_back() -> None:
    """An error in one batch must not cost the others a second each."""
    turns = Turns()
    rank = turns.join()
    try:
        with turns.turn(rank):
            raise ValueError
    except ValueError:
        pass
    assert turns._taken == 0
