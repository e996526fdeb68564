"""What a person sees while a run goes on: progress on a terminal, nothing but log lines elsewhere."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from etl.cli.progress import describe_time_left
from etl.domain.counters import Counters
from etl.domain.scope import Scope
from etl.sync.outcome import ScanOutcome
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Scenario

MakeScenario = Callable[..., Scenario]

SHOWN = r"1 page 10 rows [\d,]+ rows/s services +0/1 \S+"


class Terminal:
    """A terminal that remembers what it showed, for a process whose standard error it is."""

    def __init__(self, awaited: str) -> None:
        self._awaited = re.compile(awaited)
        self.shown = threading.Event()
        self.text = ""

    def watch(self, command: list[str]) -> int:
        """Run a command to its end; gives its exit code."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=slave, env={**os.environ, "COLUMNS": "200"}
        )
        os.close(slave)
        reader = threading.Thread(target=self._read, args=(master,))
        reader.start()
        code = process.wait()
        reader.join()
        os.close(master)
        return code

    def _read(self, master: int) -> None:
        # The end of a terminal whose other side is closed is an error, not an empty read.
        try:
            while chunk := os.read(master, 65536):
                self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", chunk.decode("utf-8", "replace"))
                if self._awaited.search(self.text):
                    self.shown.set()
        except OSError:
            return


def watch_first_page(scenario: Scenario, awaited: str) -> Terminal:
    """A sync on a terminal; its second page is kept back until the terminal shows what is awaited of the first one."""
    terminal = Terminal(awaited)

    def keep_back(request: Request) -> None:
        if request.is_listing and request.page == 1:
            terminal.shown.wait(timeout=120)

    scenario.interceptor.watch = keep_back
    scenario.settings["retry"]["timeout_seconds"] = 300
    scenario.write_config()
    command = [
        sys.executable,
        "-m",
        "etl",
        "--log-level",
        "warning",
        "sync",
        "--config",
        str(scenario.config_path),
    ]
    assert terminal.watch(command) == 0, terminal.text
    scenario.interceptor.watch = None
    return terminal


def test_a_terminal_shows_pages_rows_speed_and_the_time_left_once_the_size_is_known(
    make_scenario: MakeScenario,
) -> None:
    """Whoever started a long load by hand has to see that it moves, and when it may be done."""
    scenario = make_scenario((40,), max_page_size=10)
    first = watch_first_page(scenario, SHOWN)
    assert first.shown.is_set(), first.text
    assert " left" not in first.text
    again = watch_first_page(scenario, SHOWN + r" +\d+:\d\d:\d\d left")
    assert again.shown.is_set(), again.text


def test_elsewhere_there_is_nothing_but_log_lines(scenario: Scenario) -> None:
    """A progress bar in cron's mail or in a log collector is litter."""
    process = scenario.start("sync", "--json")
    result = scenario.wait_for(process)
    assert "run.finished" in [json.loads(line)["event"] for line in result.err.splitlines()]


@pytest.mark.parametrize(
    ("scans", "told"),
    [
        ([], ""),
        ([(None, 10, False)], ""),
        ([(1000, 100, False)], "0:00:09 left"),
        ([(1000, 100, False), (None, 0, False)], ""),
        ([(1000, 100, False), (None, 50, True)], "0:00:09 left"),
        ([(1000, 1200, False), (500, 0, False)], "0:00:05 left"),
        ([(7_200_000, 0, False)], "20:00:00 left"),
    ],
)
def test_the_time_left_counts_what_is_still_to_be_read(
    scans: list[tuple[int | None, int, bool]], told: str
) -> None:
    """A guess where nothing is known would be believed; a service that has grown must not give time back."""
    outcomes = [
        ScanOutcome(
            Scope("main", f"IS{number:032x}"),
            expected=expected,
            counters=Counters(fetched=fetched),
            ended=ended,
        )
        for number, (expected, fetched, ended) in enumerate(scans)
    ]
    assert describe_time_left(outcomes, 100.0) == told
