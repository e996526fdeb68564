"""A terminal of a given width, for a process that shall believe that somebody looks at it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def show(
    width: int, *arguments: str, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command line of the program with all its streams on a terminal; return its exit code and what it wrote."""
    with _terminal(width) as (master, slave):
        process = _start(arguments, slave, stderr=slave, environment=environment)
        os.close(slave)
        written = _read(master)
    return process.wait(), written


def show_result(width: int, *arguments: str, folder: Path) -> tuple[int, str]:
    """Run a command line in a folder with its standard output on a terminal; return its exit code and the text there."""
    with _terminal(width) as (master, slave):
        process = _start(arguments, slave, stderr=subprocess.DEVNULL, folder=folder)
        os.close(slave)
        written = _read(master)
    return process.wait(), without_control(written)


@contextmanager
def _terminal(width: int) -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    yield master, slave
    os.close(master)


def _start(
    arguments: Sequence[str],
    slave: int,
    stderr: int,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> "subprocess.Popen[bytes]":
    ours = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")
    }
    return subprocess.Popen(
        [sys.executable, "-m", "etl", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=stderr,
        cwd=folder,
        env={**ours, "TERM": "xterm-256color", **(environment or {})},
    )


def _read(master: int) -> str:
    """Everything that is written until the other side is closed, which is an error there and not an empty read."""
    written = b""
    with suppress(OSError):
        while chunk := os.read(master, 65536):
            written += chunk
    return written.decode().replace("\r\n", "\n")


def without_control(text: str) -> str:
    """Return the text without colours and movements of the cursor."""
    return _CONTROL.sub("", text)
