"""Signals: how often, and after what, they end a command (docs/commands.md)."""

import signal
import subprocess
import sys

import pytest

ASK = """
import os, signal, time
from etl.cli.signals import listening_to_signals
from etl.stopping import Stop

stop = Stop({deadline})
with listening_to_signals(stop):
    for number in {signals}:
        os.kill(os.getpid(), number)
    while not stop.requested or {lingering}:
        time.sleep(0.01)
    print("alive", flush=True)
    os._exit(0)
"""


def ask(
    deadline: float | None, *signals: signal.Signals, lingering: bool
) -> "subprocess.CompletedProcess[str]":
    """A process that sends itself signals, and goes on until it is to stop, or (`lingering`) until it is ended."""
    program = ASK.format(
        deadline=deadline, lingering=lingering, signals=[int(number) for number in signals]
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("deadline", [None, 0.0])
def test_the_second_signal_ends_at_once(deadline: float | None) -> None:
    """Also when it was the deadline that asked first: an operator at the terminal must be able to end it."""
    first = ask(deadline, signal.SIGINT, lingering=False)
    assert (first.returncode, first.stdout) == (0, "alive\n")
    second = ask(deadline, signal.SIGINT, signal.SIGTERM, lingering=True)
    assert (second.returncode, second.stdout) == (143, "")
