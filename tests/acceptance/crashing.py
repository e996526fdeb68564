"""Runs command lines in forked children that end at once, as if killed, at the N-th thing they do with the database.

    python -m tests.acceptance.crashing

Each line on standard input is `{"arguments": […], "at": N or null}`, with `"batch_pages": N` for batches of so few pages and
`"rows_at_once": N` for a re-keying in such portions; each answer is the exit code. One process serves all of a scenario's crashes, so that the program is loaded once and not for every N.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from etl.cli.app import run
from etl.sync import prefetch
from etl.sync import run as _loaded_beforehand  # noqa: F401
from etl.warehouse import migration as _too  # noqa: F401
from etl.warehouse import rewriting

CRASHED = 9


def watch(at: int | None) -> None:
    """End the process before the `at`-th statement or commit; what was sent before stands as the database has it."""
    steps = count(1)

    def step(*_: Any) -> None:
        if next(steps) == at:
            os._exit(CRASHED)

    sa.event.listen(sa.Engine, "before_cursor_execute", step)
    sa.event.listen(sa.Engine, "commit", step)


def crash(arguments: list[str], at: int | None) -> int:
    """One command line in a child of its own; gives its exit code."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        watch(at)
        os._exit(run(arguments))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def forking() -> "Iterator[subprocess.Popen[str]]":
    """Yield a process that serves the command lines written to it."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.acceptance.crashing"],
        cwd=Path(__file__).parents[2],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def main() -> None:
    """Serve until standard input ends."""
    prefetch.BATCH_SECONDS = 3600  # which step is the N-th must not hang on the machine's speed
    for line in sys.stdin:
        order = json.loads(line)
        prefetch.BATCH_PAGES = order.get("batch_pages", prefetch.BATCH_PAGES)
        rewriting.AT_ONCE = order.get("rows_at_once", rewriting.AT_ONCE)
        print(crash(order["arguments"], order["at"]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
