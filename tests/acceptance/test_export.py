"""`export`: whole or not at all, and each refusal in one sentence."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.crashing import CRASHED, forking
from tests.acceptance.scenario import Scenario
from tests.acceptance.test_crash import runner

ROOT = Path(__file__).parents[2]


def refused(scenario: Scenario, out: Path, *arguments: str, code: int = 2) -> str:
    """The one sentence; nothing is left, not even a folder that was begun."""
    before = sorted(out.parent.iterdir()) if out.parent.is_dir() else []
    told = scenario.run("export", "--out", str(out), *arguments, expect=code).err
    assert len(told.strip().splitlines()) == 1, told
    assert before == (sorted(out.parent.iterdir()) if out.parent.is_dir() else [])
    return told


def test_a_folder_that_holds_something_is_refused(scenario: Scenario, tmp_path: Path) -> None:
    """Files of two exports in one folder would be loaded as one."""
    out = tmp_path / "out"
    out.mkdir()
    scenario.sync()
    scenario.run("export", "--out", str(out), "--format", "jsonl")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "holds another export" in refused(scenario, out, "--format", "jsonl")
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    other = tmp_path / "other"
    other.mkdir()
    (other / "diary.txt").touch()
    assert "is not empty" in refused(scenario, other, "--format", "jsonl")


def test_a_place_that_cannot_be_written_is_refused(scenario: Scenario, tmp_path: Path) -> None:
    """A traceback, or exit code 1, would look like a fault of the program."""
    scenario.sync()
    assert "make the folder" in refused(scenario, tmp_path / "a" / "b", "--format", "jsonl")
    (tmp_path / "file").touch()
    refused(scenario, tmp_path / "file" / "c", "--format", "jsonl")
    assert "cannot be written" in refused(scenario, Path("/sys/export"), "--format", "jsonl")


def test_a_warehouse_that_is_not_there_or_not_migrated_is_told(
    scenario: Scenario, tmp_path: Path
) -> None:
    """An export of nothing would be taken for one of everything."""
    scenario.settings["warehouse"]["url"] = f"sqlite:///{tmp_path / 'none.db'}"
    scenario.write_config()  # else it would be new in the folder, which is to stay as it was
    assert "migrate" in refused(scenario, tmp_path / "out", "--format", "jsonl", code=7)
    (tmp_path / "none.db").touch()
    assert "migrate" in refused(scenario, tmp_path / "out", "--format", "jsonl", code=7)


def test_without_pyarrow_the_extra_is_named(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who did not install the extra is told its name, and JSON lines need none."""
    scenario.sync()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "bindings-etl[export]" in refused(scenario, tmp_path / "out")
    done = scenario.run("export", "--out", str(tmp_path / "out"), "--format", "jsonl", "--json")
    lines = (tmp_path / "out" / "bindings-00001.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["sid"] for line in lines} == set(scenario.stored())
    assert done.json["rows"] == len(lines) == 350


def test_killed_at_any_moment_it_leaves_no_export(scenario: Scenario, tmp_path: Path) -> None:
    """Half an export under the name of a whole one would be loaded as a whole one."""
    scenario.sync()
    out = tmp_path / "out"
    with forking() as forker:
        run = runner(forker, scenario, "export", "--out", str(out), "--format", "jsonl")
        at = 1
        while run(at) == CRASHED:
            assert not out.exists()
            at += 1
    assert at > 5  # it was killed with files half written, too
    assert (out / "manifest.json").exists()
    assert list(tmp_path.glob(".out.*.unfinished"))


# Sends itself a signal with files half written, and goes on when that is noticed.
STOPPED_AMID = """
import gc, os, sys, time
from pathlib import Path
import sqlalchemy as sa
from etl.__main__ import main
from etl.stopping import Stop

def stop(_conn, _cursor, statement, *_):
    if "binding_versions" in statement and "EXISTS" in statement:
        assert list(Path(sys.argv[3]).parent.glob(".out.*.unfinished/*"))
        os.kill(os.getpid(), NUMBER)
        while not any(isinstance(one, Stop) and one.requested for one in gc.get_objects()):
            time.sleep(0.01)

sa.event.listen(sa.Engine, "before_cursor_execute", stop)
main()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_leaves_nothing(
    scenario: Scenario, tmp_path: Path, number: int, code: int
) -> None:
    """Whoever stops an export has nothing to clean up."""
    scenario.sync()
    out = tmp_path / "target" / "out"
    out.parent.mkdir()
    script = STOPPED_AMID.replace("NUMBER", str(int(number)))
    options = ("--format", "jsonl", "--config", str(scenario.write_config()), "--json")
    ended = subprocess.run(
        [sys.executable, "-c", script, "export", "--out", str(out), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert "nothing was written" in json.loads(ended.stdout)["error"]["message"]
    assert not list(out.parent.iterdir())
