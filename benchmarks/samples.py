"""What one run showed, and the medians and ratios over many."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One run of one contestant in one phase of one round."""

    case: str
    phase: str
    round: int
    contestant: str
    rows: int
    wall: float
    user: float
    system: float
    peak_bytes: int
    wal_bytes: int = 0
    written: dict[str, list[int]] = field(
        default_factory=dict
    )  # table → inserted, updated, deleted
    problem: str | None = None  # why the result is not to be trusted

    @property
    def rate(self) -> float:
        return self.rows / self.wall if self.wall else 0.0

    @property
    def cpu(self) -> float:
        return self.user + self.system

    @property
    def rows_written(self) -> int:
        return sum(sum(counts) for counts in self.written.values())


class Samples:
    """All runs, and what follows from them."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.all = list(samples)

    @classmethod
    def from_dicts(cls, documents: Iterable[dict[str, Any]]) -> Samples:
        return cls(Sample(**document) for document in documents)

    def of(self, case: str, phase: str, contestant: str) -> list[Sample]:
        """Only runs with a right result count."""
        wanted = (case, phase, contestant)
        return [s for s in self.all if (s.case, s.phase, s.contestant) == wanted and not s.problem]

    def cases(self) -> list[str]:
        return list(dict.fromkeys(sample.case for sample in self.all))

    def phases(self, case: str) -> list[str]:
        return list(dict.fromkeys(sample.phase for sample in self.all if sample.case == case))

    def contestants(self, case: str) -> list[str]:
        return list(dict.fromkeys(sample.contestant for sample in self.all if sample.case == case))

    def problems(self) -> list[Sample]:
        return [sample for sample in self.all if sample.problem]

    def median(
        self, case: str, phase: str, contestant: str, of: Callable[[Sample], float]
    ) -> float | None:
        values = [of(sample) for sample in self.of(case, phase, contestant)]
        return median(values) if values else None

    def ratio(self, upper: tuple[str, str, str], lower: tuple[str, str, str]) -> float | None:
        """Rows per second of one (case, phase, contestant) over another's: median over rounds."""
        below = {sample.round: sample.rate for sample in self.of(*lower)}
        ratios = [
            sample.rate / below[sample.round] for sample in self.of(*upper) if sample.round in below
        ]
        return median(ratios) if ratios else None
