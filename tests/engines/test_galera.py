"""What only a Galera cluster has: conflicts at COMMIT, nodes that are behind, nodes that are gone (docs/engines/galera.md)."""

import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from etl import errors
from etl.domain.scope import Scope
from etl.simulator.replies import Reply
from etl.sync import prefetch
from etl.warehouse import leases
from etl.warehouse.connection import Warehouse
from etl.warehouse.leases import Holder
from etl.warehouse.tables import HEAD, VERSION_TABLE
from tests.acceptance.fault_proxy import listening, pass_on
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Result, Scenario, wait_until
from tests.conftest import own
from tests.engines import fail_at
from tests.engines.scan_harness import OTHER_SERVICE, ScanHarness, Tally, sent
from tests.engines.test_contract_leases import APN, WHOLE, acquire, holder, live
from tests.servers.folder import free_port, lend_database
from tests.servers.galera import GaleraCluster, place_of, state_of, wait_until_synced
from tests.servers.mariadb import MariaDBServer
from tests.servers.templates import migrate, template_database

pytestmark = pytest.mark.nightly

OpenOn = Callable[..., Warehouse]
ScenarioOn = Callable[..., Scenario]


@pytest.fixture(scope="module")
def cluster(run_folder: Path) -> Iterator[GaleraCluster]:
    """Three nodes for these tests alone, with the settings that a server comes with."""
    yield from own(GaleraCluster(run_folder / f"own-{uuid.uuid4().hex}"), "galera")


@pytest.fixture
def url(cluster: GaleraCluster) -> Iterator[str]:
    """A migrated database, through its first node; all nodes are back afterwards."""
    for lent in lend_database(cluster, template_database(cluster)):
        yield lent
        heal(cluster)


def heal(cluster: GaleraCluster) -> None:
    """Bring back what a test has taken away: nodes that were killed or isolated, a majority."""
    for node in cluster.nodes:
        if node.is_up:
            node.execute("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'")
    if not any(state_of(node) == "Synced" for node in cluster.nodes):
        bootstrap(cluster.nodes[0])
    for node in cluster.nodes:
        if not node.is_up:
            node.resume()
        wait_until_synced(node)


def bootstrap(node: MariaDBServer) -> None:
    """Declare a node to be the cluster, as an administrator does who knows that the others are gone."""
    node.execute("SET GLOBAL wsrep_provider_options = 'pc.bootstrap=1'")
    wait_until_synced(node)


def isolate(node: MariaDBServer) -> None:
    """Cut a node off from the others; whoever is connected to it stays so."""
    node.execute("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'")
    wait_until(lambda: state_of(node) != "Synced")


# --- two at once ---


@pytest.mark.parametrize("scopes", [(WHOLE, WHOLE), (WHOLE, APN)], ids=["same", "overlapping"])
def test_who_takes_a_lease_later_finds_out_at_commit(
    cluster: GaleraCluster, url: str, open_on: OpenOn, scopes: tuple[Scope, Scope]
) -> None:
    """Nodes share no locks: both would find the service free, and publish each other's half-read state."""
    one, other = open_on(url), open_on(cluster.through(url, 1))
    acquire(one, holder(3))  # so that it is no new service, whose gate both would have to make
    one.transact(lambda conn: leases.release(conn, holder(3), WHOLE))
    codes: list[object] = []

    def note(context: sa.engine.ExceptionContext) -> None:
        codes.append((context.statement, context.original_exception.args[0]))

    sa.event.listen(sa.Engine, "handle_error", note)
    try:
        with (
            fail_at.before("COMMIT", lambda _: acquire(other, holder(2), scopes[1])) as hits,
            pytest.raises(errors.LeaseHeld, match="run 2 on host-2"),
        ):
            acquire(one, holder(1), scopes[0])
    finally:
        sa.event.remove(sa.Engine, "handle_error", note)
    assert hits.count == 1
    assert codes == [(None, 1213)]
    assert live(one) == live(other) == [(scopes[1].label, 2)]


def test_a_lease_that_was_taken_over_on_another_node_undoes_what_relies_on_it(
    cluster: GaleraCluster, url: str, open_on: OpenOn
) -> None:
    """A process that slept on one node must not publish over the run that took its lease on another."""
    one, other = open_on(url), open_on(cluster.through(url, 1))
    acquire(one, holder(1, lease_seconds=-1))

    def rely(conn: sa.Connection) -> None:
        leases.renew(conn, one.engine, holder(1), WHOLE)
        conn.execute(sa.text("INSERT INTO sync_gates (chat_service_sid) VALUES ('mark')"))

    with (
        fail_at.before("COMMIT", lambda _: acquire(other, holder(2))),
        pytest.raises(errors.LeaseLost),
    ):
        one.transact(rely)
    marks = sa.text("SELECT count(*) FROM sync_gates WHERE chat_service_sid = 'mark'")
    assert other.read(lambda conn: conn.scalar(marks)) == 0
    assert live(one) == [("service", 2)]


def test_a_heartbeat_on_another_node_does_not_undo_what_is_published(
    cluster: GaleraCluster, url: str, scenario_on: ScenarioOn, open_on: OpenOn
) -> None:
    """Behind a balancer a publication that outlasts a third of the lease would be undone each time, for ever."""
    scenario, other = scenario_on(url, (40,)), open_on(cluster.through(url, 1))

    def beat(_: sa.Connection) -> None:
        (lease,) = other.read(lambda conn: leases.live(conn, other.engine))
        owner, _, _ = lease.owner.partition(".")
        process = Holder(owner, lease.run_id, lease.host, 120)
        other.transact(lambda conn: leases.renew_all(conn, other.engine, process))
        with pytest.raises(errors.LeaseHeld):  # who looks meanwhile undoes nothing either
            acquire(other, holder(99), Scope("main", scenario.services[0].sid))

    with fail_at.before("INSERT INTO bindings", beat) as hits:
        result = scenario.sync()
    assert hits.count == 1
    assert "transaction.retried" not in result.err
    scenario.assert_equal_to_world()


def test_of_two_runs_through_two_nodes_one_works(
    cluster: GaleraCluster, url: str, scenario_on: ScenarioOn
) -> None:
    """Cron on two hosts, each with the node beside it, is the usual way to come to such a cluster."""
    scenario = scenario_on(url, (40,))
    second: list[Result] = []

    def watch(request: Request) -> Reply | None:
        if request.is_listing and not second:
            second.append(Result(-1, "", ""))
            other = start_through(scenario, cluster.through(url, 1), "sync", "--json")
            second.append(scenario.wait_for(other, expect=6))
        return None

    scenario.interceptor.watch = watch
    assert scenario.wait_for(scenario.start("sync", "--json")).code == 0
    assert "is being worked on by run" in second[-1].out
    scenario.assert_equal_to_world()


def test_two_shards_sync_through_two_nodes_at_once(
    cluster: GaleraCluster, url: str, scenario_on: ScenarioOn
) -> None:
    """Shards meet in the ledger, the gates and the rules; no meeting of theirs may cost a service."""
    scenario = scenario_on(url, (30,) * 12, max_page_size=10)
    shards = ("--run-group", "night", "--shard")
    for _ in range(2):
        both = [
            start_through(
                scenario, cluster.through(url, node), "sync", "--json", *shards, f"{node}/2"
            )
            for node in range(2)
        ]
        results = [scenario.wait_for(one) for one in both]
        read = [result.services for result in results]
        assert sum(map(len, read)) == len({*read[0], *read[1]}) == 12
        assert all(read), "each shard has to have some of the services, or nothing is tried here"
        scenario.assert_equal_to_world()
        for service in scenario.services:
            service.touch(3)
            service.delete(1)
        shards = ("--run-group", "morning", "--shard")


def start_through(scenario: Scenario, url: str, *arguments: str) -> "subprocess.Popen[str]":
    """A process with a configuration of its own, which names another node."""
    settings, path = scenario.settings, scenario.config_path
    scenario.settings = {**settings, "warehouse": {"url": url}}
    scenario.config_path = scenario.folder / f"{uuid.uuid4().hex}.yaml"
    process = scenario.start(*arguments)
    scenario.settings, scenario.config_path = settings, path
    return process


def test_migrations_through_two_nodes_take_turns(
    cluster: GaleraCluster, url: str, scenario_on: ScenarioOn
) -> None:
    """Two pods that start together both migrate; once that left two revisions, and no way on."""
    scenario = scenario_on(url, (40,))
    others: list[subprocess.Popen[str]] = []

    def start_another(_: sa.Connection) -> None:
        others.append(start_through(scenario, cluster.through(empty, 1), "migrate"))
        wait_until(lambda: others[0].poll() is not None or waits_for_its_turn(cluster.nodes[1]))

    for empty in lend_database(cluster):
        with fail_at.before("CREATE TABLE bindings", start_another):
            migrate(empty)
        scenario.wait_for(others[0])
        scenario = scenario_on(empty, (40,))
        assert scenario.query(f"SELECT * FROM {VERSION_TABLE}") == [{"version_num": HEAD}]
        scenario.sync()
        scenario.assert_equal_to_world()


def waits_for_its_turn(node: MariaDBServer) -> bool:
    with node.connect() as connection, connection.cursor() as cursor:
        like = f"INSERT INTO {VERSION_TABLE}%"
        cursor.execute("SELECT 1 FROM information_schema.processlist WHERE info LIKE %s", (like,))
        return cursor.fetchone() is not None


# --- nodes that are behind ---


def test_who_reads_on_another_node_sees_what_was_committed(
    cluster: GaleraCluster, url: str, open_on: OpenOn
) -> None:
    """A run that looks for its own publication, or for a lease, on a node that is behind would not find it."""
    one, behind = open_on(url), open_on(cluster.through(url, 1))
    assert live(behind) == []
    with cluster.nodes[1].connect() as administrator, administrator.cursor() as cursor:
        cursor.execute("FLUSH TABLES WITH READ LOCK")  # from now on it applies nothing
        acquire(one, holder(1))
        with ThreadPoolExecutor() as pool:
            reading = pool.submit(live, behind)
            locking = pool.submit(acquire, behind, holder(2))
            time.sleep(0.5)
            assert not reading.done()
            cursor.execute("UNLOCK TABLES")
            assert reading.result() == [("service", 1)]
            with pytest.raises(errors.LeaseHeld, match="run 1 on host-1"):
                locking.result()


@pytest.fixture
def small_write_sets(cluster: GaleraCluster) -> Iterator[None]:
    """Room for a batch of a thousand rows, and not for the publication of some."""
    for node in cluster.nodes:
        node.execute("SET GLOBAL wsrep_max_ws_size = 3000000")
    yield
    for node in cluster.nodes:
        node.execute("SET GLOBAL wsrep_max_ws_size = DEFAULT")


@pytest.mark.usefixtures("small_write_sets")
def test_what_is_larger_than_a_write_set_is_published(
    url: str, scenario_on: ScenarioOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service of millions of bindings would end each night with an error that says nothing."""
    monkeypatch.setattr(prefetch, "BATCH_PAGES", 1)
    scenario = scenario_on(url, (4000,), max_page_size=1000)
    scenario.account["page_size"] = 1000
    assert scenario.sync().totals["inserted"] == 4000
    scenario.services[0].touch(3900)
    assert scenario.sync().totals["updated"] == 3900
    scenario.assert_equal_to_world()


@pytest.mark.usefixtures("small_write_sets")
def test_a_large_first_load_meets_a_binding_of_another_service(url: str, open_on: OpenOn) -> None:
    """It is found at the last of many rows, when the other nodes have got most of them already."""
    warehouse = open_on(url)
    last = 6000
    harness = ScanHarness(warehouse)
    harness.scan([sent(last)])
    moved = ScanHarness(warehouse, Scope("main", OTHER_SERVICE))
    moved.scans = harness.scans
    rows = [sent(number, chat_service_sid=OTHER_SERVICE) for number in range(1, last + 1)]
    batches = [rows[start : start + 1000] for start in range(0, last, 1000)]
    assert moved.scan(*batches, deletes=None) == Tally(inserted=last - 1, updated=1)
    assert harness.left_over() == 0


# --- nodes that are gone ---


@pytest.mark.parametrize("place", ["INSERT INTO bindings", "COMMIT"])
def test_a_node_that_is_killed_while_it_publishes_costs_one_more_try(
    cluster: GaleraCluster, url: str, scenario_on: ScenarioOn, place: str
) -> None:
    """The URL names other nodes so that the loss of one is no more than a pause."""
    scenario = scenario_on(url, (40,))
    scenario.settings["warehouse"]["url"] = cluster.through(url, 0, 1)
    scenario.settings["retry"] |= {"timeout_seconds": 20, "max_total_seconds": 60}
    is_publishing = threading.Event()

    def kill(_: sa.Connection) -> None:
        if is_publishing.is_set() and cluster.nodes[0].is_up:
            cluster.nodes[0].halt()

    with (
        fail_at.before("INSERT INTO bindings", lambda _: is_publishing.set()),
        fail_at.before(place, kill, times=None),
    ):
        result = scenario.sync()
    assert not cluster.nodes[0].is_up
    assert "transaction.retried" in result.err
    assert result.totals["inserted"] == 40
    scenario.warehouse_url = cluster.through(url, 1)
    scenario.assert_equal_to_world()
    assert scenario.query("SELECT status FROM sync_runs") == [{"status": "succeeded"}]
    assert scenario.sync().totals["unchanged"] == 40


def test_a_node_that_is_killed_and_was_the_only_one_named_ends_the_run(
    cluster: GaleraCluster, url: str, scenario_on: ScenarioOn
) -> None:
    """What was not published is published by the next run, through whichever node."""
    scenario = scenario_on(url, (40,))
    scenario.settings["retry"]["attempts"] = 2
    with fail_at.before("INSERT INTO bindings", lambda _: cluster.nodes[0].halt()):
        result = scenario.sync(expect=None)
    assert result.code in (4, 7)
    assert "refuses the connection" in result.out + result.err
    assert "Traceback" not in result.err
    scenario.warehouse_url = scenario.settings["warehouse"]["url"] = cluster.through(url, 2)
    assert scenario.query("SELECT count(*) AS n FROM bindings") == [{"n": 0}]
    scenario.expire_leases()
    assert scenario.sync().totals["inserted"] == 40
    scenario.assert_equal_to_world()


def test_a_node_that_is_cut_off_while_it_publishes_is_left_for_another(
    cluster: GaleraCluster, url: str, scenario_on: ScenarioOn
) -> None:
    """It still answers, and says to each statement that it is not ready; sessions on it stand for ever."""
    scenario = scenario_on(url, (40,))
    scenario.settings["warehouse"]["url"] = cluster.through(url, 0, 1, 2)
    with fail_at.before("INSERT INTO bindings", lambda _: isolate(cluster.nodes[0])):
        result = scenario.sync()
    assert "transaction.retried" in result.err
    assert result.totals["inserted"] == 40
    scenario.warehouse_url = cluster.through(url, 1)
    scenario.assert_equal_to_world()


def test_a_node_without_a_majority_is_said_in_a_sentence(
    cluster: GaleraCluster, url: str, scenario_on: ScenarioOn, open_on: OpenOn
) -> None:
    """It was told as busy with another transaction, and whoever reads that waits in vain."""
    scenario = scenario_on(url, (40,))
    opened = open_on(url, attempts=2)
    assert live(opened) == []
    for node in cluster.nodes[1:]:
        node.halt()
    wait_until(lambda: state_of(cluster.nodes[0]) != "Synced")
    with pytest.raises(errors.WarehouseUnreachable, match="lost the majority of its cluster"):
        live(opened)  # by a session from before
    scenario.settings["retry"]["attempts"] = 2
    for command in ("sync", "status", "check"):
        result = scenario.run(command, expect=7)
        assert "lost the majority of its cluster" in result.out + result.err
        assert "Traceback" not in result.err
    bootstrap(cluster.nodes[0])
    assert scenario.sync().totals["inserted"] == 40
    scenario.assert_equal_to_world()


def test_a_process_keeps_all_its_sessions_on_one_node(
    cluster: GaleraCluster, url: str, open_on: OpenOn
) -> None:
    """A heartbeat on one node undoes, at COMMIT, what is being published on another."""
    first, second = cluster.nodes[:2]
    port = free_port()
    several = url.replace(place_of(url), f"127.0.0.1:{port},127.0.0.1:{second.port}")
    warehouse = open_on(several)

    def ports(sessions: int) -> set[int]:
        """Of the nodes that so many sessions at once are on."""
        all_open = threading.Barrier(sessions)

        def look(conn: sa.Connection) -> int:
            all_open.wait(timeout=60)
            return int(conn.scalar(sa.text("SELECT @@port")) or 0)

        with ThreadPoolExecutor() as pool:
            return set(pool.map(lambda _: warehouse.read(look), range(sessions)))

    way = pass_on(f"tcp://127.0.0.1:{first.port}")
    with listening(way, port=port) as listener:
        assert ports(2) == {first.port}
        listener.refuse()
        assert second.port in ports(3)
        assert ports(3) == {second.port}  # also the two that stand on the first
    with listening(way, port=port):
        assert ports(4) == {second.port}


# --- ids ---


def test_the_newest_image_has_the_highest_id_whatever_node_wrote_it(
    cluster: GaleraCluster, url: str, scenario_on: ScenarioOn
) -> None:
    """Each node counts in steps of its own; a returning binding is matched with the newest by its id."""
    scenario = scenario_on(url, (6,))
    (service,) = scenario.services
    scenario.settings["deletes"] = {"mode": "hard"}
    for turn in range(4):
        scenario.settings["warehouse"]["url"] = cluster.through(url, turn % 3)
        scenario.sync()
        if turn % 2:
            service.bring_back(2)
        else:
            service.delete(2)
    images = scenario.query("SELECT sid, id, valid_from FROM binding_versions ORDER BY sid, id")
    by_time = sorted(images, key=lambda image: (image["sid"], image["valid_from"]))
    assert [image["id"] for image in by_time] == [image["id"] for image in images]
    assert len({image["sid"] for image in images}) < len(images)
