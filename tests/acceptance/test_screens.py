"""What people see on a terminal, and that a pipe gets nothing of it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.acceptance.scenario import Scenario
from tests.acceptance.terminal import show, without_control

MakeScenario = Callable[..., Scenario]


def result_of(shown: str) -> list[str]:
    """The lines that are left on the screen, below the progress bar."""
    text = without_control(shown)
    return text[text.rindex("run ") :].splitlines()


@pytest.mark.parametrize(
    "width", [60, *(pytest.param(one, marks=pytest.mark.slow) for one in (80, 140))]
)
def test_every_screen_fits_its_terminal(make_scenario: MakeScenario, width: int) -> None:
    """Lines that the terminal breaks by itself are broken in the middle of numbers."""
    scenario = make_scenario((230, 12))
    scenario.simulator.faults.add("bad-date")
    config = ("--config", str(scenario.write_config()))
    code, shown = show(width, "sync", *config)
    assert code == 0
    lines = result_of(shown)
    assert max(map(len, lines)) <= width
    assert any("in quarantine: bindings-etl rejects list" in line for line in lines)
    for command in (("status",), ("check",), ("rejects", "list"), ("services",)):
        code, shown = show(width, *command, *config)
        assert code == 0, shown
        assert max(map(len, without_control(shown).splitlines())) <= width, shown


def test_a_terminal_shows_progress_warnings_and_the_result(make_scenario: MakeScenario) -> None:
    """Events of every service push the result off the screen; cron's log and a file still get them."""
    scenario = make_scenario((3, 3))
    config = ("--config", str(scenario.write_config()))
    _, shown = show(100, "sync", *config)
    assert "run.started" not in shown
    assert "published" in shown
    _, shown = show(100, "sync", "--log-level", "info", *config)
    assert "run.started" in shown
    _, shown = show(100, "--log-format", "json", "sync", *config)
    assert "run.started" in shown
    events = [json.loads(line)["event"] for line in scenario.run("sync").err.splitlines()]
    assert {"run.started", "scan.started", "run.finished"} <= set(events)


@pytest.mark.slow
def test_colours_are_for_terminals_that_want_them(make_scenario: MakeScenario) -> None:
    """Escape sequences in a file or a mail are litter."""
    scenario = make_scenario((3,))
    config = ("--config", str(scenario.write_config()))
    assert "\x1b[32m" in show(80, "sync", *config)[1]
    assert "\x1b[32m" not in show(80, "status", *config, environment={"NO_COLOR": "1"})[1]
    log = ("sync", "--log-level", "info", *config)
    assert "\x1b[32m" in show(80, *log)[1].partition("run.started")[0]
    for wish in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        code, shown = show(80, *log, environment=wish)
        assert (code, "run.started" in shown) == (0, True)
        assert re.search(r"\x1b\[3\dm", shown) is None
    for arguments in (["sync"], ["status"], ["check"], ["status", "--json"]):
        assert "\x1b" not in scenario.run(*arguments).out


def test_a_pipe_gets_a_line_a_row_with_whole_sids(make_scenario: MakeScenario) -> None:
    """Scripts that read the text must find each service by its SID."""
    scenario = make_scenario((3, 3))
    out = scenario.run("sync").out
    for service in scenario.services:
        [line] = [line for line in out.splitlines() if line.startswith(service.sid)]
        assert len(line.split()) == 11


@pytest.mark.slow
def test_rich_is_loaded_only_where_something_is_drawn(make_scenario: MakeScenario) -> None:
    """It costs every start from cron a tenth, and nobody looks."""
    scenario = make_scenario((3,))
    script = (
        "import sys; from etl.cli.app import run; run(sys.argv[1:]);"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('rich', 'pygments')))"
    )
    config = ("--config", str(scenario.write_config()))
    for command in ("sync", "status", "check", "services"):
        ended = subprocess.run(
            [sys.executable, "-c", script, command, *config],
            capture_output=True,
            text=True,
            check=True,
        )
        assert ended.stdout.splitlines()[-1] == "[]"
