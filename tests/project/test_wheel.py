"""What a user installs works from anywhere."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_migrates_in_an_empty_folder(tmp_path: Path) -> None:
    """A wheel that forgot the migrations would install well and then create nothing."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--wheel-dir",
            tmp_path / "dist",
            ROOT,
        ],
        check=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    subprocess.run([tmp_path / "venv/bin/pip", "install", "-q", wheel], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.yaml").write_text(
        f"accounts: [{{name: main, account_sid: AC{'0' * 32}, auth_token: secret}}]\nwarehouse: {{url: 'sqlite:///bindings.db'}}\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = subprocess.run(
        [tmp_path / "venv/bin/bindings-etl", "migrate"],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert (empty / "bindings.db").exists()
    assert sorted(path.name for path in empty.iterdir()) == ["bindings.db", "config.yaml"]
