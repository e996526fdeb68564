"""`demo`: the first thing that a newcomer runs."""

import contextlib
import functools
import io
from pathlib import Path

import pytest

import etl.simulator
from etl.cli.app import run
from etl.simulator import Fault, Simulator


def demo(folder: Path) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["demo", "--dir", str(folder), "--bindings", "300"])
    return code, out.getvalue(), err.getvalue()


def test_the_demo_shows_what_it_is_about_and_may_be_repeated(tmp_path: Path) -> None:
    """The second look at it must work as the first, in its own folder."""
    for _ in range(2):
        code, out, err = demo(tmp_path / "demo")
        assert (code, err) == (0, "")
        assert out.count("── ") == 6
        assert f"A page with charts: {tmp_path / 'demo' / 'report.html'}\n" in out
        assert "<svg" in (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["config.yaml", "bindings.db", "notes.txt"])
@pytest.mark.parametrize("content", [b"accounts: []\n", b"\xff"])
def test_the_demo_leaves_the_files_of_others_alone(
    tmp_path: Path, name: str, content: bytes
) -> None:
    """`demo --dir .` in the folder of a real configuration would cost it, and the warehouse beside it."""
    (tmp_path / name).write_bytes(content)
    code, _, err = demo(tmp_path)
    assert (code, "did not write" in err) == (2, True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, content)]


def test_the_demo_fails_when_its_sync_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo that loads nothing and ends with 0 shows a newcomer, or CI, that all is well."""
    faulty = functools.partial(Simulator, faults=[Fault("unauthorized")])
    monkeypatch.setattr(etl.simulator, "Simulator", faulty)
    code, out, err = demo(tmp_path / "demo")
    assert (code, out.count("── ")) == (4, 1)
    assert "did not succeed" in err
