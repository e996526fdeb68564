"""Runs whole processes and measures them from outside: wall time, CPU and peak memory."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT_SECONDS = 1_800


# As a user runs them: modules are compiled once, and not at every start.
_ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}


@dataclass(frozen=True)
class Command:
    """One process of a contestant."""

    argv: Sequence[str | Path]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Usage:
    """What a run took. Of a pipeline: CPU and memory of its parts added up."""

    wall: float = 0
    user: float = 0
    system: float = 0
    peak_bytes: int = 0
    exit_code: int = 0
    output: str = ""

    @property
    def cpu(self) -> float:
        return self.user + self.system


def run(commands: Sequence[Command], log: Path) -> Usage:
    """Runs the commands as one pipeline, from the first start to the last exit."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stdout = log.with_suffix(".out")
    with log.open("ab") as errors, stdout.open("wb") as output:
        started = time.perf_counter()
        processes = _start(commands, output.fileno(), errors.fileno())
        watchdog = threading.Timer(TIMEOUT_SECONDS, _kill, [processes])
        watchdog.start()
        try:
            ended = [os.wait4(process.pid, 0) for process in processes]
        except BaseException:
            _kill(processes)
            raise
        finally:
            watchdog.cancel()
        wall = time.perf_counter() - started
    codes = [os.waitstatus_to_exitcode(status) for _, status, _ in ended]
    for process, code in zip(processes, codes, strict=True):
        process.returncode = code
    return Usage(
        wall=wall,
        user=sum(usage.ru_utime for _, _, usage in ended),
        system=sum(usage.ru_stime for _, _, usage in ended),
        peak_bytes=sum(usage.ru_maxrss * 1024 for _, _, usage in ended),
        exit_code=next((code for code in codes if code), 0),
        output=stdout.read_text(errors="replace"),
    )


def _start(commands: Sequence[Command], output: int, errors: int) -> list[subprocess.Popen[bytes]]:
    processes: list[subprocess.Popen[bytes]] = []
    for number, command in enumerate(commands):
        last = number == len(commands) - 1
        before = processes[-1].stdout if processes else None
        process = subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            env={**_ENVIRONMENT, **command.env},
            stdin=before or subprocess.DEVNULL,
            stdout=output if last else subprocess.PIPE,
            stderr=errors,
        )
        if before:
            before.close()
        processes.append(process)
    return processes


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.returncode is None:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
