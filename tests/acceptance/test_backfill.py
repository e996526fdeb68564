"""`backfill`, partitions, shards: a chosen part of the bindings, and nothing else, is read, written and deleted (docs/commands.md)."""

import signal
from collections.abc import Callable
from random import Random
from subprocess import Popen

import pytest

from etl.domain.shard import Shard, Spread
from etl.simulator.replies import Reply, error
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Result, Scenario, changes, plain, wait_until

MakeScenario = Callable[..., Scenario]

ALL_TYPES = ("apn", "fcm", "gcm", "twilsock")


def of_types(scenario: Scenario, *kinds: str) -> dict[str, dict[str, object]]:
    """The world's bindings of these types, as the warehouse has to show them."""
    return {sid: row for sid, row in scenario.expected().items() if row["binding_type"] in kinds}


def refuse_types(scenario: Scenario, *kinds: str, message: str = "Invalid BindingType") -> None:
    """A server that does not know these types any more."""

    def watch(request: Request) -> Reply | None:
        refused = request.is_listing and not set(
            request.parameters.get("BindingType", ())
        ).isdisjoint(kinds)
        return error(20001, message) if refused else None

    scenario.interceptor.watch = watch


def statuses(result: Result) -> dict[str, str]:
    """What became of each scope of a run over one service."""
    return {told["scope"]: told["status"] for told in result.json["services"]}


def test_a_backfill_of_everything_is_a_sync(make_scenario: MakeScenario) -> None:
    """Without filters a backfill proves absence like any complete scan."""
    scenario = make_scenario((60, 40), max_page_size=25)
    assert scenario.backfill().json["mode"] == "backfill"
    scenario.assert_equal_to_world()
    for service in scenario.services:
        service.touch(3)
        service.delete(2)
    assert changes(scenario.backfill()) == {"updated": 6, "deleted": 4}
    scenario.assert_equal_to_world()
    assert changes(scenario.sync()) == {}


@pytest.mark.parametrize("types", [("apn",), ("gcm", "twilsock"), ("APN", "fcm")])
def test_types_are_read_and_nothing_else(
    make_scenario: MakeScenario, types: tuple[str, ...]
) -> None:
    """Rows of other types must be neither loaded nor deleted by a backfill of some types."""
    scenario = make_scenario((60, 40), max_page_size=25)
    options = [option for kind in types for option in ("--type", kind)]
    kinds = [kind.lower() for kind in types]
    scenario.backfill(*options)
    assert scenario.stored() == of_types(scenario, *kinds)
    scenario.sync()
    before = scenario.stored()
    for service in scenario.services:
        service.delete(15)
    scenario.backfill(*options)
    others = {sid: row for sid, row in before.items() if row["binding_type"] not in kinds}
    assert scenario.stored() == others | of_types(scenario, *kinds)


def test_identities_are_read_and_nothing_else(make_scenario: MakeScenario) -> None:
    """A backfill of one person must not touch another, nor delete what it never asked for."""
    scenario = make_scenario((60,), max_page_size=25)
    scenario.sync()
    before = scenario.stored()
    service = scenario.services[0]
    who = [service.bindings[sid]["identity"] for sid in service.sids()[:2]]
    service.touch(60)
    gone = [sid for sid, row in before.items() if row["identity"] == who[0]][:1]
    service.remove(gone)
    scenario.backfill("--identity", who[0], "--identity", who[1])
    others = {sid: row for sid, row in before.items() if row["identity"] not in who}
    assert scenario.stored() == others | {
        sid: row for sid, row in scenario.expected().items() if row["identity"] in who
    }
    [scan] = scenario.query("SELECT scope FROM sync_scans ORDER BY id DESC LIMIT 1")
    assert not any(name in scan["scope"] for name in who)


@pytest.mark.parametrize(
    "rules", [{"identity": "hmac", "key": "0123456789abcdef"}, {"identity": "drop"}]
)
def test_deletes_of_an_identity_find_it_however_it_is_stored(
    make_scenario: MakeScenario, rules: dict[str, str]
) -> None:
    """Hashed, an identity's rows must still be found when they are gone; dropped, none may be taken for another's."""
    scenario = make_scenario((60,))
    scenario.settings["privacy"] = rules
    scenario.sync()
    service = scenario.services[0]
    sid = service.sids()[0]
    who = service.bindings[sid]["identity"]
    service.remove([sid])
    deleted = {"deleted": 1} if rules["identity"] == "hmac" else {}
    assert changes(scenario.backfill("--identity", who)) == deleted
    assert len(scenario.stored()) == 60 - len(deleted)


def test_an_identity_that_is_not_plain_is_asked_for_as_it_is(make_scenario: MakeScenario) -> None:
    """Spaces, ampersands and letters of other alphabets must reach the API whole."""
    scenario = make_scenario((20,))
    who = "Zoë & Søn + 100% / ?x=1#y"
    sid = scenario.services[0].sids()[5]
    scenario.services[0].change(sid, identity=who)
    scenario.backfill("--identity", who)
    assert scenario.stored().keys() == {sid}


def test_a_row_that_left_the_filter_is_alive(make_scenario: MakeScenario) -> None:
    """A binding that changed its identity is no longer under the old one, and not gone for that."""
    scenario = make_scenario((20,))
    scenario.sync()
    service = scenario.services[0]
    sid = service.sids()[0]
    who = service.bindings[sid]["identity"]
    service.change(sid, identity="somebody else")
    assert changes(scenario.backfill("--identity", who)) == {"updated": 1}
    scenario.assert_equal_to_world()


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2022-06-01", None),
        (None, "2022-06-01T12:00:00Z"),
        ("2021-01-01T00:00:00+02:00", "2023-01-01"),
    ],
)
def test_dates_choose_rows_and_delete_nothing(
    make_scenario: MakeScenario, since: str | None, until: str | None
) -> None:
    """Rows outside the span are passed over; what is gone inside it cannot be told from what moved out of it."""
    scenario = make_scenario((80,), max_page_size=25)
    options = [*(("--since", since) if since else ()), *(("--until", until) if until else ())]
    low = {
        "2022-06-01": "2022-06-01 00:00:00.000000",
        "2021-01-01T00:00:00+02:00": "2020-12-31 22:00:00.000000",
    }.get(since or "", "0")
    high = {
        "2022-06-01T12:00:00Z": "2022-06-01 12:00:00.000000",
        "2023-01-01": "2023-01-01 00:00:00.000000",
    }.get(until or "", "9")
    result = scenario.backfill(*options)
    chosen = {
        sid: row for sid, row in scenario.expected().items() if low <= row["date_updated"] < high
    }
    assert scenario.stored() == chosen
    assert result.totals["inserted"] == len(chosen)
    scenario.sync()
    scenario.services[0].delete(10)
    assert changes(scenario.backfill(*options)) == {}
    assert len(scenario.stored()) == 80


@pytest.mark.parametrize("types", [(), ("apn",)])
def test_partitions_together_are_the_whole(
    make_scenario: MakeScenario, types: tuple[str, ...]
) -> None:
    """A chain per type is faster, and must come to the same as one chain."""
    scenario = make_scenario((60, 40), max_page_size=10)
    scenario.account["partition_by_type"] = True
    scenario.sync()
    scenario.assert_equal_to_world()
    for service in scenario.services:
        service.touch(6)
        service.delete(6)
    scenario.backfill(*(option for kind in types for option in ("--type", kind)))
    if not types:
        scenario.assert_equal_to_world()
    scenario.sync()
    scenario.assert_equal_to_world()
    freshness = scenario.query("SELECT last_complete_at FROM service_freshness")
    assert all(row["last_complete_at"] for row in freshness)


def test_partitions_leave_types_that_are_not_known_today(make_scenario: MakeScenario) -> None:
    """Rows of another type are not seen by any partition, and are not gone for that."""
    scenario = make_scenario((40,), max_page_size=10)
    service = scenario.services[0]
    new = service.sids()[3]
    service.change(new, binding_type="web-push")
    scenario.sync()
    scenario.assert_equal_to_world()
    scenario.account["partition_by_type"] = True
    service.remove([new])
    assert changes(scenario.sync()) == {}
    assert new in scenario.stored()


def test_a_row_that_changes_its_type_moves_between_partitions(make_scenario: MakeScenario) -> None:
    """Absent from one chain and present in another, such a row exists."""
    scenario = make_scenario((40,), max_page_size=10)
    scenario.account["partition_by_type"] = True
    scenario.sync()
    service = scenario.services[0]
    [sid] = [sid for sid in service.sids() if service.bindings[sid]["binding_type"] == "apn"][:1]
    service.change(sid, binding_type="fcm")
    scenario.sync()
    scenario.assert_equal_to_world()
    [now] = scenario.query(
        "SELECT deleted_at, binding_type FROM bindings WHERE sid = :sid", sid=sid
    )
    assert plain("binding_type", now["binding_type"]) == "fcm"
    assert len(scenario.query("SELECT id FROM binding_versions WHERE sid = :sid", sid=sid)) == 1


@pytest.mark.parametrize("message", ["Invalid BindingType", "Bad request"])
def test_a_type_that_the_server_refuses_is_skipped(
    make_scenario: MakeScenario, message: str
) -> None:
    """Google ended gcm; a server that no longer takes that filter, in whatever words, must not cost the other types."""
    scenario = make_scenario((40,), max_page_size=10)
    scenario.account["partition_by_type"] = True
    scenario.sync()
    before = of_types(scenario, "gcm")
    assert before
    refuse_types(scenario, "gcm", message=message)
    scenario.services[0].touch(10)
    wanted = {f"type:{kind}": "skipped" if kind == "gcm" else "published" for kind in ALL_TYPES}
    planned = {part: "planned" if was == "published" else was for part, was in wanted.items()}
    assert statuses(scenario.sync("--dry-run")) == planned
    result = scenario.sync()
    assert statuses(result) == wanted
    assert (result.json["status"], of_types(scenario, "gcm").keys()) == ("succeeded", before.keys())
    assert scenario.stored() == of_types(scenario, "apn", "fcm", "twilsock") | before


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--shard", "1/2")])
def test_a_service_of_which_every_type_is_refused_has_failed(
    make_scenario: MakeScenario, options: tuple[str, ...]
) -> None:
    """A run that read nothing at all must not pass for one that did everything, nor make the data look fresh."""
    scenario = make_scenario((40,), max_page_size=10)
    scenario.account["partition_by_type"] = True
    scenario.sync()
    fresh = scenario.query("SELECT last_complete_at FROM service_freshness")
    refuse_types(scenario, *ALL_TYPES)
    result = scenario.sync(*options, expect=4)
    assert set(statuses(result).values()) == {"failed"}
    assert scenario.query("SELECT last_complete_at FROM service_freshness") == fresh


def test_a_type_that_was_asked_for_is_not_skipped(make_scenario: MakeScenario) -> None:
    """Whoever names a type wants to hear that it was not read."""
    scenario = make_scenario((40,), max_page_size=10)
    scenario.account["partition_by_type"] = True
    refuse_types(scenario, "gcm")
    assert statuses(scenario.backfill("--type", "gcm", expect=4)) == {"type:gcm": "failed"}


def test_a_type_that_is_refused_half_way_has_failed(make_scenario: MakeScenario) -> None:
    """A link that breaks in the middle of a chain says nothing about the type."""
    scenario = make_scenario((80,), max_page_size=5)
    scenario.account["partition_by_type"] = True

    def watch(request: Request) -> Reply | None:
        return (
            error(21481, "Invalid PageToken")
            if request.page == 1 and "gcm" in request.parameters["BindingType"]
            else None
        )

    scenario.interceptor.watch = watch
    assert statuses(scenario.sync(expect=3))["type:gcm"] == "failed"


@pytest.mark.parametrize(("parts", "partition"), [(1, False), (2, False), (3, True), (7, False)])
def test_shards_together_are_the_whole(
    make_scenario: MakeScenario, parts: int, partition: bool
) -> None:
    """Each service belongs to exactly one shard, whatever their number."""
    scenario = make_scenario((12, 9, 5, 0), max_page_size=10)
    scenario.account["partition_by_type"] = partition
    told = [
        scan
        for part in range(parts)
        for scan in scenario.sync("--shard", f"{part}/{parts}").json["services"]
    ]
    scopes = [(scan["chat_service_sid"], scan["scope"]) for scan in told]
    assert len(scopes) == len(set(scopes)) == 4 * (4 if partition else 1)
    scenario.assert_equal_to_world()
    scenario.services[0].delete(2)
    assert (
        sum(scenario.sync("--shard", f"{part}/{parts}").totals["deleted"] for part in range(parts))
        == 2
    )
    scenario.assert_equal_to_world()


@pytest.mark.slow
def test_shards_run_side_by_side(make_scenario: MakeScenario, postgres18_url: str) -> None:
    """The shards of one schedule start at the same minute on several machines."""
    scenario = make_scenario((30, 25, 20, 15, 10), url=postgres18_url, max_page_size=10)
    processes = [scenario.start("sync", "--json", "--shard", f"{part}/3") for part in range(3)]
    results = [scenario.wait_for(process) for process in processes]
    assert sum(result.totals["inserted"] for result in results) == 100
    scenario.assert_equal_to_world()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_shard_that_dies_is_done_by_its_next_start(
    make_scenario: MakeScenario, postgres18_url: str, seed: int
) -> None:
    """Four processes share one warehouse; one is killed anywhere, the others do not wait for it, and its part is done later."""
    scenario = make_scenario(
        (40, 90, 70, 30, 50, 60), max_page_size=10, url=postgres18_url, latency_ms=5
    )
    service, page = scenario.services[1].sid, Random(seed).randrange(9)
    spread = Spread(scenario.world.account_sid, 4, 4)
    victim = next(part for part in range(4) if spread.takes(Shard(part, 4), service))
    processes: dict[int, Popen[str]] = {}

    def watch(request: Request) -> Reply | None:
        if request.is_listing and (request.service, request.page) == (service, page):
            wait_until(lambda: victim in processes)
            processes[victim].kill()
        return None

    scenario.interceptor.watch = watch
    for part in range(4):
        processes[part] = scenario.start("sync", "--shard", f"{part}/4")
    for part, process in processes.items():
        scenario.wait_for(process, expect=-signal.SIGKILL if part == victim else 0)
    scenario.interceptor.watch = None
    scenario.expire_leases()
    scenario.sync("--shard", f"{victim}/4")
    scenario.assert_equal_to_world()
