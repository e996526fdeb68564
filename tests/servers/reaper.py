"""Ends the servers of a test run when that run is over, even when it was killed.

Run as a script with the run's folder, it detaches at once, sleeps until every process of the run is gone
(each holds a lock on `alive`, which the kernel frees on any death, SIGKILL included), then sweeps. It needs
the standard library only.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

# Where a server leaves its process id, and the signal that ends it at once together with its children.
PID_FILES = {
    "data/postmaster.pid": signal.SIGQUIT,
    "mariadb.pid": signal.SIGKILL,
    "snowflake.pid": signal.SIGKILL,
}


def sweep(run_folder: Path) -> None:
    """End every server that still runs below the folder, then remove the folder."""
    for name, end in PID_FILES.items():
        for pid_file in run_folder.glob(f"*/{name}"):
            home = run_folder / pid_file.relative_to(run_folder).parts[0]
            with contextlib.suppress(OSError, ValueError, IndexError):
                kill_server(int(pid_file.read_text().splitlines()[0]), home, end)
    shutil.rmtree(run_folder, ignore_errors=True)


def kill_server(pid: int, home: Path, end: signal.Signals) -> None:
    """Signal the server that lives in `home` and wait until its port is free."""
    if not belongs_to(pid, home):
        return
    os.kill(pid, end)
    port = int((home / "port").read_text())
    for _ in range(6000):
        if not answers(port):
            return
        time.sleep(0.01)


def belongs_to(pid: int, home: Path) -> bool:
    """Whether that process still is the server: after it ended, its number may go to somebody else."""
    if not Path("/proc/self").exists():  # outside Linux: take the pid file's word
        return True
    try:
        return os.fsencode(home) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def answers(port: int) -> bool:
    """Whether anything listens there. (A pid proves nothing: an orphan may stay a zombie in a container.)"""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    run_folder = Path(sys.argv[1])
    if os.fork():
        return
    try:
        with (run_folder / "alive").open("r+") as alive:
            fcntl.lockf(alive, fcntl.LOCK_EX)
    except FileNotFoundError:
        return
    for _ in range(20):
        if not run_folder.exists():
            return
        time.sleep(
            1
        )  # what a killed worker had just begun (initdb, a start) comes to its end first
        sweep(run_folder)


if __name__ == "__main__":
    main()
