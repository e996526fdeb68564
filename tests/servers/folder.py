"""The folder of one test run: what its workers share, and how its servers find a place and a port."""

import contextlib
import fcntl
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from tests.servers import reaper

ROOM = 2 * 2**30  # bytes; all servers and files of a run take about a quarter of it


class ServerFailedError(Exception):
    """A server did not start; the message ends with its log."""


class Server(Protocol):
    """What every engine's server can do."""

    @property
    def home(self) -> Path: ...

    def start(self) -> None:
        """Make the data folder anew and serve it on a free port."""

    def restart(self) -> None:
        """Cut every connection; come back on the same port with the same data."""

    def stop(self) -> None:
        """End the server and remove its folder."""

    def create_database(self, template: str | None = None) -> str:
        """Make a database, empty or a copy of the one behind a URL, and return its URL."""

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""


def lend_database(server: Server, template: str | None = None) -> Iterator[str]:
    """Yield the URL of a new database, and drop it afterwards."""
    url = server.create_database(template)
    yield url
    server.drop_database(url)


def make_run_folder() -> Path:
    place = memory() or open_to_everybody()
    folder = Path(tempfile.mkdtemp(prefix="bindings-etl-tests-", dir=place))
    folder.chmod(0o755)  # as root, servers run as another user
    (folder / "alive").touch()
    return folder


def join_run(folder: Path) -> IO[str]:
    """As long as the returned file stays open in any process, the run is alive and its servers stay."""
    alive = (folder / "alive").open("r+")
    fcntl.lockf(alive, fcntl.LOCK_SH)
    return alive


def memory() -> str | None:
    """The file system in memory, where it has room and runs programs: there, no commit waits for a disk."""
    place = Path("/dev/shm")
    if not place.is_dir() or not os.access(place, os.W_OK):
        return None
    kept = os.statvfs(place)
    has_room = kept.f_bavail * kept.f_frsize >= ROOM
    return str(place) if has_room and not kept.f_flag & os.ST_NOEXEC else None


def open_to_everybody() -> str:
    """The temporary folder, unless root's own is closed to the users that servers run as."""
    chosen = Path(tempfile.gettempdir())
    if os.geteuid() == 0 and not all(
        folder.stat().st_mode & 0o001 for folder in (chosen, *chosen.parents)
    ):
        return "/tmp"
    return str(chosen)


def share(server: Server) -> None:
    """Start a server unless another worker of this run did so already."""
    run_folder = server.home.parent
    with exclusively(run_folder / f"{server.home.name}.lock"):
        if not (server.home / "port").exists():
            start_reaper(run_folder)
            server.start()


def start_reaper(run_folder: Path) -> None:
    """Start the process that cleans up behind this run, once."""
    with exclusively(run_folder / "reaper.lock"):
        if not reaper_is_running(run_folder):
            command = [sys.executable, "-I", "-S", reaper.__file__, str(run_folder)]
            run_detached(command, log=run_folder / "reaper.log", cwd=run_folder)
            (run_folder / "reaper.posted").touch()


def reaper_is_running(run_folder: Path) -> bool:
    return (run_folder / "reaper.posted").exists()


@contextlib.contextmanager
def exclusively(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_home(home: Path, uid: int | None) -> None:
    """Make a server's folder anew, owned by the user that the server runs as."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o755)
    if uid is not None:
        os.chown(home, uid, -1)


def copy_folder(source: Path, target: Path) -> None:
    """Owners and modes included, on which servers insist."""
    subprocess.run(["cp", "-a", source, target], check=True)


def run_detached(command: list[str], *, log: Path, cwd: Path) -> None:
    """Start a process that no signal from the terminal reaches and that outlives its worker."""
    with log.open("a") as output:
        subprocess.run(
            ["sh", "-c", '"$@" &', "sh", *command],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=server_environment(),
            start_new_session=True,
        )


def server_environment() -> dict[str, str]:
    """Nothing of the caller's but the search path, so that no PGDATA, MYSQL_HOME or TZ leaks in."""
    return {"PATH": search_path(), "LC_ALL": "C"}


def search_path() -> str:
    """PATH, plus where distributions keep servers out of the sight of ordinary users."""
    return os.pathsep.join(
        (os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin")
    )


def free_port() -> int:
    """One that nobody has; the system gives clients others, so it stays free until it is used."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
