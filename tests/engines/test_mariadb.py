"""What only MariaDB has: a longest packet."""

from collections.abc import Callable

import pytest

from etl.domain.binding import Reject
from etl.warehouse import migration, quarantine
from etl.warehouse.connection import Warehouse
from tests.acceptance.scenario import Scenario, changes
from tests.engines.scan_harness import SCOPE, day, sid
from tests.servers.mariadb import MariaDBServer

MB = 1 << 20


@pytest.fixture
def narrow_url(own_mariadb: MariaDBServer) -> str:
    """A database of a server that takes 1 MB at a time."""
    import pymysql

    with pymysql.connect(
        host="127.0.0.1", port=own_mariadb.port, user="root", autocommit=True
    ) as connection:
        connection.cursor().execute(f"SET GLOBAL max_allowed_packet = {MB}")
    return own_mariadb.create_database()


@pytest.mark.parametrize(
    "sign", [*(pytest.param(one, marks=pytest.mark.slow) for one in ("x", "\\", "'", "é")), "😀"]
)
def test_a_row_that_is_longer_than_a_packet_costs_one_row(
    scenario_on: Callable[..., Scenario], narrow_url: str, sign: str
) -> None:
    """The server cuts the connection at such a row: the service then failed at every run, and was told to be unreachable."""
    scenario = scenario_on(narrow_url, (20,))
    service = scenario.services[0]
    long, rather_long = service.sids()[3:5]
    service.change(long, endpoint=sign * 2 * MB)
    service.change(rather_long, endpoint="y" * 300_000)
    assert changes(scenario.sync("--dry-run")) == {"inserted": 19, "rejected": 1}
    assert changes(scenario.sync()) == {"inserted": 19, "rejected": 1}
    assert changes(scenario.sync()) == {"rejected": 1}
    [line] = scenario.query("SELECT sid, reason, payload FROM rejected_bindings")
    assert line["sid"] == long
    assert "bytes that this warehouse takes" in line["reason"]
    assert line["payload"].startswith("{")
    assert "cut off: " in line["payload"][-100:]
    assert scenario.run("rejects", "retry").code == 0
    service.change(long, endpoint="short")
    assert changes(scenario.sync()) == {"inserted": 1}
    scenario.assert_equal_to_world()


def test_a_reject_that_is_longer_than_a_packet_keeps_its_beginning(
    open_on: Callable[..., Warehouse], narrow_url: str
) -> None:
    """A malformed row of any length has to find a place in quarantine, whatever is wrong with it."""
    warehouse = open_on(narrow_url)
    migration.upgrade(warehouse, None)
    rejects = [
        Reject(sid(1), "odd", "\\é" * MB),
        Reject(None, "odd", "'" * 3 * MB),
        Reject(sid(2), "odd", "whole"),
    ]
    for _ in range(2):
        warehouse.transact(lambda conn: quarantine.record(conn, 1, SCOPE, rejects, day(1)))
    lines = warehouse.read(quarantine.read_open)
    assert len(lines) == 3
    assert [line.payload for line in lines if line.sid == sid(2)] == ["whole"]
    assert sum(line.payload.endswith(" takes 522288)") for line in lines) == 2
