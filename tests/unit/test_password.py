"""`warehouse.password_command`: what it prints is the password; what goes wrong is a sentence without it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from etl import errors
from etl.warehouse import password
from tests.acceptance.scenario import wait_until


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


@pytest.mark.parametrize(
    ("script", "printed"),
    [
        ("echo s3cret", "s3cret"),
        ("printf 's3 cret\\r\\n'", "s3 cret"),
        ("printf 'pä:%%@'", "pä:%@"),
    ],
)
def test_what_it_prints_is_the_password(script: str, printed: str) -> None:
    """The end of the line is no part of it, everything else is."""
    assert password.ask(shell(script)) == printed


def test_no_shell_stands_between() -> None:
    """An argument with a `$` or a space would become another one."""
    command = [sys.executable, "-c", "import sys; print(sys.argv[1])", "$HOME; two words"]
    assert password.ask(command) == "$HOME; two words"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo s3cret; echo s3cret >&2; exit 3", "failed (exit 3)"),
        ("true", "printed no password"),
        ("echo", "printed no password"),
        ("echo s3cret; echo s3cret", "printed no password; it has to print one line"),
        ("printf '\\377'", "printed no password"),
        ("yes s3cret", "prints more than a password"),
    ],
)
def test_what_goes_wrong_is_a_sentence_without_the_output(
    script: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The output may be the password, or part of it."""
    with pytest.raises(errors.PasswordUnknown) as raised:
        password.ask(shell(script))
    told = str(raised.value) + "".join(capfd.readouterr())
    assert said in told
    assert "s3cret" not in told
    assert raised.value.exit_code == 7


@pytest.mark.parametrize("command", [["/no/such/program"], ["/etc"], ["\0"]])
def test_a_program_that_does_not_start_is_a_fault_of_the_configuration(command: list[str]) -> None:
    """Trying again would not help."""
    with pytest.raises(errors.ConfigurationError, match="cannot be started"):
        password.ask(command)


@pytest.mark.parametrize(
    "script", ["sleep 60; echo late", "sleep 60 & echo early", "exec >&-; sleep 60"]
)
def test_a_command_that_hangs_is_ended(script: str) -> None:
    """It, or a child that it left with its pipe, would hold up every run."""
    with pytest.raises(errors.PasswordUnknown, match="did not end"):
        password.ask(shell(f": {time.time()}; {script}"), seconds=0.3)


def test_its_children_do_not_live_on(tmp_path: Path) -> None:
    """Runs that fail each hour would fill the machine with them."""
    note = tmp_path / "child"
    for seconds in (0.5, 5, 50):  # until the shell has come to begin it
        with pytest.raises(errors.PasswordUnknown):
            password.ask(shell(f"sleep 600 & echo $! > {note}; wait"), seconds=seconds)
        if note.exists() and note.read_text().endswith("\n"):
            break
    child = note.read_text().strip()
    # The shell is waited for, and what was killed with it dies when a busy machine gets round to it.
    wait_until(lambda: state_of(child) in ("", "Z"))


def state_of(process: str) -> str:
    """The first letter of what `ps` says of it; nothing if it is gone."""
    command = ["/bin/ps", "-o", "stat=", "-p", process]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout[:1].strip()
