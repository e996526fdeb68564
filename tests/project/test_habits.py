"""The project's own habits: what is published, and that one command means the same everywhere."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def variable(name: str) -> str:
    """What the Makefile sets `name` to."""
    (value,) = re.findall(rf"^{name} :?= (.+)$", MAKEFILE, re.MULTILINE)
    return str(value)


def test_make_installs_every_extra_and_the_development_tools() -> None:
    """A fresh clone in which `make test` lacks a driver or a tool skips tests or breaks."""
    printed = subprocess.run(
        [sys.executable, "-c", variable("PRINT_GROUP")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.splitlines() == PYPROJECT["dependency-groups"]["dev"]
    assert variable("EXTRAS").split(",") == list(PYPROJECT["project"]["optional-dependencies"])


def test_development_tools_are_not_published() -> None:
    """An extra that only developers need is offered to everybody who installs the program."""
    assert "dev" not in PYPROJECT["project"]["optional-dependencies"]
    assert all(isinstance(one, str) for one in PYPROJECT["dependency-groups"]["dev"])


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile, as the shell sees them."""
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.+\n)+)", MAKEFILE, re.MULTILINE)
    return [line.lstrip("\t@").replace("$(BIN)", ".venv/bin") for line in lines.splitlines()]


def test_hooks_and_ci_check_what_make_checks() -> None:
    """A check that runs in one place only fails where nobody looks, or too late."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repository in hooks["repos"] for hook in repository["hooks"]]
    assert entries == recipe("lint") + recipe("types")
    steps = re.findall(
        r"^step .* make .*?(\w+)$", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE
    )
    assert {"lint", "types"} <= set(steps)


def test_hooks_download_nothing() -> None:
    """A hook from elsewhere is another version of the tool, and needs the network to commit."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repository["repo"] for repository in hooks["repos"]} == {"local"}
    assert {hook["language"] for one in hooks["repos"] for hook in one["hooks"]} == {"system"}


def test_every_module_is_imported_without_a_warning() -> None:
    """A use that a library has deprecated is told by a warning first, and breaks with its next version."""
    script = (
        "import importlib, pkgutil, etl\n"
        "for one in pkgutil.walk_packages(etl.__path__, 'etl.'):\n"
        "    if one.name not in ('etl.__main__',) and not one.name.startswith('etl.migrations'):\n"
        "        importlib.import_module(one.name)\n"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
