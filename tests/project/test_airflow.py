"""The Airflow DAG in `deploy/`: what can be held true of it where Airflow is not installed."""

import ast
import re
from pathlib import Path

import pytest

from etl.cli.app import run

ROOT = Path(__file__).parents[2]
DAG = ast.parse((ROOT / "deploy/airflow/bindings_etl.py").read_text(encoding="utf-8"))
COMMANDS = (ROOT / "docs/commands.md").read_text(encoding="utf-8")


def test_the_dag_knows_every_exit_code() -> None:
    """A code that it does not know would be tried again for ever, or a failure taken for a success."""
    told = {
        int(code)
        for line in re.findall(r"^\| ([0-9, ]+) \|", COMMANDS, re.MULTILINE)
        for code in line.split(",")
    }
    assert known_codes() | {0} == told


def test_the_dag_uses_options_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A renamed option would end each task with a usage error, in an environment that no test has."""
    calls = [
        [str(argument.value) for argument in call.args if isinstance(argument, ast.Constant)]
        for call in ast.walk(DAG)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "bindings_etl"
    ]
    assert {command for command, *_ in calls} == {"services", "sync"}
    for command, *options in calls:
        run([command, "--help"])
        shown = capsys.readouterr().out
        assert [option for option in options if option not in shown] == []


def known_codes() -> set[int]:
    """The keys of `STATES`."""
    [states] = [
        node.value
        for node in DAG.body
        if isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") == "STATES"
        and isinstance(node.value, ast.Dict)
    ]
    return {ast.literal_eval(key) for key in states.keys if key is not None}
