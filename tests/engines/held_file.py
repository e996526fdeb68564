"""A DuckDB file that another process has open, as a notebook has."""

import subprocess
import sys

from tests.acceptance.scenario import Scenario


def assert_waits_for_a_held_file(scenario: Scenario, file: str) -> None:
    """A sync of 40 new bindings says that the file is held, and loads them when it is free again."""
    hold = f"import duckdb; held = duckdb.connect({file!r}); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "held\n"
        result = scenario.sync(expect=7)
        assert "another process holds the file" in result.err
        assert "Traceback" not in result.err
        other.stdin.write("\n")
        other.stdin.close()
    assert scenario.sync().totals["inserted"] == 40
