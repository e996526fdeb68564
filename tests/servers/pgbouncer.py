"""PgBouncer in front of a PostgreSQL: a transaction pooler, whose backends are anybody's in turn."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.folder import ServerFailedError, free_port, make_home, server_environment
from tests.servers.mariadb import find
from tests.servers.postgres import PostgresServer, unprivileged_uid
from tests.servers.warden import answers

# Two backends for everybody: whoever leaves something behind in one is soon found out.
SETTINGS = """
[databases]
* = host=127.0.0.1 port={upstream}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = 2
max_client_conn = 200
"""


def missing() -> str | None:
    """Why there is no PgBouncer to run here, or None."""
    return None if find("pgbouncer") else "pgbouncer not found: apt install pgbouncer"


@contextmanager
def pooling(postgres: PostgresServer, home: Path) -> Iterator[int]:
    """Serve transactions of this server from a port of its own."""
    uid, port = unprivileged_uid(), free_port()
    make_home(home, uid)
    (home / "users").write_text('"postgres" ""\n')
    (home / "settings").write_text(
        SETTINGS.format(upstream=postgres.port, port=port, users=home / "users")
    )
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [str(find("pgbouncer")), str(home / "settings")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            env=server_environment(),
            user=uid,
            extra_groups=None if uid is None else [],
        )
    try:
        wait_for(process, port, home / "log")
        yield port
    finally:
        process.kill()
        process.wait()


def wait_for(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Until it listens."""
    for _ in range(500):
        if answers(port):
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise ServerFailedError(f"pgbouncer did not start:\n{log.read_text()[-2000:]}")
