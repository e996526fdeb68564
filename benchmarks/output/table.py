"""Figures as rows of text cells, and those as aligned text or markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.cases import CASES
from benchmarks.contestants import CONTESTANTS, PEERS
from benchmarks.samples import Samples
from benchmarks.targets import Target

Row = Sequence[str]
HEADER = (
    "contestant", "seconds", "rows/s", "x fetch floor", "x load floor", "x SDK", "x dlt", "x Singer",
    "CPU s", "peak MB", "rows written", "WAL MB",
)  # fmt: skip
RIVALS = ("floor-fetch", "floor-load", *PEERS)
WRITTEN_HEADER = ("run", "bindings", "binding_versions", "staging and bookkeeping")
TARGET_HEADER = ("target", "goal", "measured", "")


def make_rows(samples: Samples, case: str, phase: str) -> list[Row]:
    return [
        _make_row(samples, case, phase, name)
        for name in CONTESTANTS
        if name in samples.contestants(case)
    ]


def _make_row(samples: Samples, case: str, phase: str, name: str) -> Row:
    label, counted = CONTESTANTS[name].label, CASES[case].store == "postgres"

    def middle(attribute: str, scale: float = 1) -> float:
        found = samples.median(case, phase, name, lambda sample: float(getattr(sample, attribute)))
        return (found or 0) / scale

    if not samples.of(case, phase, name):
        return (label, "failed", *[""] * (len(HEADER) - 2))
    ratios = [samples.ratio((case, phase, name), (case, phase, rival)) for rival in RIVALS]
    return (
        label,
        f"{middle('wall'):.2f}",
        f"{middle('rate'):,.0f}",
        *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        f"{middle('cpu'):.2f}",
        f"{middle('peak_bytes', 1e6):.0f}",
        *(
            (f"{middle('rows_written'):,.0f}", f"{middle('wal_bytes', 1e6):.1f}")
            if counted
            else ("-", "-")
        ),
    )


def make_written_rows(samples: Samples) -> list[Row]:
    """What bindings-etl wrote; the last round of each kind of run."""
    last = {
        (s.case, s.phase): s
        for s in samples.all
        if s.contestant == "ours" and s.written and not s.problem
    }
    return [
        (f"{case}, {phase}", *_split_written(sample.written))
        for (case, phase), sample in last.items()
    ]


def _split_written(written: dict[str, list[int]]) -> Row:
    kept = [sum(written.get(f"public.{table}", [])) for table in ("bindings", "binding_versions")]
    return [f"{number:,}" for number in (*kept, sum(map(sum, written.values())) - sum(kept))]


def make_target_rows(targets: Sequence[Target]) -> list[Row]:
    return [
        (target.title, target.goal_text(), target.value_text(), target.verdict)
        for target in targets
    ]


def name_phase(samples: Samples, case: str, phase: str) -> str:
    rows = next(sample.rows for sample in samples.all if sample.case == case)
    return f"{phase}: {rows:,} rows, {CASES[case].title}"


def align(header: Row, rows: Sequence[Row]) -> str:
    """Plain text: the first column to the left, figures to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(row: Row) -> str:
        return "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def to_markdown(header: Row, rows: Sequence[Row]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
