"""Deletes need proof (docs/promises.md §3): the guard, the API's own word for each absent binding, and what never proves absence."""

import re
from collections.abc import Callable

import pytest

from etl.simulator import Fault
from etl.simulator.replies import Reply
from etl.simulator.world import Service
from tests.acceptance.front import Request
from tests.acceptance.trial import Result, Trial, changes

MakeTrial = Callable[..., Trial]

ALL_TYPES = ("apn", "fcm", "gcm", "twilsock")

GONE_FOR_GOOD = "1970-01-02T00:00:00Z"


def hide_moved(trial: Trial, service: Service, sids: list[str]) -> None:
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

    trial.front.watch = watch


def last_rows(service: Service, number: int) -> list[str]:
    """The rows that a listing by date shows last."""
    return sorted(service.bindings, key=lambda sid: (service.bindings[sid]["date_updated"], sid))[
        -number:
    ]


def sids_of(service: Service, kind: str) -> list[str]:
    """The SIDs of one binding type, in order."""
    return [sid for sid in service.sids() if service.bindings[sid]["binding_type"] == kind]


def lookups(trial: Trial) -> list[str]:
    """The SIDs that were asked for one by one, in order, repetitions too."""
    paths = [logged.path for logged in trial.simulator.requests]
    return [match[1] for path in paths if (match := re.search(r"/Bindings/(BS\w+)$", path))]


def test_an_empty_answer_deletes_nothing(make_trial: MakeTrial) -> None:
    """An API that shows nothing for once, where thousands were, must not empty the warehouse."""
    trial = make_trial((3000, 50))
    trial.sync()
    before = trial.stored()
    fault = trial.simulator.faults.add("empty-service", service=trial.services[0].sid)
    trial.simulator.requests.clear()
    result = trial.sync(expect=5)
    assert (result.json["status"], result.totals["deleted"]) == ("refused", 0)
    assert result.services[trial.services[0].sid]["status"] == "refused"
    assert result.services[trial.services[1].sid]["status"] == "published"
    assert trial.stored() == before
    assert lookups(trial) == []
    assert "--allow-mass-delete" in trial.run("sync", expect=5).out
    [scan] = trial.query(
        "SELECT error FROM sync_scans WHERE status = 'refused' ORDER BY id DESC LIMIT 1"
    )
    assert "--allow-mass-delete" in scan["error"]
    trial.simulator.faults.remove(fault)
    assert changes(trial.sync()) == {}


def test_a_mass_delete_that_is_allowed_goes_through_once_it_is_confirmed(
    make_trial: MakeTrial,
) -> None:
    """The override lifts the guard for one run, not the question to the API."""
    trial = make_trial((300,))
    trial.sync()
    gone = trial.services[0].delete(250)
    trial.sync(expect=5)
    trial.simulator.requests.clear()
    assert changes(trial.sync("--allow-mass-delete")) == {"deleted": 250}
    asked = lookups(trial)
    assert len(asked) == len(set(asked)) == 200
    assert set(asked) <= set(gone)
    trial.assert_equal_to_world()
    trial.services[0].delete(40)
    trial.sync(expect=5)


def test_an_empty_answer_is_found_out_even_where_mass_deletes_are_allowed(
    make_trial: MakeTrial,
) -> None:
    """Whoever runs with the override in cron is still protected: the API says that the rows are alive."""
    trial = make_trial((300,))
    trial.sync()
    trial.simulator.faults.add("empty-service")
    result = trial.sync("--allow-mass-delete", expect=5)
    assert changes(result) == {}
    trial.simulator.faults.clear()
    trial.assert_equal_to_world()


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
    make_trial: MakeTrial, bindings: int, deleted: int, rules: dict[str, object], refused: bool
) -> None:
    """At its edges the guard must hold exactly what the configuration says: more than the share, and more than the number."""
    trial = make_trial((bindings,))
    trial.sync()
    trial.settings["deletes"] = rules
    trial.services[0].delete(deleted)
    assert changes(trial.sync(expect=5 if refused else 0)) == (
        {} if refused else {"deleted": deleted}
    )
    if not refused:
        trial.assert_equal_to_world()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("concurrency", [1, 4])
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
    make_trial: MakeTrial,
    kinds: tuple[str, ...],
    number: int | None,
    refused: bool,
    concurrency: int,
    dry: tuple[str, ...],
) -> None:
    """Reading type by type is a matter of speed; it must neither let a mass delete through in parts, nor refuse an emptied type."""
    trial = make_trial((400,))
    trial.account["concurrency"] = concurrency
    service = trial.services[0]
    trial.sync()
    gone = [sid for sid in service.sids() if service.bindings[sid]["binding_type"] in kinds][
        :number
    ]
    service.remove(gone)
    service.grow(150)
    for partition in (False, True):
        trial.account["partition_by_type"] = partition
        result = trial.sync("--dry-run", expect=5 if refused else 0)
        assert result.totals["deleted"] == (0 if refused else len(gone)), partition
    if not dry:
        result = trial.sync(expect=5 if refused else 0)
        assert result.totals["deleted"] == (0 if refused else len(gone))
        assert result.totals["inserted"] == 150


def test_refused_deletes_do_not_hold_back_the_rest(make_trial: MakeTrial) -> None:
    """The guard keeps what would be deleted; what is new or changed is published all the same."""
    trial = make_trial((100,))
    trial.sync()
    service = trial.services[0]
    gone = service.delete(50)
    service.touch(5)
    service.grow(7)
    assert changes(trial.sync(expect=5)) == {"inserted": 7, "updated": 5}
    stored = trial.stored()
    assert stored.keys() - trial.expected().keys() == set(gone)
    assert {sid: stored[sid] for sid in trial.expected()} == trial.expected()


def test_a_row_that_moved_behind_the_reader_is_alive(make_trial: MakeTrial) -> None:
    """A row that moves to a page already read is on no page that was read; deleting it would delete a living device."""
    trial = make_trial((60,), order="updated", max_page_size=10)
    trial.sync()
    service = trial.services[0]
    moving = last_rows(service, 3)
    gone = service.remove(last_rows(service, 5)[:2])
    hide_moved(trial, service, moving)
    trial.simulator.requests.clear()
    assert changes(trial.sync()) == {"deleted": 2, "updated": 3}
    assert sorted(lookups(trial)) == sorted([*moving, *gone])
    trial.assert_equal_to_world()
    trial.front.watch = None
    assert changes(trial.sync()) == {}


@pytest.mark.parametrize("limit", [200, 4], ids=["all are asked for", "a sample is asked for"])
def test_a_binding_that_nobody_asked_for_stays(make_trial: MakeTrial, limit: int) -> None:
    """What comes into a scope after its absences were looked up was confirmed by nobody: deleting it deletes a living device."""
    trial = make_trial((80,))
    trial.settings["deletes"] = {"confirm_limit": limit}
    trial.sync()
    service = trial.services[0]
    by_type = {kind: sids_of(service, kind) for kind in ("apn", "gcm")}
    gone, turning = service.remove(by_type["apn"][:6]), by_type["gcm"][0]
    others: list[Result] = []

    def watch(request: Request) -> Reply | None:
        if request.is_lookup and request.path.endswith(tuple(gone)) and not others:
            service.change(turning, binding_type="apn")
            others.append(trial.wait_for(trial.start("backfill", "--type", "gcm", "--json")))
        return None

    trial.account["concurrency"] = 1
    trial.settings["retry"] |= {"timeout_seconds": 60, "max_total_seconds": 60}
    trial.front.watch = watch
    trial.simulator.requests.clear()
    assert changes(trial.backfill("--type", "apn")) == {"deleted": 6}
    assert changes(others[0]) == {"updated": 1}
    assert len(set(lookups(trial))) == min(limit, 6) + 1
    trial.assert_equal_to_world()
    assert changes(trial.sync()) == {}


def test_without_confirmation_a_row_that_moved_comes_back_with_the_next_run(
    make_trial: MakeTrial,
) -> None:
    """`confirm: false` trades that safety for requests; what it costs has to heal by itself."""
    trial = make_trial((60,), order="updated", max_page_size=10)
    trial.settings["deletes"] = {"confirm": False}
    trial.sync()
    hide_moved(trial, trial.services[0], last_rows(trial.services[0], 3))
    assert changes(trial.sync()) == {"deleted": 3}
    trial.front.watch = None
    assert changes(trial.sync()) == {"restored": 3}
    trial.assert_equal_to_world()


def test_one_living_row_in_a_sample_refuses_all_deletes(make_trial: MakeTrial) -> None:
    """Above `confirm_limit` a single row that answers shows that the listing missed rows: then nothing of it is proof."""
    trial = make_trial((100,), order="updated", max_page_size=10)
    trial.settings["deletes"] = {"confirm_limit": 5, "max_fraction": 1}
    trial.sync()
    service = trial.services[0]
    before = trial.stored()
    hide_moved(trial, service, last_rows(service, 30))
    trial.simulator.requests.clear()
    result = trial.sync("--allow-mass-delete", expect=5)
    assert result.totals["deleted"] == 0
    asked = lookups(trial)
    assert len(asked) == len(set(asked)) == 5
    assert changes(result) == {"updated": 5}
    assert trial.stored().keys() == before.keys()
    trial.front.watch = None
    assert changes(trial.sync()) == {"updated": 25}
    trial.assert_equal_to_world()


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
def test_what_cannot_be_confirmed_stays_for_the_next_run(make_trial: MakeTrial, fault: str) -> None:
    """Only the API's own 404 says that a binding is gone; a refusal, a fault or a proxy's page says nothing."""
    trial = make_trial((60,))
    trial.settings["retry"]["attempts"] = 2
    trial.sync()
    gone = trial.services[0].delete(3)
    trial.simulator.faults.add(fault, on="binding")
    assert changes(trial.sync()) == {}
    assert trial.stored().keys() >= set(gone)
    trial.simulator.faults.clear()
    assert changes(trial.sync()) == {"deleted": 3}
    trial.assert_equal_to_world()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("limit", [200, 2], ids=["all are asked for", "a sample is asked for"])
def test_a_gateway_that_knows_listings_only_deletes_nothing(
    make_trial: MakeTrial, limit: int, dry: tuple[str, ...]
) -> None:
    """It answers 404 to every question, also about the living: 15 living rows of 100 went that way."""
    trial = make_trial((100,), order="updated", max_page_size=10)
    trial.settings["deletes"] = {"confirm_limit": limit}
    trial.sync()
    before = trial.stored()
    hide_moved(trial, trial.services[0], last_rows(trial.services[0], 15))
    trial.simulator.faults.add("empty-404", on="binding")
    trial.simulator.requests.clear()
    [told] = trial.sync(*dry).json["services"]
    assert (told["deleted"], told["error"]) == (0, None)
    assert "a binding that was just listed answers 200" in told["note"]
    assert len(lookups(trial)) == min(limit, 15) + 1
    assert trial.stored().keys() == before.keys()


@pytest.mark.parametrize("partitioned", [False, True])
def test_a_404_without_a_word_counts_where_the_living_answer(
    make_trial: MakeTrial, partitioned: bool
) -> None:
    """Where error bodies are lost on the way, nothing would ever be deleted; one question shows that the path is right."""
    trial = make_trial((60,))
    trial.account["partition_by_type"] = partitioned
    trial.sync()
    service = trial.services[0]
    gone = service.remove([*sids_of(service, "gcm"), *sids_of(service, "apn")[:2]])
    trial.simulator.faults.add("empty-errors", on="binding")
    trial.simulator.requests.clear()
    assert changes(trial.sync("--allow-mass-delete")) == {"deleted": len(gone)}
    assert len(lookups(trial)) == len(gone) + (2 if partitioned else 1)
    trial.assert_equal_to_world()


def test_an_unanswered_question_keeps_its_own_row_only(make_trial: MakeTrial) -> None:
    """One row that cannot be asked about must not keep the others from being deleted, and is asked about again."""
    trial = make_trial((60,))
    trial.settings["retry"]["attempts"] = 1
    trial.sync()
    trial.services[0].delete(4)
    trial.simulator.faults.add("error-500", on="binding", times=1)
    assert changes(trial.sync()) == {"deleted": 3}
    assert changes(trial.sync()) == {"deleted": 1}
    trial.assert_equal_to_world()


def test_an_api_that_answers_no_question_is_not_asked_for_long(make_trial: MakeTrial) -> None:
    """Two hundred questions that each hang until the retries run out would hold the service for hours."""
    trial = make_trial((400,))
    trial.account["concurrency"] = 2
    trial.settings["retry"]["attempts"] = 2
    trial.sync()
    trial.services[0].delete(60)
    trial.simulator.faults.add("error-500", on="binding")
    trial.simulator.requests.clear()
    result = trial.sync()
    assert changes(result) == {}
    assert len(lookups(trial)) <= 2 * (3 + 2 * 2)
    assert "the next run asks again" in result.json["services"][0]["note"]
    trial.simulator.faults.clear()
    assert changes(trial.sync()) == {"deleted": 60}


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_refusal_is_told_everywhere(make_trial: MakeTrial, dry: tuple[str, ...]) -> None:
    """Exit code 5 without a word why, or without the way out, would leave an operator helpless."""
    trial = make_trial((100,))
    trial.sync()
    trial.services[0].delete(50)
    [told] = trial.sync(*dry, expect=5).json["services"]
    assert told["error"]["type"] == "DeletesRefused"
    assert "--allow-mass-delete" in told["error"]["message"]
    if not dry:
        [line] = trial.query("SELECT error FROM sync_runs ORDER BY id DESC LIMIT 1")
        assert "--allow-mass-delete" in line["error"]


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("prepare", "options", "words"),
    [
        (lambda _: None, ("--since", "2001-01-01"), "narrowed by time"),
        (
            lambda trial: (
                trial.settings.update(privacy={"identity": "drop"}),
                trial.run("rekey"),
            ),
            ("--identity", "somebody"),
            "privacy.identity",
        ),
        (lambda trial: trial.simulator.faults.add("missing-sid"), (), "without a readable SID"),
        (
            lambda trial: trial.simulator.faults.add("forbidden", on="binding"),
            (),
            "whether they are gone",
        ),
    ],
)
def test_whoever_withholds_deletes_says_why(
    make_trial: MakeTrial,
    prepare: Callable[[Trial], object],
    options: tuple[str, ...],
    words: str,
    dry: tuple[str, ...],
) -> None:
    """A binding that is gone and stays must not look like an oversight: the reason stands at the end, in the JSON and in the ledger."""
    trial = make_trial((60,))
    trial.sync()
    trial.services[0].delete(5)
    prepare(trial)
    [told] = trial.backfill(*options, *dry).json["services"]
    status = "planned" if dry else "published"
    assert (told["status"], told["deleted"], told["error"]) == (status, 0, None)
    assert words in told["note"]
    assert words in trial.run("backfill", *options, *dry).out
    if not dry:
        [line] = trial.query("SELECT error FROM sync_scans ORDER BY id DESC LIMIT 1")
        assert words in line["error"]


def test_an_unanswered_question_in_a_sample_leaves_all_for_the_next_run(
    make_trial: MakeTrial,
) -> None:
    """A sample with a hole proves nothing about the rows that were not drawn."""
    trial = make_trial((100,))
    trial.settings |= {
        "deletes": {"confirm_limit": 5},
        "retry": {**trial.settings["retry"], "attempts": 1},
    }
    trial.sync()
    trial.services[0].delete(15)
    trial.simulator.faults.add("error-500", on="binding", times=1)
    assert changes(trial.sync()) == {}
    assert changes(trial.sync()) == {"deleted": 15}


def test_a_binding_that_answers_with_a_bad_row_is_not_absent(make_trial: MakeTrial) -> None:
    """A living binding whose row cannot be loaded is a reject, and no delete."""
    trial = make_trial((60,), order="updated", max_page_size=10)
    trial.sync()
    service = trial.services[0]
    [sid] = last_rows(service, 1)
    before = trial.stored()[sid]
    hide_moved(trial, service, [sid])
    original = trial.front.watch

    def watch(request: Request) -> Reply | None:
        if request.is_lookup:
            service.change(sid, date_created="half past nine")
        return original(request) if original else None

    trial.front.watch = watch
    assert changes(trial.sync()) == {"rejected": 1}
    assert trial.stored()[sid] == before
    assert [
        row["sid"]
        for row in trial.query("SELECT sid FROM rejected_bindings WHERE resolved_at IS NULL")
    ] == [sid]


@pytest.mark.parametrize(
    "fault",
    ["error-500", "html-200", "loop", "foreign-host", "no-meta", "service-404", "unauthorized"],
)
def test_a_scan_that_fails_half_way_deletes_nothing(make_trial: MakeTrial, fault: str) -> None:
    """Rows on the pages behind a failure were not seen, and are not absent for that."""
    trial = make_trial((60,), max_page_size=10)
    trial.settings |= {
        "deletes": {"confirm": False, "max_fraction": 1},
        "retry": {**trial.settings["retry"], "attempts": 2},
    }
    trial.sync()
    before = trial.image()
    trial.services[0].touch(10)
    trial.services[0].delete(5)
    trial.simulator.faults.add(fault, only_pages=[3])
    trial.sync(expect=4)
    after = trial.image()
    assert (after["bindings"], after["binding_versions"]) == (
        before["bindings"],
        before["binding_versions"],
    )


def test_a_service_that_is_gone_keeps_its_rows(make_trial: MakeTrial) -> None:
    """More rows than the guard lets go, and those of a service that was named, stay until a person decides."""
    trial = make_trial((30, 20))
    trial.sync()
    before = trial.stored()
    sid = trial.services[0].sid
    trial.world.remove_service(sid)
    assert changes(trial.sync(expect=5)) == {}
    assert trial.stored() == before
    trial.account["services"] = [sid, trial.services[0].sid]
    result = trial.sync(expect=3)
    assert result.services[sid]["error"]["type"] == "ServiceNotFound"
    assert trial.stored() == before


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_come_go_and_move_while_pages_are_read(make_trial: MakeTrial, seed: int) -> None:
    """Whatever happens between two pages, no row that was there all along is lost, and none that exists is deleted."""
    trial = make_trial((120,), order="updated", max_page_size=8, seed=seed)
    service = trial.services[0]

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
            row["sid"] for row in trial.query("SELECT sid FROM bindings WHERE deleted_at IS NULL")
        }
        fault = trial.simulator.faults.add(Fault("slow", when=stir))
        trial.sync()
        trial.simulator.faults.remove(fault)
        throughout = start & set(service.bindings)
        assert before & throughout <= trial.stored().keys()
        trial.sync()
        trial.assert_equal_to_world()
