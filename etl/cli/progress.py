"""Progress of a run on a terminal; nothing in cron."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO, cast

from etl.logs import BestEffortStream
from etl.sync.outcome import ScanOutcome, count
from etl.sync.run_state import RunState

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

_SECONDS_BETWEEN_LOOKS = 0.25
_NARROW = 90


@contextmanager
def showing_progress(state: RunState) -> Iterator[None]:
    """Show what the scans of a run have read, when standard error is a terminal.

    The scans are looked at from here and need not report: their hot path stays free of it.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress

    ended = threading.Event()
    terminal = sys.stderr
    console = Console(file=cast(TextIO, BestEffortStream(lambda: terminal)))
    columns = _columns(console.width)
    with Progress(*columns, console=console, redirect_stdout=False, transient=True) as progress:
        task = progress.add_task(
            "reading", total=None, pages="0 pages", rows="0 rows", speed=0.0, left=""
        )
        looker = threading.Thread(
            target=_update_bar, args=(state, progress, task, ended), daemon=True
        )
        looker.start()
        try:
            yield
        finally:
            ended.set()
            looker.join()


def _columns(width: int) -> "list[ProgressColumn]":
    from rich.progress import MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

    whole = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[pages]}"),
        TextColumn("{task.fields[rows]}"),
        TextColumn("{task.fields[speed]:,.0f} rows/s"),
        TextColumn("services"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    ]
    return whole if width > _NARROW else [whole[at] for at in (0, 3, 5, 6, 7, 8)]


def _update_bar(
    state: RunState, progress: "Progress", task: "TaskID", ended: threading.Event
) -> None:
    """Update the progress bar every moment until `ended` is set, and once more then."""
    while True:
        over = ended.wait(_SECONDS_BETWEEN_LOOKS)
        scans = state.scans
        rows = sum(scan.counters.fetched for scan in scans)
        speed = rows / max(progress.tasks[0].elapsed or 0.0, 0.001)
        progress.update(
            task,
            total=len(scans) or None,
            completed=sum(scan.ended for scan in scans),
            pages=count(sum(scan.counters.pages for scan in scans), "page"),
            rows=count(rows, "row"),
            speed=speed,
            left=describe_time_left(scans, speed),
        )
        if over:
            return


def describe_time_left(scans: Sequence[ScanOutcome], speed: float) -> str:
    """Return e.g. `0:01:30 left` at `speed` rows/s; empty while the size of a scan is unknown."""
    sizes = [(scan.expected, scan.counters.fetched) for scan in scans if not scan.ended]
    if not sizes or not speed:
        return ""
    left = 0
    for expected, fetched in sizes:
        if expected is None:
            return ""
        left += max(0, expected - fetched)
    return f"{timedelta(seconds=round(left / speed))} left"
