"""Programs of the machine, or of the virtual environment, that a test calls."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def find_program(name: str) -> str:
    """Return where a program is; CI has installed it, elsewhere the test is skipped without it."""
    ours = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([ours, os.environ["PATH"], "/usr/sbin"]))
    if found is None and not os.environ.get("TESTS_REQUIRE_ENGINES"):
        pytest.skip(f"{name} is not installed")
    assert found, f"{name} is not installed"
    return found
