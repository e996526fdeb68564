"""A terminal of a given width, for a process that shall believe that somebody looks at it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def show(
    width: int, *arguments: str, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command line of the program with all its streams on a terminal; return its exit code and what it wrote."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    ours = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "etl", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**ours, "TERM": "xterm-256color", **(environment or {})},
    )
    os.close(slave)
    written = b""
    # The end of a terminal whose other side is closed is an error, not an empty read.
    try:
        while chunk := os.read(master, 65536):
            written += chunk
    except OSError:
        pass
    os.close(master)
    return process.wait(), written.decode().replace("\r\n", "\n")


def without_control(text: str) -> str:
    """Return the text without colours and movements of the cursor."""
    return _CONTROL.sub("", text)
