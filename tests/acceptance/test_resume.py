"""A long load that is killed goes on where it was; nothing is lost and nothing doubled (docs/promises.md §1, §3)."""

import signal
from collections.abc import Callable
from random import Random
from subprocess import Popen

import pytest

from etl.simulator import Simulator
from etl.simulator.replies import Reply, error
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Scenario, changes, wait_until

MakeScenario = Callable[..., Scenario]

BATCH = 50
"""Pages that are committed together; what is killed before loses no more than these, and those read ahead."""


def stored_pages(scenario: Scenario) -> int:
    """How far a scan has got that is not published."""
    return scenario.query("SELECT max(pages) AS n FROM scan_progress")[0]["n"] or 0


def kill_at(scenario: Scenario, pages: int, *arguments: str, once_stored: int = 0) -> int:
    """Start a run and kill it when it asks for so many pages of bindings, and has stored so many; gives how many it asked for."""
    asked = 0
    process: list[Popen[str]] = []

    def watch(request: Request) -> Reply | None:
        nonlocal asked
        asked += request.is_listing
        if asked == pages:
            wait_until(lambda: not once_stored or stored_pages(scenario) >= once_stored)
            process[0].send_signal(signal.SIGKILL)
            return Reply(
                503
            )  # else the simulator may spend a fault on it that is meant for the next run
        return None

    scenario.interceptor.watch = watch
    process.append(scenario.start(*arguments))
    scenario.wait_for(process[0], expect=-signal.SIGKILL)
    scenario.interceptor.watch = None
    scenario.expire_leases()
    return asked


@pytest.fixture
def long(make_scenario: MakeScenario) -> Scenario:
    """A service of 130 pages, killed at the 120th: two batches are stored, and nothing is published."""
    scenario = make_scenario((130,), max_page_size=1)
    kill_at(scenario, 120, "sync", once_stored=2 * BATCH)
    assert scenario.stored() == {}
    return scenario


def test_a_killed_scan_goes_on(long: Scenario) -> None:
    """Reading a million rows again because a node was drained would never come to an end."""
    left = 130 - stored_pages(long)
    [told] = long.sync().json["services"]
    assert (told["resumed"], told["complete"]) == (True, False)
    assert (told["pages"], told["inserted"]) == (left, 130)
    assert [(scan["status"], bool(scan["resumed"])) for scan in long.query("SELECT * FROM sync_scans ORDER BY id")] == [
        ("interrupted", False), ("published", True),
    ]  # fmt: skip
    long.assert_equal_to_world()


def test_a_resumed_scan_that_is_killed_goes_on_again(make_scenario: MakeScenario) -> None:
    """A load that needs five attempts must need no more than its pages and a batch or two for each of them."""
    scenario = make_scenario((260,), max_page_size=1)
    luck = Random(7)
    asked = [
        kill_at(scenario, luck.randint(2 * BATCH + 5, 2 * BATCH + 15), "backfill") for _ in range(2)
    ]
    [told] = scenario.backfill().json["services"]
    assert told["resumed"]
    assert sum(asked) + told["pages"] <= 260 + 2 * 2 * BATCH
    scenario.assert_equal_to_world()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_backfill_killed_at_random_ends_right(make_scenario: MakeScenario, seed: int) -> None:
    """Whenever it is killed, and however often, the warehouse ends up equal to the world."""
    scenario = make_scenario((300, 60), max_page_size=1, seed=seed)
    luck = Random(seed)
    for _ in range(5):
        kill_at(
            scenario, luck.randint(1, 60), "backfill"
        )  # so few that there is always something left to be killed at
        expected = scenario.expected()
        assert scenario.stored().items() <= expected.items()
    scenario.backfill()
    scenario.assert_equal_to_world()


def test_what_changes_between_the_halves_is_followed(long: Scenario) -> None:
    """Rows that were read before the kill and changed since are old for one run and right with the next."""
    service = long.services[0]
    service.touch(15)
    service.grow(6)
    service.delete(7)
    long.sync()
    long.sync()
    long.assert_equal_to_world()


@pytest.mark.parametrize("fault", ["token-expired", "token-empty"])
def test_a_link_that_is_no_longer_good_begins_anew(long: Scenario, fault: str) -> None:
    """Tokens do not last for ever; an expired one, or an empty page in its place, must not pass for the end of the listing."""
    long.simulator.faults.add(fault, times=1)
    long.services[0].delete(3)
    [told] = long.sync().json["services"]
    assert (told["resumed"], told["complete"], told["inserted"]) == (False, True, 127)
    long.assert_equal_to_world()


def test_the_counters_of_a_resumed_load_of_a_span_are_right(make_scenario: MakeScenario) -> None:
    """Rows that were passed over before the kill are no more unchanged than those after it."""
    scenario = make_scenario((130,), max_page_size=1)
    span = ("--since", "2022-06-01")
    kill_at(scenario, 120, "backfill", *span, once_stored=2 * BATCH)
    [told] = scenario.backfill(*span).json["services"]
    assert (told["resumed"], told["fetched"], told["unchanged"]) == (True, 30, 0)
    assert told["inserted"] == len(scenario.stored()) > 0


def refuse_first_link(scenario: Scenario, answer: Callable[[], Reply], *, times: int = 1) -> None:
    """The first link that is followed is refused so many times; the others are good."""
    refused: list[Request] = []

    def watch(request: Request) -> Reply | None:
        if len(refused) == times or "PageToken" not in request.parameters:
            return None
        refused.append(request)
        return answer()

    scenario.interceptor.watch = watch


@pytest.mark.parametrize(
    "answer",
    [
        lambda: error(20001, "Invalid PageToken"),
        lambda: Reply(400, b'{"message":"bad token"}'),
        pytest.param(lambda: Reply(410, b'{"message":"gone"}'), marks=pytest.mark.slow),
        pytest.param(
            lambda: Reply(422, b'{"code":60200,"message":"unprocessable"}'), marks=pytest.mark.slow
        ),
    ],
)
def test_a_link_that_is_refused_in_any_way_begins_anew(
    long: Scenario, answer: Callable[[], Reply]
) -> None:
    """Nobody knows how the API refuses an old link; a service must not fail for it, run after run."""
    refuse_first_link(long, answer)
    [told] = long.sync().json["services"]
    assert (told["resumed"], told["complete"], told["inserted"]) == (False, True, 130)
    long.assert_equal_to_world()


def test_a_link_that_is_not_found_begins_anew(long: Scenario) -> None:
    """A 404 in the middle is tried once more; if it stays, the link is dead, and page one knows whether the service is."""
    refuse_first_link(long, lambda: error(20404, "not found"), times=2)
    [told] = long.sync().json["services"]
    assert (told["resumed"], told["complete"], told["inserted"]) == (False, True, 130)
    long.assert_equal_to_world()


def test_a_stored_link_of_another_address_begins_anew(long: Scenario) -> None:
    """After a change of `base_url` the stored link leads elsewhere; the service is read again where it is now."""
    moved = Simulator(long.world, gzip=False, max_page_size=1)
    with moved.serve():
        long.account["base_url"] = moved.base_url
        [told] = long.sync().json["services"]
    assert (told["resumed"], told["complete"], told["inserted"]) == (False, True, 130)
    long.assert_equal_to_world()


def test_a_stored_scan_that_gets_no_further_grows_old(long: Scenario) -> None:
    """A link that always fails would keep a service from being read for ever if each attempt made it young again."""
    [before] = long.query("SELECT updated_at FROM scan_progress")
    long.settings["retry"]["attempts"] = 2
    long.simulator.faults.add("error-500", on="bindings")
    long.sync(expect=4)
    assert long.query("SELECT updated_at FROM scan_progress") == [before]


def test_a_link_that_leads_behind_the_last_row_begins_anew(long: Scenario) -> None:
    """When all rows behind the link are deleted in between, the empty page there must do no harm."""
    service = long.services[0]
    service.remove(service.sids()[90:])
    [told] = long.sync().json["services"]
    assert told["complete"]
    long.assert_equal_to_world()


def test_fresh_begins_anew(long: Scenario) -> None:
    """`--fresh` is for those who want deletes to be found now."""
    [told] = long.sync("--fresh").json["services"]
    assert (told["resumed"], told["complete"], told["pages"]) == (False, True, 130)
    long.assert_equal_to_world()


def test_resuming_can_be_switched_off(long: Scenario) -> None:
    """`resume_within_seconds: 0` means that every scan begins at the first page."""
    long.settings["run"] = {"resume_within_seconds": 0}
    [told] = long.sync().json["services"]
    assert (told["resumed"], told["complete"], told["pages"]) == (False, True, 130)
    long.assert_equal_to_world()


def test_an_old_scan_is_not_gone_on_with(long: Scenario) -> None:
    """After `resume_within_seconds` what was read is too old to be published beside what is read now."""
    long.execute("UPDATE scan_progress SET updated_at = '2026-01-01 00:00:00.000000'")
    [told] = long.sync().json["services"]
    assert (told["resumed"], told["pages"]) == (False, 130)
    long.assert_equal_to_world()


def test_other_rules_begin_anew(long: Scenario) -> None:
    """Half a service with identities and half without would break the promise of `privacy`."""
    long.settings["privacy"] = {"identity": "drop"}
    long.run("rekey")
    [told] = long.sync().json["services"]
    assert (told["resumed"], told["inserted"]) == (False, 130)
    assert {row["identity"] for row in long.stored().values()} == {None}


def test_what_another_run_published_makes_the_stored_half_worthless(long: Scenario) -> None:
    """A backfill that reads the same rows later knows better; the older half must not be published over it."""
    service = long.services[0]
    service.touch(130)
    long.backfill("--type", "apn")
    [told] = long.sync().json["services"]
    assert not told["resumed"]
    long.assert_equal_to_world()


def test_rows_that_were_rejected_before_the_kill_stay_open(make_scenario: MakeScenario) -> None:
    """A bad row of the first half was not read again by the second; that does not mean that it loaded."""
    scenario = make_scenario((130,), max_page_size=1)
    service = scenario.services[0]
    bad = service.sids()[3]
    service.put(service.bindings[bad] | {"date_created": "never"})
    kill_at(scenario, 120, "sync", once_stored=2 * BATCH)
    result = scenario.sync()
    [told] = result.json["services"]
    assert told["resumed"]
    assert changes(result) == {"inserted": 129}
    assert told["unchanged"] == 0
    [line] = scenario.query("SELECT sid, resolved_at FROM rejected_bindings")
    assert line == {"sid": bad, "resolved_at": None}
    service.change(bad, date_created="2023-01-01T00:00:00Z")
    scenario.sync()
    assert scenario.query("SELECT sid FROM rejected_bindings WHERE resolved_at IS NULL") == []
    scenario.assert_equal_to_world()


@pytest.mark.slow
def test_twenty_kills_cost_at_most_twenty_batches(make_scenario: MakeScenario) -> None:
    """A load on a machine that is drained again and again has to come to its end, and must not read for ever."""
    pages, ahead = 20 * BATCH + 30, 10
    scenario = make_scenario((pages,), max_page_size=1)
    asked = sum(
        kill_at(scenario, BATCH + ahead, "backfill", once_stored=number * BATCH)
        for number in range(1, 21)
    )
    last = scenario.backfill().json["services"][0]
    assert (
        asked + last["pages"] <= pages + 20 * BATCH < asked + pages
    )  # the latter is what it costs without resuming
    scenario.assert_equal_to_world()
