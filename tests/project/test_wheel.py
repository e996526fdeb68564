"""What a user installs works from anywhere."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir"]
    subprocess.run([*command, folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_is_typed_and_offers_what_users_need(wheel: Path) -> None:
    """Without its mark a type checker takes everything from here for `Any`."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = archive.read(metadata).decode()
    assert "etl/py.typed" in names
    assert "etl/config.example.yaml" in names, "`init` would have nothing to write"
    assert "Provides-Extra: postgres" in told
    assert "Provides-Extra: dev" not in told


def test_the_wheel_migrates_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """A wheel that forgot the migrations would install well and then create nothing."""
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
