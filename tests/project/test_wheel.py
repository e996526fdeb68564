"""What a user installs works from anywhere."""

import os
import re
import shutil
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


def configure(folder: Path) -> None:
    """Write the least configuration, with a warehouse in the folder."""
    (folder / "config.yaml").write_text(
        f"accounts: [{{name: main, account_sid: AC{'0' * 32}, auth_token: secret}}]\n"
        "warehouse: {url: 'sqlite:///bindings.db'}\n"
    )


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
    configure(empty)
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


def test_the_source_package_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """Distributions build from the source package; a file that is not in it is missing in what they install."""
    build = [
        sys.executable,
        "-m",
        "build",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]  # sdist, and the wheel from it
    told = subprocess.run(build, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-2000:]
    assert "warning" not in told.stderr.lower(), told.stderr[-2000:]
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(built) as other:
        assert sorted(other.namelist()) == sorted(one.namelist())


def test_the_steps_of_the_image_work(tmp_path: Path) -> None:
    """There is no engine here to build an image; its commands are run as they stand, and what they make has to work."""
    lines = re.sub(r"\\\n\s*", "", (ROOT / "deploy/Containerfile").read_text(encoding="utf-8"))
    build_stage = lines.split("\nFROM ")[1]
    source, target = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    for verb, rest in re.findall(r"^(COPY|RUN) (.+)$", build_stage, re.MULTILINE):
        if verb == "RUN":
            command = rest.replace("/opt/bindings-etl", str(target))
            subprocess.run(["sh", "-ec", command], cwd=source, env=environment, check=True)
            continue
        *names, _into = rest.split()
        for name in names:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
    shutil.rmtree(source)
    empty = tmp_path / "empty"
    empty.mkdir()
    program = target / "bin" / "bindings-etl"
    told = subprocess.run([program, "--version"], cwd=empty, capture_output=True, check=True)
    assert told.stdout.startswith(b"bindings-etl ")
    configure(empty)
    subprocess.run([program, "migrate"], cwd=empty, env=environment, check=True)
    assert (empty / "bindings.db").exists()
    assert not (target / "bin" / "pip").exists()
