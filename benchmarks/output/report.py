"""Puts the tables together, for the terminal and for README.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.machine import Stamp
from benchmarks.output.table import (
    HEADER,
    TARGET_HEADER,
    WRITTEN_HEADER,
    Row,
    align,
    make_rows,
    make_target_rows,
    make_written_rows,
    name_phase,
    to_markdown,
)
from benchmarks.samples import Sample, Samples
from benchmarks.targets import Target

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
Render = Callable[[Row, Sequence[Row]], str]


def render_terminal(samples: Samples, targets: Sequence[Target], stamp: Stamp) -> str:
    return "\n".join(_render(samples, targets, stamp, align, heading="{}"))


def render_markdown(samples: Samples, targets: Sequence[Target], stamp: Stamp) -> str:
    return "\n".join(_render(samples, targets, stamp, to_markdown, heading="### {}"))


def _render(
    samples: Samples, targets: Sequence[Target], stamp: Stamp, table: Render, heading: str
) -> Iterator[str]:
    if stamp.quick:
        yield "A quick look with a tenth of the rows: titles and targets below are those of the full run.\n"
    yield f"Measured {stamp.date} on {stamp.machine_line()}. {stamp.versions_line()}."
    for case in samples.cases():
        for phase in samples.phases(case):
            title = name_phase(samples, case, phase)
            yield f"\n{heading.format(title[0].upper() + title[1:])}\n"
            yield table(HEADER, make_rows(samples, case, phase))
    if written := make_written_rows(samples):
        yield f"\n{heading.format('Rows written by bindings-etl')}\n"
        yield table(WRITTEN_HEADER, written)
    yield f"\n{heading.format('Targets')}\n"
    yield table(TARGET_HEADER, make_target_rows(targets))
    yield from _render_problems(samples.problems(), heading)


def _render_problems(problems: Sequence[Sample], heading: str) -> Iterator[str]:
    if not problems:
        return
    yield f"\n{heading.format('Wrong results (left out of the figures above)')}\n"
    for sample in problems:
        yield f"- {sample.contestant}, {sample.case}, {sample.phase}, round {sample.round}: {sample.problem}"


def put_between_markers(page: Path, text: str) -> None:
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
