"""Deletes need proof (docs/promises.md §3): the guard, the API's own word for each absent binding, and what never proves absence."""

import re
from collections.abc import Callable

import pytest

from etl.simulator import Fault
from etl.simulator.replies import Reply
from etl.simulator.world import Service
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Result, Scenario, changes

MakeScenario = Callable[..., Scenario]

ALL_TYPES = ("apn", "fcm", "gcm", "twilsock")

GONE_FOR_GOOD = "1970-01-02T00:00:00Z"


def hide_moved(scenario: Scenario, service: Service, sids: list[str]) -> None:
    """Let these rows move from a page still to be read to one already read, once, while page 2 is asked for (order by date)."""
    moved: list[str] = []

    def watch(request: Request) -> Reply | None:
        if (
            request.is_listing
            and request.page == 1
            and request.service == service.sid
            and not moved
        ):
            moved.extend(sids)
            for sid in sids:
                service.change(sid, date_updated=GONE_FOR_GOOD)
        return None

    scenario.interceptor.watch = watch


def last_rows(service: Service, number: int) -> list[str]:
    """The rows that a listing by date shows last."""
    return sorted(service.bindings, key=lambda sid: (service.bindings[sid]["date_updated"], sid))[
        -number:
    ]


def sids_of(service: Service, kind: str) -> list[str]:
    """The SIDs of one binding type, in order."""
    return [sid for sid in service.sids() if service.bindings[sid]["binding_type"] == kind]


def lookups(scenario: Scenario) -> list[str]:
    """The SIDs that were asked for one by one, in order, repetitions too."""
    paths = [logged.path for logged in scenario.simulator.requests]
    return [match[1] for path in paths if (match := re.search(r"/Bindings/(BS\w+)$", path))]


def test_an_empty_answer_deletes_nothing(make_scenario: MakeScenario) -> None:
    """An API that shows nothing for once, where thousands were, must not empty the warehouse."""
    scenario = make_scenario((3000, 50))
    scenario.sync()
    before = scenario.stored()
    fault = scenario.simulator.faults.add("empty-service", service=scenario.services[0].sid)
    scenario.simulator.requests.clear()
    result = scenario.sync(expect=5)
    assert (result.json["status"], result.totals["deleted"]) == ("refused", 0)
    assert result.services[scenario.services[0].sid]["status"] == "refused"
    assert result.services[scenario.services[1].sid]["status"] == "published"
    assert scenario.stored() == before
    assert lookups(scenario) == []
    assert "--allow-mass-delete" in scenario.run("sync", expect=5).out
    [scan] = scenario.query(
        "SELECT error FROM sync_scans WHERE status = 'refused' ORDER BY id DESC LIMIT 1"
    )
    assert "--allow-mass-delete" in scan["error"]
    scenario.simulator.faults.remove(fault)
    assert changes(scenario.sync()) == {}


def test_a_mass_delete_that_is_allowed_goes_through_once_it_is_confirmed(
    make_scenario: MakeScenario,
) -> None:
    """The override lifts the guard for one run, not the question to the API."""
    scenario = make_scenario((300,))
    scenario.sync()
    gone = scenario.services[0].delete(250)
    scenario.sync(expect=5)
    scenario.simulator.requests.clear()
    assert changes(scenario.sync("--allow-mass-delete")) == {"deleted": 250}
    asked = lookups(scenario)
    assert len(asked) == len(set(asked)) == 200
    assert set(asked) <= set(gone)
    scenario.assert_equal_to_world()
    scenario.services[0].delete(40)
    scenario.sync(expect=5)


def test_an_empty_answer_is_found_out_even_where_mass_deletes_are_allowed(
    make_scenario: MakeScenario,
) -> None:
    """Whoever runs with the override in cron is still protected: the API says that the rows are alive."""
    scenario = make_scenario((300,))
    scenario.sync()
    scenario.simulator.faults.add("empty-service")
    result = scenario.sync("--allow-mass-delete", expect=5)
    assert changes(result) == {}
    scenario.simulator.faults.clear()
    scenario.assert_equal_to_world()


@pytest.mark.parametrize(
    ("bindings", "deleted", "rules", "refused"),
    [
        (100, 20, {}, False),
        (100, 21, {}, True),
        (1000, 200, {"confirm": False}, False),
        (30, 20, {}, False),
        (30, 21, {}, True),
        (30, 30, {"max_fraction": 1}, False),
        (30, 1, {"max_fraction": 0, "min_rows": 0}, True),
        (30, 1, {"max_fraction": 0, "min_rows": 1}, False),
        (100, 29, {"max_fraction": 0.29}, False),
        (100, 30, {"max_fraction": 0.29}, True),
        (10, 10, {}, False),
    ],
)
def test_the_guard_refuses_when_both_limits_are_exceeded(
    make_scenario: MakeScenario,
    bindings: int,
    deleted: int,
    rules: dict[str, object],
    refused: bool,
) -> None:
    """At its edges the guard must hold exactly what the configuration says: more than the share, and more than the number."""
    scenario = make_scenario((bindings,))
    scenario.sync()
    scenario.settings["deletes"] = rules
    scenario.services[0].delete(deleted)
    assert changes(scenario.sync(expect=5 if refused else 0)) == (
        {} if refused else {"deleted": deleted}
    )
    if not refused:
        scenario.assert_equal_to_world()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("concurrency", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize(
    ("kinds", "number", "refused"),
    [
        (ALL_TYPES, 144, True),
        (ALL_TYPES, 60, False),
        (("gcm",), None, False),
        (("apn", "fcm"), None, True),
    ],
)
def test_the_guard_says_the_same_of_a_service_in_parts(
    make_scenario: MakeScenario,
    kinds: tuple[str, ...],
    number: int | None,
    refused: bool,
    concurrency: int,
    dry: tuple[str, ...],
) -> None:
    """Reading type by type is a matter of speed; it must neither let a mass delete through in parts, nor refuse an emptied type."""
    scenario = make_scenario((400,))
    scenario.account["concurrency"] = concurrency
    service = scenario.services[0]
    scenario.sync()
    gone = [sid for sid in service.sids() if service.bindings[sid]["binding_type"] in kinds][
        :number
    ]
    service.remove(gone)
    service.grow(150)
    for partition in (False, True):
        scenario.account["partition_by_type"] = partition
        result = scenario.sync("--dry-run", expect=5 if refused else 0)
        assert result.totals["deleted"] == (0 if refused else len(gone)), partition
    if not dry:
        result = scenario.sync(expect=5 if refused else 0)
        assert result.totals["deleted"] == (0 if refused else len(gone))
        assert result.totals["inserted"] == 150


def test_refused_deletes_do_not_hold_back_the_rest(make_scenario: MakeScenario) -> None:
    """The guard keeps what would be deleted; what is new or changed is published all the same."""
    scenario = make_scenario((100,))
    scenario.sync()
    service = scenario.services[0]
    gone = service.delete(50)
    service.touch(5)
    service.grow(7)
    assert changes(scenario.sync(expect=5)) == {"inserted": 7, "updated": 5}
    stored = scenario.stored()
    assert stored.keys() - scenario.expected().keys() == set(gone)
    assert {sid: stored[sid] for sid in scenario.expected()} == scenario.expected()


def test_a_row_that_moved_behind_the_reader_is_alive(make_scenario: MakeScenario) -> None:
    """A row that moves to a page already read is on no page that was read; deleting it would delete a living device."""
    scenario = make_scenario((60,), order="updated", max_page_size=10)
    scenario.sync()
    service = scenario.services[0]
    moving = last_rows(service, 3)
    gone = service.remove(last_rows(service, 5)[:2])
    hide_moved(scenario, service, moving)
    scenario.simulator.requests.clear()
    assert changes(scenario.sync()) == {"deleted": 2, "updated": 3}
    assert sorted(lookups(scenario)) == sorted([*moving, *gone])
    scenario.assert_equal_to_world()
    scenario.interceptor.watch = None
    assert changes(scenario.sync()) == {}


@pytest.mark.parametrize("limit", [200, 4], ids=["all are asked for", "a sample is asked for"])
def test_a_binding_that_nobody_asked_for_stays(make_scenario: MakeScenario, limit: int) -> None:
    """What comes into a scope after its absences were looked up was confirmed by nobody: deleting it deletes a living device."""
    scenario = make_scenario((80,))
    scenario.settings["deletes"] = {"confirm_limit": limit}
    scenario.sync()
    service = scenario.services[0]
    by_type = {kind: sids_of(service, kind) for kind in ("apn", "gcm")}
    gone, turning = service.remove(by_type["apn"][:6]), by_type["gcm"][0]
    others: list[Result] = []

    def watch(request: Request) -> Reply | None:
        if request.is_lookup and request.path.endswith(tuple(gone)) and not others:
            service.change(turning, binding_type="apn")
            others.append(scenario.wait_for(scenario.start("backfill", "--type", "gcm", "--json")))
        return None

    scenario.account["concurrency"] = 1
    scenario.settings["retry"] |= {"timeout_seconds": 60, "max_total_seconds": 60}
    scenario.interceptor.watch = watch
    scenario.simulator.requests.clear()
    assert changes(scenario.backfill("--type", "apn")) == {"deleted": 6}
    assert changes(others[0]) == {"updated": 1}
    assert len(set(lookups(scenario))) == min(limit, 6) + 1
    scenario.assert_equal_to_world()
    assert changes(scenario.sync()) == {}


def test_without_confirmation_a_row_that_moved_comes_back_with_the_next_run(
    make_scenario: MakeScenario,
) -> None:
    """`confirm: false` trades that safety for requests; what it costs has to heal by itself."""
    scenario = make_scenario((60,), order="updated", max_page_size=10)
    scenario.settings["deletes"] = {"confirm": False}
    scenario.sync()
    hide_moved(scenario, scenario.services[0], last_rows(scenario.services[0], 3))
    assert changes(scenario.sync()) == {"deleted": 3}
    scenario.interceptor.watch = None
    assert changes(scenario.sync()) == {"restored": 3}
    scenario.assert_equal_to_world()


def test_one_living_row_in_a_sample_refuses_all_deletes(make_scenario: MakeScenario) -> None:
    """Above `confirm_limit` a single row that answers shows that the listing missed rows: then nothing of it is proof."""
    scenario = make_scenario((100,), order="updated", max_page_size=10)
    scenario.settings["deletes"] = {"confirm_limit": 5, "max_fraction": 1}
    scenario.sync()
    service = scenario.services[0]
    before = scenario.stored()
    hide_moved(scenario, service, last_rows(service, 30))
    scenario.simulator.requests.clear()
    result = scenario.sync("--allow-mass-delete", expect=5)
    assert result.totals["deleted"] == 0
    asked = lookups(scenario)
    assert len(asked) == len(set(asked)) == 5
    assert changes(result) == {"updated": 5}
    assert scenario.stored().keys() == before.keys()
    scenario.interceptor.watch = None
    assert changes(scenario.sync()) == {"updated": 25}
    scenario.assert_equal_to_world()


@pytest.mark.parametrize(
    "fault",
    [
        "unauthorized",
        "forbidden",
        "error-500",
        "throttle",
        "html-200",
        "permission",
        "redirect",
        "empty-404",
        "gateway-404",
    ],
)
def test_what_cannot_be_confirmed_stays_for_the_next_run(
    make_scenario: MakeScenario, fault: str
) -> None:
    """Only the API's own 404 says that a binding is gone; a refusal, a fault or a proxy's page says nothing."""
    scenario = make_scenario((60,))
    scenario.settings["retry"]["attempts"] = 2
    scenario.sync()
    gone = scenario.services[0].delete(3)
    scenario.simulator.faults.add(fault, on="binding")
    assert changes(scenario.sync()) == {}
    assert scenario.stored().keys() >= set(gone)
    scenario.simulator.faults.clear()
    assert changes(scenario.sync()) == {"deleted": 3}
    scenario.assert_equal_to_world()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("limit", [200, 2], ids=["all are asked for", "a sample is asked for"])
def test_a_gateway_that_knows_listings_only_deletes_nothing(
    make_scenario: MakeScenario, limit: int, dry: tuple[str, ...]
) -> None:
    """It answers 404 to every question, also about the living: 15 living rows of 100 went that way."""
    scenario = make_scenario((100,), order="updated", max_page_size=10)
    scenario.settings["deletes"] = {"confirm_limit": limit}
    scenario.sync()
    before = scenario.stored()
    hide_moved(scenario, scenario.services[0], last_rows(scenario.services[0], 15))
    scenario.simulator.faults.add("empty-404", on="binding")
    scenario.simulator.requests.clear()
    [told] = scenario.sync(*dry).json["services"]
    assert (told["deleted"], told["error"]) == (0, None)
    assert "a binding that was just listed answers 200" in told["note"]
    assert len(lookups(scenario)) == min(limit, 15) + 1
    assert scenario.stored().keys() == before.keys()


@pytest.mark.parametrize("partitioned", [False, True])
def test_a_404_without_a_word_counts_where_the_living_answer(
    make_scenario: MakeScenario, partitioned: bool
) -> None:
    """Where error bodies are lost on the way, nothing would ever be deleted; one question shows that the path is right."""
    scenario = make_scenario((60,))
    scenario.account["partition_by_type"] = partitioned
    scenario.sync()
    service = scenario.services[0]
    gone = service.remove([*sids_of(service, "gcm"), *sids_of(service, "apn")[:2]])
    scenario.simulator.faults.add("empty-errors", on="binding")
    scenario.simulator.requests.clear()
    assert changes(scenario.sync("--allow-mass-delete")) == {"deleted": len(gone)}
    assert len(lookups(scenario)) == len(gone) + (2 if partitioned else 1)
    scenario.assert_equal_to_world()


def test_an_unanswered_question_keeps_its_own_row_only(make_scenario: MakeScenario) -> None:
    """One row that cannot be asked about must not keep the others from being deleted, and is asked about again."""
    scenario = make_scenario((60,))
    scenario.settings["retry"]["attempts"] = 1
    scenario.sync()
    scenario.services[0].delete(4)
    scenario.simulator.faults.add("error-500", on="binding", times=1)
    assert changes(scenario.sync()) == {"deleted": 3}
    assert changes(scenario.sync()) == {"deleted": 1}
    scenario.assert_equal_to_world()


def test_an_api_that_answers_no_question_is_not_asked_for_long(make_scenario: MakeScenario) -> None:
    """Two hundred questions that each hang until the retries run out would hold the service for hours."""
    scenario = make_scenario((400,))
    scenario.account["concurrency"] = 2
    scenario.settings["retry"]["attempts"] = 2
    scenario.sync()
    scenario.services[0].delete(60)
    scenario.simulator.faults.add("error-500", on="binding")
    scenario.simulator.requests.clear()
    result = scenario.sync()
    assert changes(result) == {}
    assert len(lookups(scenario)) <= 2 * (3 + 2 * 2)
    assert "the next run asks again" in result.json["services"][0]["note"]
    scenario.simulator.faults.clear()
    assert changes(scenario.sync()) == {"deleted": 60}


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_refusal_is_told_everywhere(make_scenario: MakeScenario, dry: tuple[str, ...]) -> None:
    """Exit code 5 without a word why, or without the way out, would leave an operator helpless."""
    scenario = make_scenario((100,))
    scenario.sync()
    scenario.services[0].delete(50)
    [told] = scenario.sync(*dry, expect=5).json["services"]
    assert told["error"]["type"] == "DeletesRefused"
    assert "--allow-mass-delete" in told["error"]["message"]
    if not dry:
        [line] = scenario.query("SELECT error FROM sync_runs ORDER BY id DESC LIMIT 1")
        assert "--allow-mass-delete" in line["error"]


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("prepare", "options", "words"),
    [
        (lambda _: None, ("--since", "2001-01-01"), "narrowed by time"),
        (
            lambda scenario: (
                scenario.settings.update(privacy={"identity": "drop"}),
                scenario.run("rekey"),
            ),
            ("--identity", "somebody"),
            "privacy.identity",
        ),
        (
            lambda scenario: scenario.simulator.faults.add("missing-sid"),
            (),
            "without a readable SID",
        ),
        (
            lambda scenario: scenario.simulator.faults.add("forbidden", on="binding"),
            (),
            "whether they are gone",
        ),
    ],
)
def test_whoever_withholds_deletes_says_why(
    make_scenario: MakeScenario,
    prepare: Callable[[Scenario], object],
    options: tuple[str, ...],
    words: str,
    dry: tuple[str, ...],
) -> None:
    """A binding that is gone and stays must not look like an oversight: the reason stands at the end, in the JSON and in the ledger."""
    scenario = make_scenario((60,))
    scenario.sync()
    scenario.services[0].delete(5)
    prepare(scenario)
    [told] = scenario.backfill(*options, *dry).json["services"]
    status = "planned" if dry else "published"
    assert (told["status"], told["deleted"], told["error"]) == (status, 0, None)
    assert words in told["note"]
    assert words in scenario.run("backfill", *options, *dry).out
    if not dry:
        [line] = scenario.query("SELECT error FROM sync_scans ORDER BY id DESC LIMIT 1")
        assert words in line["error"]


def test_an_unanswered_question_in_a_sample_leaves_all_for_the_next_run(
    make_scenario: MakeScenario,
) -> None:
    """A sample with a hole proves nothing about the rows that were not drawn."""
    scenario = make_scenario((100,))
    scenario.settings |= {
        "deletes": {"confirm_limit": 5},
        "retry": {**scenario.settings["retry"], "attempts": 1},
    }
    scenario.sync()
    scenario.services[0].delete(15)
    scenario.simulator.faults.add("error-500", on="binding", times=1)
    assert changes(scenario.sync()) == {}
    assert changes(scenario.sync()) == {"deleted": 15}


def test_a_binding_that_answers_with_a_bad_row_is_not_absent(make_scenario: MakeScenario) -> None:
    """A living binding whose row cannot be loaded is a reject, and no delete."""
    scenario = make_scenario((60,), order="updated", max_page_size=10)
    scenario.sync()
    service = scenario.services[0]
    [sid] = last_rows(service, 1)
    before = scenario.stored()[sid]
    hide_moved(scenario, service, [sid])
    original = scenario.interceptor.watch

    def watch(request: Request) -> Reply | None:
        if request.is_lookup:
            service.change(sid, date_created="half past nine")
        return original(request) if original else None

    scenario.interceptor.watch = watch
    assert changes(scenario.sync()) == {"rejected": 1}
    assert scenario.stored()[sid] == before
    assert [
        row["sid"]
        for row in scenario.query("SELECT sid FROM rejected_bindings WHERE resolved_at IS NULL")
    ] == [sid]


@pytest.mark.parametrize(
    "fault",
    ["error-500", "html-200", "loop", "foreign-host", "no-meta", "service-404", "unauthorized"],
)
def test_a_scan_that_fails_half_way_deletes_nothing(
    make_scenario: MakeScenario, fault: str
) -> None:
    """Rows on the pages behind a failure were not seen, and are not absent for that."""
    scenario = make_scenario((60,), max_page_size=10)
    scenario.settings |= {
        "deletes": {"confirm": False, "max_fraction": 1},
        "retry": {**scenario.settings["retry"], "attempts": 2},
    }
    scenario.sync()
    before = scenario.image()
    scenario.services[0].touch(10)
    scenario.services[0].delete(5)
    scenario.simulator.faults.add(fault, only_pages=[3])
    scenario.sync(expect=4)
    after = scenario.image()
    assert (after["bindings"], after["binding_versions"]) == (
        before["bindings"],
        before["binding_versions"],
    )


def test_a_service_that_is_gone_keeps_its_rows(make_scenario: MakeScenario) -> None:
    """More rows than the guard lets go, and those of a service that was named, stay until a person decides."""
    scenario = make_scenario((30, 20))
    scenario.sync()
    before = scenario.stored()
    sid = scenario.services[0].sid
    scenario.world.remove_service(sid)
    assert changes(scenario.sync(expect=5)) == {}
    assert scenario.stored() == before
    scenario.account["services"] = [sid, scenario.services[0].sid]
    result = scenario.sync(expect=3)
    assert result.services[sid]["error"]["type"] == "ServiceNotFound"
    assert scenario.stored() == before


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_come_go_and_move_while_pages_are_read(
    make_scenario: MakeScenario, seed: int
) -> None:
    """Whatever happens between two pages, no row that was there all along is lost, and none that exists is deleted."""
    scenario = make_scenario((120,), order="updated", max_page_size=8, seed=seed)
    service = scenario.services[0]

    def stir(asked: object) -> bool:
        service.grow(1)
        service.touch(2)
        service.delete(1)
        moving = last_rows(service, 1 + seed)
        service.change(moving[0], date_updated=GONE_FOR_GOOD)
        return False

    for _ in range(3):
        start = set(service.bindings)
        before = {
            row["sid"]
            for row in scenario.query("SELECT sid FROM bindings WHERE deleted_at IS NULL")
        }
        fault = scenario.simulator.faults.add(Fault("slow", when=stir))
        scenario.sync()
        scenario.simulator.faults.remove(fault)
        throughout = start & set(service.bindings)
        assert before & throughout <= scenario.stored().keys()
        scenario.sync()
        scenario.assert_equal_to_world()
