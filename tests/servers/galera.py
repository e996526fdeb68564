"""A Galera cluster of three MariaDB nodes, when this machine has what it takes."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.servers import mariadb
from tests.servers.folder import ServerFailedError, free_port, make_home
from tests.servers.mariadb import MariaDBServer

PROVIDERS = ("/usr/lib/galera", "/usr/lib64/galera-4", "/usr/lib64/galera")
LIBRARY = "libgalera_smm.so"
NODES = 3
PORTS_OF_A_NODE = 3  # of the group, of its incremental and of its full transfers of state


def missing() -> str | None:
    """Why there is no cluster to run here, or None."""
    if provider() is None:
        return f"{LIBRARY} not found: apt install galera-4"
    if mariadb.find("rsync") is None:
        return "rsync not found: apt install rsync"
    return mariadb.missing()


def provider() -> Path | None:
    places = (Path(folder) / LIBRARY for folder in PROVIDERS)
    return next((place for place in places if place.exists()), None)


def place_of(url: str) -> str:
    """Host and port that a URL names."""
    return url.partition("@")[2].partition("/")[0]


@dataclass(frozen=True)
class GaleraCluster:
    home: Path
    options: tuple[str, ...] = ()

    @property
    def nodes(self) -> Sequence[MariaDBServer]:
        ports = json.loads((self.home / "ports").read_text())
        members = ",".join(f"127.0.0.1:{own[0]}" for own in ports)
        return [
            MariaDBServer(
                self.home.with_name(f"{self.home.name}-node{number}"),
                options=(*options_of_node(f"gcomm://{members}", *own), *self.options),
                patience=120,  # a node that joins takes the others' data first
            )
            for number, own in enumerate(ports, start=1)
        ]

    def start(self) -> None:
        make_home(self.home, None)
        ports = [free_port() for _ in range(NODES * PORTS_OF_A_NODE)]
        of_nodes = [ports[at::NODES] for at in range(NODES)]
        (self.home / "ports").write_text(json.dumps(of_nodes))
        for number, node in enumerate(self.nodes):
            begins = () if number else ("--wsrep-new-cluster",)
            replace(node, options=(*node.options, *begins)).start()
            wait_until_synced(node)
        (self.home / "port").touch()  # others of this run may use it from now on

    def restart(self) -> None:
        """One node after the other, as for an upgrade: the cluster goes on."""
        for node in self.nodes:
            node.restart()
            wait_until_synced(node)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def create_database(self, template: str | None = None) -> str:
        return self.nodes[0].create_database(template)

    def drop_database(self, url: str) -> None:
        for node in self.nodes:
            node.end_sessions(url)
        self.nodes[0].drop_database(url)

    def through(self, url: str, *numbers: int) -> str:
        """A database's URL by these nodes, counted from 0, in this order."""
        places = [f"127.0.0.1:{self.nodes[number].port}" for number in numbers]
        return url.replace(place_of(url), ",".join(places))


def options_of_node(members: str, group: int, increment: int, state: int) -> tuple[str, ...]:
    """What makes a MariaDB a node of a cluster on loopback."""
    transfers = {
        "gcache.size": "16M",
        "gmcast.listen_addr": f"tcp://127.0.0.1:{group}",
        "ist.recv_addr": f"127.0.0.1:{increment}",
    }
    return (
        "--wsrep-on=ON",
        f"--wsrep-provider={provider()}",
        f"--wsrep-cluster-address={members}",
        f"--wsrep-node-address=127.0.0.1:{group}",
        "--wsrep-sst-method=rsync",
        f"--wsrep-sst-receive-address=127.0.0.1:{state}",
        f"--wsrep-provider-options={';'.join(f'{name}={value}' for name, value in transfers.items())}",
        "--binlog-format=ROW",
        "--innodb-autoinc-lock-mode=2",
    )


def wait_until_synced(node: MariaDBServer, seconds: float = 120) -> None:
    """Until a node has caught up with its cluster."""
    give_up_at = time.monotonic() + seconds
    while state_of(node) != "Synced":
        if time.monotonic() > give_up_at:
            raise ServerFailedError(f"the node in {node.home} did not join its cluster")
        time.sleep(0.05)


def state_of(node: MariaDBServer) -> str:
    """What a node says of itself: `Synced`, `Initialized` without a quorum, or nothing at all."""
    import pymysql

    try:
        with node.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'wsrep_local_state_comment'")
            row = cursor.fetchone()
    except pymysql.err.MySQLError:
        return ""
    return str(row[1]) if row else ""
