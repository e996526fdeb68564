"""What comes out where, and what becomes of a command whose output nobody takes (docs/commands.md)."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.scenario import Scenario
from tests.acceptance.test_exit_codes import assert_shape

PROGRAM = f"{sys.executable} -m etl"
SERVICE = "IS" + "0" * 32


def shell(scenario: Scenario, line: str) -> "subprocess.CompletedProcess[str]":
    """A command line of a real shell, with `$ETL` for the program."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env={**os.environ, "ETL": PROGRAM, "BINDINGS_ETL_CONFIG": str(scenario.write_config())},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
    )


# --- streams that are lost ---


@pytest.mark.parametrize(
    "line",
    [
        "$ETL sync 2>/dev/full",
        pytest.param("$ETL sync 2> >(exit 0)", marks=pytest.mark.slow),
        pytest.param("$ETL sync 2>&-", marks=pytest.mark.slow),
        pytest.param("$ETL sync >&-", marks=pytest.mark.slow),
        pytest.param("$ETL sync >&- 2>&-", marks=pytest.mark.slow),
        "$ETL sync <&- >&- 2>&-",
        "$ETL sync 2>&1 | head -c 1",
        "$ETL sync --log-level debug 2>&1 | true",
    ],
)
def test_what_a_run_does_is_not_decided_by_who_listens(
    make_scenario: Callable[..., Scenario], line: str
) -> None:
    """A full disk under the log would stop every sync, and each would be left as running."""
    scenario = make_scenario((30, 12))
    ended = shell(scenario, line)
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
    assert [run["status"] for run in scenario.query("SELECT status FROM sync_runs")] == [
        "succeeded"
    ]
    scenario.assert_equal_to_world()


@pytest.mark.parametrize("options", ["", "--json", "--json --log-format json"])
def test_a_result_that_cannot_be_written_is_told_in_a_sentence(
    make_scenario: Callable[..., Scenario], options: str
) -> None:
    """Whoever waits for the result has to learn why there is none; the run itself is done and in the ledger."""
    scenario = make_scenario((30, 12))
    ended = shell(scenario, f"$ETL sync {options} >/dev/full")
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr.splitlines()[-1]
    assert "fault of bindings-etl itself" not in ended.stderr
    assert [run["status"] for run in scenario.query("SELECT status FROM sync_runs")] == [
        "succeeded"
    ]
    scenario.assert_equal_to_world()


@pytest.mark.parametrize(
    "line",
    [
        "$ETL sync --json >&-",
        pytest.param("$ETL sync --json >&- 2>&-", marks=pytest.mark.slow),
        "$ETL sync --json | true",
        "$ETL sync --json >/dev/full",
        pytest.param("$ETL sync --json --log-format json >&-", marks=pytest.mark.slow),
    ],
)
def test_an_object_that_nobody_gets_ends_with_1(
    make_scenario: Callable[..., Scenario], line: str
) -> None:
    """A program that waits for the result would take an exit code of 0 for a result of nothing."""
    scenario = make_scenario((30, 12))
    ended = shell(scenario, line)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "2>&-" in line or "could not be written" in ended.stderr.splitlines()[-1]
    assert [run["status"] for run in scenario.query("SELECT status FROM sync_runs")] == [
        "succeeded"
    ]
    scenario.assert_equal_to_world()


@pytest.mark.parametrize("command", ["status", "check", "rejects list", "rejects discard"])
def test_an_object_of_what_watches_is_delivered_or_missed(scenario: Scenario, command: str) -> None:
    """A dashboard that gets nothing must not be told that all is well."""
    ended = shell(scenario, f"$ETL {command} --json >&-")
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)
    assert "could not be written" in ended.stderr


@pytest.mark.parametrize("where", [">&-", "| true", ">/dev/full"])
def test_a_lost_object_does_not_hide_why_a_run_failed(scenario: Scenario, where: str) -> None:
    """Of two faults, that of the run tells the operator what to do."""
    scenario.simulator.faults.add("forbidden")
    assert shell(scenario, f"$ETL sync --json {where}").returncode == 4


def test_the_figures_of_a_run_say_what_its_command_ended_with(scenario: Scenario) -> None:
    """A run that is published and called failed in the metrics wakes somebody for nothing."""
    ended = shell(
        scenario, "$ETL sync --json --metrics-file m.prom >/dev/full; cat m.prom; rm m.prom"
    )
    assert "bindings_etl_run_exit_code 1" in ended.stdout
    assert 'bindings_etl_service_up{account="main"' in ended.stdout


# --- streams that do not take every sign ---

ENCODINGS = [pytest.param("latin-1", marks=pytest.mark.slow), "ascii:strict"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_stream_takes_a_fault_of_the_configuration(scenario: Scenario, encoding: str) -> None:
    """An old locale in cron must not turn a sentence into a traceback, and exit 2 into 1."""
    scenario.settings["accounts"][0]["näme→"] = 1
    line = f"PYTHONUTF8=0 PYTHONIOENCODING={encoding} $ETL sync"
    ended = shell(scenario, f"{line} --json 2>/dev/null")
    assert (ended.returncode, ended.stdout.isascii()) == (2, True)
    document = json.loads(ended.stdout)
    assert_shape(document, began=False)
    assert "näme→" in document["error"]["message"]
    for options in ("", " --log-format json", " --log-level debug", " --bogus"):
        ended = shell(scenario, line + options)
        assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
        assert "accounts[0].n" in ended.stderr or "bogus" in options


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin-1", "ascii:strict"])
def test_any_stream_takes_the_text_for_people(scenario: Scenario, encoding: str) -> None:
    """A result that holds one sign too many would turn a run that was published into a fault."""
    path = scenario.folder / "konto→.html"
    line = f"PYTHONIOENCODING={encoding} $ETL"
    ended = shell(scenario, f"{line} sync && {line} report --out '{path}' && {line} config show")
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False)


def test_a_reader_that_has_gone_does_not_turn_failure_into_success(scenario: Scenario) -> None:
    """`sync | head` in a script with pipefail must still tell that services failed."""
    scenario.simulator.faults.add("forbidden")
    assert shell(scenario, "$ETL sync | true").returncode == 4


@pytest.mark.parametrize(
    "line",
    [
        "$ETL --help >/dev/full",
        "$ETL status --bogus 2>/dev/full",
        "$ETL --help >&-",
        "$ETL --help | true",
    ],
)
def test_help_and_errors_may_be_lost_too(scenario: Scenario, line: str) -> None:
    """A traceback is no answer to a closed stream."""
    ended = shell(scenario, line)
    assert "Traceback" not in ended.stderr
    assert "fault of bindings-etl itself" not in ended.stderr


# --- one object, also when it fails ---


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        (["sync", "--json", "--service", "XX"], "sync"),
        (["sync", "--json", "--shard", "9/3"], "sync"),
        (["sync", "--bogus", "--json", "--dry-run"], "sync"),
        (["sync", "--json", "--log-format", "xml"], "sync"),
        (["backfill", "--json", "--since", "nonsense"], "backfill"),
        (["rejects", "retry", "--json", "--service", "XX"], "retry"),
    ],
)
def test_a_run_that_was_asked_for_wrongly_gives_the_object_of_a_run(
    scenario: Scenario, arguments: list[str], mode: str
) -> None:
    """A scheduler that parses standard output must not fail over its own operator's slip."""
    result = scenario.run(*arguments, expect=2)
    assert_shape(result.json, began=False)
    assert (result.json["mode"], result.json["status"]) == (mode, "failed")
    assert result.json["dry_run"] is ("--dry-run" in arguments)
    assert result.json["error"]["message"] in result.err


def test_an_option_that_is_no_text_gives_an_object_too(scenario: Scenario) -> None:
    """The message names the account; printed as it came, it would end in a traceback."""
    ended = shell(scenario, "$ETL sync --json --account $'a\\xff'")
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert_shape(json.loads(ended.stdout), began=False)


@pytest.mark.parametrize("command", ["status", "rejects list", "rejects discard", "check", "snyc"])
def test_every_other_command_gives_an_object_with_its_error(
    scenario: Scenario, command: str
) -> None:
    """The same holds for what watches the warehouse."""
    result = scenario.run(*command.split(), "--json", "--bogus", expect=2)
    assert result.json["error"]["type"] == "ConfigurationError"
    assert result.json["error"]["message"] in result.err


@pytest.mark.parametrize("command", ["status", "rejects list", "rejects discard"])
@pytest.mark.parametrize(("url", "code"), [("oracle://x", 2), ("sqlite:////no/such/file.db", 7)])
def test_a_missing_warehouse_gives_an_object_with_its_error(
    scenario: Scenario, command: str, url: str, code: int
) -> None:
    """A dashboard has to show that the warehouse is gone, and not a parser's error."""
    scenario.settings["warehouse"]["url"] = url
    result = scenario.run(*command.split(), "--json", expect=code)
    assert list(result.json) == ["error"]
    assert result.json["error"]["message"] in result.err


def test_a_failed_retry_of_rejects_gives_the_object_of_a_run(scenario: Scenario) -> None:
    """It is a run like the others."""
    scenario.settings["warehouse"]["url"] = "oracle://x"
    result = scenario.run("rejects", "retry", "--json", expect=2)
    assert_shape(result.json, began=False)
    assert result.json["mode"] == "retry"


@pytest.mark.parametrize("arguments", [["sync"], ["sync", "--bogus"], ["status"]])
def test_with_json_logs_the_last_word_is_json_too(scenario: Scenario, arguments: list[str]) -> None:
    """A collector that reads lines of JSON drops the one line that says why."""
    scenario.settings["colour"] = "blue"
    result = scenario.run("--log-format", "json", *arguments, expect=2)
    last = [json.loads(line) for line in result.err.splitlines()][-1]
    assert (last["event"], last["level"], last["exit_code"]) == ("command.failed", "error", 2)
    assert last["message"]


# --- options in odd places and with odd values ---


def test_global_options_stand_between_a_group_and_its_command(scenario: Scenario) -> None:
    """`rejects --config FILE list` is how it is written by who thinks of `rejects` as the command."""
    file = str(scenario.write_config())
    for line in (["rejects", "--config", file, "list"], ["config", "--config", file, "show"]):
        assert (
            subprocess.run(
                [sys.executable, "-m", "etl", *line], capture_output=True, check=False
            ).returncode
            == 0
        )


@pytest.mark.parametrize(
    "options",
    [
        ["--identity", ""],
        ["--identity", "a\udcff"],
        ["--type", ""],
        ["--type", " "],
        ["--type", "apn,fcm"],
        ["--type", "apn fcm"],
        ["--since", "2026-11-01", "--until", "2026-11-01"],
        ["--since", "2026-11-02", "--until", "2026-11-01"],
    ],
)
def test_a_filter_that_lets_nothing_through_is_refused(
    scenario: Scenario, options: list[str]
) -> None:
    """An unset variable in a script would otherwise read everything for nothing, or ask the API for nonsense."""
    result = scenario.backfill(*options, expect=2)
    assert "udcff" not in result.out + result.err
    assert scenario.query("SELECT * FROM sync_runs") == []
    assert scenario.interceptor.requests == 0


@pytest.mark.parametrize(
    ("slip", "meant"),
    [("apns", "apn"), ("APM", "apn"), ("fcmv1", "fcm"), ("twilsocket", "twilsock")],
)
def test_a_slip_of_the_pen_in_a_type_is_refused(scenario: Scenario, slip: str, meant: str) -> None:
    """A load of a type that does not exist reads nothing and succeeds."""
    result = scenario.backfill("--type", "apn", "--type", slip, expect=2)
    assert f"did you mean {meant}?" in result.json["error"]["message"]
    assert scenario.interceptor.requests == 0
    assert "filter.doubted" in scenario.backfill("--type", slip, "--any-type").err


def test_a_type_that_is_not_known_is_read_with_a_warning(scenario: Scenario) -> None:
    """It may be new at Twilio, and then it must work without waiting for us."""
    assert "filter.doubted" in scenario.backfill("--type", "web-push").err
    assert "filter.doubted" not in scenario.backfill("--type", "APN").err


# --- signals before there is anything to finish ---


def stopped_while_loading(
    folder: Path, number: int, module: str, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """A command line that gets a signal when it comes to load `module`."""
    script = f"""
import os, sys
import etl.__main__
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
etl.__main__.main()
"""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
LOADED = ["click", "etl.cli.runs", "yaml"]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_the_program_loads_ends_it_quietly(
    tmp_path: Path, number: int, code: int
) -> None:
    """A pod that is stopped right after its start must not look crashed."""
    ended = stopped_while_loading(tmp_path, number, "etl.cli.app", "sync")
    assert (ended.returncode, ended.stderr) == (code, "")


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("module", LOADED)
def test_a_signal_while_the_program_loads_leaves_the_object(
    tmp_path: Path, number: int, code: int, module: str
) -> None:
    """Who parses standard output must not fail over a pod that was stopped right away."""
    ended = stopped_while_loading(tmp_path, number, module, "sync", "--json", "--dry-run")
    assert (ended.returncode, ended.stderr.strip()) == (code, "")
    document = json.loads(ended.stdout)
    assert_shape(document, began=False)
    told = (document["mode"], document["status"], document["dry_run"])
    assert told == ("sync", "interrupted", True)
    assert document["error"]["type"] == "Interrupted"


def test_a_signal_while_another_command_loads_leaves_its_error(tmp_path: Path) -> None:
    """The same holds for what watches the warehouse."""
    ended = stopped_while_loading(tmp_path, signal.SIGTERM, "yaml", "status", "--json")
    assert ended.returncode == 143
    assert json.loads(ended.stdout)["error"]["type"] == "Interrupted"
