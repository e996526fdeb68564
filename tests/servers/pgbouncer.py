"""PgBouncer in front of a PostgreSQL: a transaction pooler, whose backends are anybody's in turn."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers.folder import ServerFailedError, free_port, make_home, server_environment
from tests.servers.mariadb import find
from tests.servers.postgres import PostgresServer, unprivileged_uid
from tests.servers.reaper import answers

if TYPE_CHECKING:
    import trustme

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
TLS = """
client_tls_sslmode = allow
client_tls_key_file = {file}
client_tls_cert_file = {file}
"""


def missing() -> str | None:
    """Why there is no PgBouncer to run here, or None."""
    return None if find("pgbouncer") else "pgbouncer not found: apt install pgbouncer"


def require() -> None:
    """Skip the test where there is none, or fail where every engine has to be there."""
    if (reason := missing()) is not None:
        if os.environ.get("TESTS_REQUIRE_ENGINES"):
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def pooling(
    postgres: PostgresServer, home: Path, certificate: "trustme.LeafCert | None" = None
) -> Iterator[int]:
    """Serve transactions of this server from a port of its own, with TLS for whoever wants it."""
    uid, port = unprivileged_uid(), free_port()
    make_home(home, uid)
    (home / "users").write_text('"postgres" ""\n')
    settings = SETTINGS.format(upstream=postgres.port, port=port, users=home / "users")
    if certificate is not None:
        certificate.private_key_and_cert_chain_pem.write_to_path(home / "tls")
        settings += TLS.format(file=home / "tls")
    (home / "settings").write_text(settings)
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
