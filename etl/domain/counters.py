"""What a scan or a run has done, in numbers."""

from dataclasses import asdict, dataclass


@dataclass
class Counters:
    """The counters of a scan or a run; the names are those of the ledger's columns."""

    pages: int = 0
    requests: int = 0
    retries: int = 0
    fetched: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    restored: int = 0
    rejected: int = 0

    def add(self, other: "Counters") -> None:
        """Sum up, counter by counter."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)
