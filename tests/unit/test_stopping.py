"""The wish to stop, and what it ends."""

import threading
import time

import pytest

from etl.errors import Interrupted
from etl.stopping import Stop

FOR_EVER = 3600.0


def test_nothing_stops_unasked() -> None:
    """A run without deadline goes on until it is done."""
    stop = Stop()
    stop.check()
    stop.sleep(0)
    assert not stop.requested


def test_a_request_stops_with_its_reason_and_code() -> None:
    """The exit code tells a scheduler which signal it was."""
    stop = Stop()
    stop.request("SIGTERM was received", 143)
    assert (stop.requested, stop.reason, stop.exit_code) == (True, "SIGTERM was received", 143)
    with pytest.raises(Interrupted, match="SIGTERM was received"):
        stop.check()


def test_the_first_reason_stands() -> None:
    """A deadline that passes while a signal is obeyed must not change the exit code."""
    stop = Stop(deadline_seconds=FOR_EVER)
    stop.request("SIGINT was received", 130)
    stop.request("run.deadline_seconds was reached")
    assert (stop.reason, stop.exit_code) == ("SIGINT was received", 130)


def test_a_dry_run_that_stops_tells_of_nothing_committed() -> None:
    """A plan commits nothing and nothing goes on from it; saying otherwise would frighten whoever only wanted to look."""
    stop = Stop(dry_run=True)
    stop.request("asked to")
    with pytest.raises(Interrupted, match="asked to; nothing was written$"):
        stop.check()


def test_a_deadline_stops_by_itself() -> None:
    """`run.deadline_seconds` must hold although nobody asks."""
    stop = Stop(deadline_seconds=0)
    assert stop.requested
    assert "deadline" in stop.reason
    assert stop.exit_code is None


def test_a_stop_ends_a_wait() -> None:
    """A Retry-After of minutes must not keep a stopped run alive."""
    stop = Stop()
    threading.Timer(0.01, stop.request, ["asked to"]).start()
    with pytest.raises(Interrupted, match="asked to"):
        stop.sleep(FOR_EVER)


def test_a_deadline_ends_a_wait() -> None:
    """The last wait must not reach beyond the deadline."""
    with pytest.raises(Interrupted, match="deadline"):
        Stop(deadline_seconds=0.01).sleep(FOR_EVER)


def test_who_is_to_stop_does_not_begin_to_wait() -> None:
    """Each of many waits would otherwise cost a moment."""
    stop = Stop()
    stop.request("asked to")
    with pytest.raises(Interrupted):
        stop.sleep(FOR_EVER)


def test_a_wait_lasts_as_long_as_asked() -> None:
    """A wait that ends early is a retry that comes too early."""
    began = time.monotonic()
    Stop().sleep(0.02)
    assert time.monotonic() - began >= 0.02
