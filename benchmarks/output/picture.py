"""A bar picture of rows per second as hand-made SVG, legible on light and dark ground."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.contestants import CONTESTANTS
from benchmarks.machine import Stamp
from benchmarks.samples import Samples

WIDTH, LABELS, VALUES = 760, 210, 130
BAR, GAP, GROUP = 18, 8, 34
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #3d444d; }
  .title { font-size: 15px; font-weight: 600; } .note { font-size: 11px; fill: #6e7781; }
  .bar { fill: #9aa4af; } .ours { fill: #1f8f5f; } .floor { fill: #d0d7de; }
  @media (prefers-color-scheme: dark) {
    text { fill: #d1d7e0; } .note { fill: #9198a1; }
    .bar { fill: #6b7480; } .ours { fill: #2fb57c; } .floor { fill: #3d444d; }
  }
"""


def draw(samples: Samples, case: str, stamp: Stamp) -> str:
    """One group of bars a phase."""
    body, height = [], 10.0
    best = max(
        (sample.rate for sample in samples.all if sample.case == case and not sample.problem),
        default=1.0,
    )
    for phase in samples.phases(case):
        part, height = _draw_group(samples, case, phase, best, height)
        body += part
    rounds = max((sample.round for sample in samples.all if sample.case == case), default=0)
    notes = [
        f"Rows per second of the whole process, from start to exit; median of {rounds} rounds.",
        f"{stamp.date}, {stamp.machine_line()}",
    ]
    body += _draw_notes(notes, height + 14)
    height += 46
    label = "Rows per second of each contestant; the figures are in benchmarks/README.md"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{label}">\n<style>{STYLE}</style>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _draw_group(
    samples: Samples, case: str, phase: str, best: float, top: float
) -> tuple[list[str], float]:
    lines = [
        f'<text class="title" x="0" y="{top + 14:.0f}">{escape(phase[0].upper() + phase[1:])}</text>'
    ]
    top += GROUP - 10
    for name, rate in _rank(samples, case, phase):
        length = max(2.0, rate / best * (WIDTH - LABELS - VALUES))
        middle = top + BAR - 4
        size = f'width="{length:.1f}" height="{BAR}" rx="2"'
        label = escape(CONTESTANTS[name].label)
        lines += [
            f'<text x="{LABELS - 10}" y="{middle:.0f}" text-anchor="end">{label}</text>',
            f'<rect class="{_class_of(name)}" x="{LABELS}" y="{top:.0f}" {size}/>',
            f'<text x="{LABELS + length + 8:.1f}" y="{middle:.0f}">{rate:,.0f}</text>',
        ]
        top += BAR + GAP
    return lines, top + GROUP - BAR


def _rank(samples: Samples, case: str, phase: str) -> Sequence[tuple[str, float]]:
    rates = {
        name: samples.median(case, phase, name, lambda sample: sample.rate) for name in CONTESTANTS
    }
    return sorted(((name, rate) for name, rate in rates.items() if rate), key=lambda pair: -pair[1])


def _class_of(name: str) -> str:
    return "ours" if name == "ours" else "floor" if name.startswith("floor") else "bar"


def _draw_notes(notes: Sequence[str], top: float) -> Iterator[str]:
    for number, note in enumerate(notes):
        yield f'<text class="note" x="0" y="{top + number * 16:.0f}">{escape(note)}</text>'
