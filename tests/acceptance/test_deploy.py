"""The examples of a set-up run the program as it is."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.trial import Trial
from tests.programs import find_program

MakeTrial = Callable[..., Trial]

UNIT = Path(__file__).parents[2] / "deploy/systemd/bindings-etl.service"


def system_calls(group: str) -> set[str]:
    """The system calls of one of systemd's groups, such as `@system-service`, those of groups in it included."""
    command = [find_program("systemd-analyze"), "syscall-filter", group]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = [line.strip() for line in told.splitlines()[1:] if line and "#" not in line]
    inner = [system_calls(name) for name in names if name.startswith("@")]
    return {name for name in names if not name.startswith("@")}.union(*inner)


def allowed_system_calls() -> set[str]:
    """What the unit's `SystemCallFilter` lets through."""
    allowed = set[str]()
    for line in re.findall(
        r"^SystemCallFilter=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE
    ):
        calls = set[str]().union(*map(system_calls, line.removeprefix("~").split()))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


@pytest.mark.slow
def test_the_unit_allows_what_the_program_asks_of_the_system(
    make_trial: MakeTrial, warehouse_url: str, tmp_path: Path
) -> None:
    """A system call that the unit forbids would fail under systemd only, where no other test runs."""
    trial = make_trial((30, 12), url=warehouse_url)
    trial.write_config()
    counts = tmp_path / "counts"
    strace = [find_program("strace"), "-f", "-qq", "-U", "name", "-c", "-o", str(counts)]
    program = [sys.executable, "-m", "etl", "sync", "--config", str(trial.config_path)]
    told = subprocess.run([*strace, *program], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    names = re.findall(r"^[a-z]\w+$", counts.read_text(encoding="utf-8"), re.MULTILINE)
    assert "openat" in names
    # Head and foot of the table; SQLite makes `fchown` as root only, which the unit's user is not.
    beside = {"syscall", "total", "fchown"}
    assert not set(names) - allowed_system_calls() - beside
