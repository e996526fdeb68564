"""One run at a time per service, by a lease in the warehouse that a killed process frees by itself (docs/promises.md §8)."""

import os
import signal
import threading
from collections.abc import Callable
from subprocess import Popen

import pytest

from etl.simulator.replies import Reply
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Result, Scenario, changes, wait_until

MakeScenario = Callable[..., Scenario]

ON_BOTH = pytest.mark.parametrize(
    "url_fixture",
    [
        "sqlite_url",
        "postgres18_url",
        pytest.param("ducklake_postgres_url", marks=pytest.mark.slow),
    ],
)


@pytest.fixture
def stocked(
    url_fixture: str, make_scenario: MakeScenario, request: pytest.FixtureRequest
) -> Scenario:
    """Two services, in the engine of the moment, that are not loaded yet."""
    return make_scenario((30, 20), url=request.getfixturevalue(url_fixture), max_page_size=10)


def at_page(scenario: Scenario, page: int, act: Callable[[Request], object]) -> None:
    """Do something once, while the first service's page is asked for."""
    done: list[bool] = []
    # A whole process may run meanwhile, on a machine that has much else to do.
    scenario.settings["retry"] |= {"timeout_seconds": 120, "max_total_seconds": 600}

    def watch(request: Request) -> Reply | None:
        if (
            request.is_listing
            and request.page == page
            and request.service == scenario.services[0].sid
            and not done
        ):
            done.append(True)
            act(request)
        return None

    scenario.interceptor.watch = watch


@ON_BOTH
def test_of_two_runs_at_once_one_works(stocked: Scenario) -> None:
    """Two crons that overlap must not write the same service twice; the second says who is at work, and ends."""
    others: list[Result] = []
    at_page(
        stocked,
        1,
        lambda _: others.append(stocked.wait_for(stocked.start("sync", "--json"), expect=None)),
    )
    stocked.account["services"] = [stocked.services[0].sid]
    first = stocked.sync()
    [second] = others
    assert second.code == 6
    assert second.json["status"] == "locked"
    [told] = second.json["services"]
    assert (told["status"], told["complete"], told["error"]["type"]) == (
        "locked",
        False,
        "LeaseHeld",
    )
    assert f"run {first.json['run_id']} on " in told["error"]["message"]
    assert changes(second) == {}
    assert changes(first) == {"inserted": 30}
    ledger = stocked.query("SELECT id, status FROM sync_runs ORDER BY id")
    assert [run["status"] for run in ledger] == ["succeeded", "locked"]
    assert stocked.stored() == stocked.expected([stocked.services[0].sid])
    assert stocked.query("SELECT * FROM sync_leases") == []


def test_a_backfill_beside_a_sync_says_who_is_at_work(make_scenario: MakeScenario) -> None:
    """A backfill of a service that a sync is reading steps back, and does the services that are free."""
    scenario = make_scenario((30, 20), max_page_size=10)
    busy, free = (service.sid for service in scenario.services)
    others: list[Result] = []
    at_page(
        scenario,
        1,
        lambda _: others.append(
            scenario.wait_for(scenario.start("backfill", "--json"), expect=None)
        ),
    )
    first = scenario.sync("--service", busy)
    [second] = others
    assert second.code == 6
    assert {sid: told["status"] for sid, told in second.services.items()} == {
        busy: "locked",
        free: "published",
    }
    assert f"run {first.json['run_id']} on " in second.services[busy]["error"]["message"]
    scenario.assert_equal_to_world()


def test_backfills_of_different_types_work_side_by_side(make_scenario: MakeScenario) -> None:
    """Types that cannot hold the same binding need not wait for each other."""
    scenario = make_scenario((40,), max_page_size=5)
    others: list[Result] = []
    at_page(
        scenario,
        1,
        lambda _: others.append(
            scenario.wait_for(scenario.start("backfill", "--type", "fcm", "--json"), expect=None)
        ),
    )
    scenario.backfill("--type", "apn")
    assert [other.code for other in others] == [0]
    wanted = {
        sid: row
        for sid, row in scenario.expected().items()
        if row["binding_type"] in ("apn", "fcm")
    }
    assert scenario.stored() == wanted


@ON_BOTH
def test_the_lease_of_a_killed_process_frees_itself(stocked: Scenario) -> None:
    """Nobody should have to delete a row by hand because a machine went down."""
    stocked.settings["run"] = {"lease_seconds": 1}
    killed: list[Popen[str]] = []
    at_page(stocked, 1, lambda _: killed[0].send_signal(signal.SIGKILL))
    killed.append(stocked.start("sync"))
    stocked.wait_for(killed[0], expect=-signal.SIGKILL)
    held = stocked.query("SELECT run_id FROM sync_leases")
    assert held
    del stocked.settings["run"]
    codes: list[int] = []

    def succeeds() -> bool:
        codes.append(stocked.sync(expect=None).code)
        return codes[-1] != 6

    wait_until(succeeds)  # until the second is over, by the warehouse's clock
    assert codes[-1] == 0
    stocked.assert_equal_to_world()
    assert stocked.query("SELECT status FROM sync_runs WHERE id = :id", id=held[0]["run_id"]) == [
        {"status": "interrupted"}
    ]


@ON_BOTH
def test_a_run_that_lost_its_lease_publishes_nothing(stocked: Scenario) -> None:
    """A process that slept past its lease must not publish over the one that took it."""
    lost, kept = stocked.services
    stocked.account["concurrency"] = 1

    def take(_: Request) -> None:
        stocked.execute(
            "UPDATE sync_leases SET owner = 'somebody else' WHERE chat_service_sid = :sid",
            sid=lost.sid,
        )

    at_page(stocked, 2, take)
    result = stocked.sync(expect=6)
    told = result.services[lost.sid]
    assert (told["status"], told["error"]["type"]) == ("locked", "LeaseLost")
    assert result.services[kept.sid]["status"] == "published"
    assert stocked.stored() == stocked.expected([kept.sid])
    # What the other one holds is his to give back.
    assert [lease["owner"] for lease in stocked.query("SELECT owner FROM sync_leases")] == [
        "somebody else"
    ]


@pytest.mark.parametrize("resume_within", [0, 3600])
def test_a_process_that_slept_past_its_lease_says_so(
    make_scenario: MakeScenario, resume_within: int
) -> None:
    """Who wakes up beside a finished run has lost a lease; a crash of the warehouse it must not tell of, nor write anything."""
    scenario = make_scenario((130,), max_page_size=1)
    scenario.settings["run"] = {"resume_within_seconds": resume_within}
    asleep = asleep_at(scenario, 60)
    scenario.expire_leases()
    scenario.sync()
    asleep.send_signal(signal.SIGCONT)
    result = scenario.wait_for(asleep, expect=6)
    [told] = result.json["services"]
    assert (told["status"], told["error"]["type"]) == ("locked", "LeaseLost")
    scenario.assert_equal_to_world()


def test_a_process_that_slept_past_its_lease_leaves_the_stage_to_the_other(
    make_scenario: MakeScenario,
) -> None:
    """An error that ends it, whatever it is, must not throw away what the other run is going on with."""
    scenario = make_scenario((130,), max_page_size=1)
    asleep = asleep_at(scenario, 50, Reply(200, b'{"nonsense": 1}'))
    scenario.expire_leases()
    ended: list[int] = []

    def watch(request: Request) -> Reply | None:
        if request.page == 110 and not ended:
            asleep.send_signal(signal.SIGCONT)
            ended.append(scenario.wait_for(asleep, expect=None).code)
        return None

    scenario.interceptor.watch = watch
    [told] = scenario.sync().json["services"]
    assert ended == [4]
    assert (told["status"], told["resumed"]) == ("published", True)
    scenario.assert_equal_to_world()


def asleep_at(scenario: Scenario, page: int, answer: Reply | None = None) -> "Popen[str]":
    """A run that was put to sleep when it had stored a batch and asked for this page."""
    asleep: list[Popen[str]] = []
    slept = threading.Event()

    def watch(request: Request) -> Reply | None:
        if not request.is_listing or request.page != page or slept.is_set():
            return None
        wait_until(lambda: scenario.query("SELECT 1 FROM scan_progress WHERE pages > 0"))
        asleep[0].send_signal(signal.SIGSTOP)
        # On a busy machine its threads go on for a while, and would store a batch and renew the lease.
        os.waitid(os.P_PID, asleep[0].pid, os.WSTOPPED)
        slept.set()
        return answer

    scenario.interceptor.watch = watch
    asleep.append(scenario.start("sync", "--json"))
    assert slept.wait(120)
    scenario.interceptor.watch = None
    return asleep[0]


def test_a_lease_is_renewed_while_the_api_is_slow(make_scenario: MakeScenario) -> None:
    """A slow answer is no death: the lease must be prolonged while nothing arrives."""
    scenario = make_scenario((30,), max_page_size=10)
    scenario.settings["run"] = {"lease_seconds": 3}
    renewed: list[bool] = []

    def wait_for_renewal(_: Request) -> None:
        def expiry() -> list[dict[str, object]]:
            return scenario.query("SELECT expires_at FROM sync_leases")

        first = expiry()
        wait_until(lambda: expiry() != first)
        renewed.append(True)

    at_page(scenario, 1, wait_for_renewal)
    scenario.sync()
    assert renewed == [True]
    scenario.assert_equal_to_world()
