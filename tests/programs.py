"""Programs of the machine that a test calls."""

import os
import shutil

import pytest


def find_program(name: str) -> str:
    """Return where a program is; CI has installed it, elsewhere the test is skipped without it."""
    found = shutil.which(name, path=os.environ["PATH"] + os.pathsep + "/usr/sbin")
    if found is None and not os.environ.get("TESTS_REQUIRE_ENGINES"):
        pytest.skip(f"{name} is not installed")
    assert found, f"{name} is not installed"
    return found
