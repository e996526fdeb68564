"""The soak of benchmarks/ runs, and sees what it is there to see."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks.soak import Image, Row, Soak, Warehouse

ROOT = Path(__file__).parents[2]


@pytest.fixture
def soak(tmp_path: Path) -> Soak:
    return Soak("sqlite", Warehouse(f"sqlite:///{tmp_path}/none.db", None), tmp_path, seed=1)


def image_of(soak: Soak) -> Image:
    return {sid: Row(content, active=True) for sid, content in soak._expected().items()}


def counted(soak: Soak, before: Image, after: Image) -> dict[str, int]:
    soak._result.wrong.clear()
    soak._judge(before, after, honest=True, resumed=())
    return {name: number for name, number in soak._result.wrong.items() if number}


def test_it_sees_what_is_lost_deleted_or_half(soak: Soak) -> None:
    """Hundreds of syncs without a finding prove nothing if nothing could be found."""
    before = image_of(soak)
    sid = next(iter(before))
    assert counted(soak, before, before) == {}
    deleted = {**before, sid: before[sid]._replace(active=False)}
    assert counted(soak, before, deleted) == {"wrong deletes": 1}
    gone = {key: row for key, row in before.items() if key != sid}
    assert counted(soak, before, gone) == {"wrong deletes": 1}
    garbled = {**before, sid: Row({**before[sid].content, "endpoint": "x"}, active=True)}
    assert counted(soak, before, garbled) == {"losses": 1}
    touched = soak._services[0].touch(10)
    assert counted(soak, before, image_of(soak)) == {}
    half = {**before, touched[0]: image_of(soak)[touched[0]]}
    assert counted(soak, before, half) == {"half publications": 1}


def test_it_sees_what_is_told(soak: Soak) -> None:
    """A secret or a person in a log has to be noticed by whoever looks for them."""
    people: Iterable[object] = (row["identity"] for row in soak._expected().values())
    assert soak._count_told("nothing of anybody") == 0
    assert soak._count_told(f"… {soak._world.api_secret} …") == 1
    assert soak._count_told(f"… {next(iter(people))} …") >= 1


@pytest.mark.slow
def test_a_short_soak_finds_nothing_wrong() -> None:
    """A soak that no longer runs is found out on the day when somebody needs it."""
    command = [sys.executable, "-m", "benchmarks.soak", "--syncs", "5", "--engines", "sqlite"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "sqlite: 7 syncs" in told.stdout
