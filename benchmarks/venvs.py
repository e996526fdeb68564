"""A virtual environment for each peer, made once and remade when its requirements change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE / ".work"


@dataclass(frozen=True)
class PeerVenv:
    """The environment of ``benchmarks/peers/NAME``."""

    name: str

    @property
    def folder(self) -> Path:
        return WORK / "venvs" / self.name

    @property
    def requirements(self) -> Path:
        return HERE / "peers" / self.name / "requirements.txt"

    def script(self, name: str) -> Path:
        return HERE / "peers" / self.name / name

    def executable(self, name: str) -> Path:
        return self.folder / "bin" / name

    def prepare(self) -> None:
        stamp, wanted = (
            self.folder / "installed.txt",
            f"{sys.version}\n{self.requirements.read_text()}",
        )
        if stamp.exists() and stamp.read_text() == wanted:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        venv.create(self.folder, with_pip=True)
        pip: list[str | Path] = [
            self.executable("python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "-r",
            self.requirements,
        ]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(
                f"pip could not install {self.requirements.name} of {self.name}: {done.stderr[-400:]}"
            )
        stamp.write_text(wanted)

    def versions(self, packages: tuple[str, ...]) -> dict[str, str]:
        return read_versions(self.executable("python"), packages)


def read_versions(python: Path | str, packages: tuple[str, ...]) -> dict[str, str]:
    code = "import json, sys, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    done = subprocess.run(
        [python, "-c", code, *packages], capture_output=True, text=True, check=False
    )
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}
