"""The stamp on every result: when, on what machine, with which versions."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS


@dataclass(frozen=True)
class Stamp:
    """Date, machine, versions."""

    date: str
    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    postgres: str
    libraries: dict[str, dict[str, str]]  # contestant → package → version
    quick: bool = False

    def machine_line(self) -> str:
        return f"{self.cores} cores ({self.cpu}), {self.memory_gb:.0f} GB, Linux {self.kernel}"

    def versions_line(self) -> str:
        parts = [f"Python {self.python}, PostgreSQL {self.postgres}"]
        for contestant, packages in self.libraries.items():
            versions = ", ".join(f"{name} {version}" for name, version in packages.items())
            parts.append(f"{CONTESTANTS[contestant].label} with {versions}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def take_stamp(postgres: str, contestants: Iterable[str], *, quick: bool) -> Stamp:
    return Stamp(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        cpu=_read(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)") or platform.machine(),
        cores=os.cpu_count() or 0,
        memory_gb=int(_read(Path("/proc/meminfo"), r"MemTotal:\s*(\d+)") or 0) / 1e6,
        kernel=platform.release().split("-")[0],
        python=platform.python_version(),
        postgres=postgres,
        libraries={name: CONTESTANTS[name].versions() for name in contestants},
        quick=quick,
    )


def _read(path: Path, pattern: str) -> str | None:
    found = re.search(pattern, path.read_text()) if path.exists() else None
    return found[1].strip() if found else None
