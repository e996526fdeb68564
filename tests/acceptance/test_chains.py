"""One listing read by several chains of pages side by side, over real sockets (docs/promises.md §11)."""

import signal
from collections.abc import Callable
from subprocess import Popen
from typing import Any

import pytest

from etl.simulator.request_log import Logged
from etl.simulator.views import Choice
from tests.acceptance.front import Request
from tests.acceptance.trial import Trial, changes, wait_until

MakeTrial = Callable[..., Trial]

PAGES = 40
CHAINS = 4


@pytest.fixture
def make_cut(make_trial: MakeTrial) -> MakeTrial:
    """A service of 40 pages that was read once, so that the next reading can cut it."""

    def make(**options: object) -> Trial:
        trial = make_trial((10 * PAGES,), max_page_size=10, **options)
        trial.account |= {"chains_per_service": CHAINS, "concurrency": CHAINS, "page_size": 10}
        trial.sync()
        trial.simulator.requests.clear()
        return trial

    return make


def remembered(trial: Trial) -> list[str]:
    """The links that are stored, in the order of the listing."""
    lines = trial.query("SELECT link FROM page_links ORDER BY scope, rows_before")
    return [line["link"] for line in lines]


def listings(trial: Trial) -> list[Logged]:
    """The pages of bindings that were asked for."""
    return [one for one in trial.simulator.requests if one.path.endswith("/Bindings")]


def stir(trial: Trial) -> None:
    """Change something of each kind."""
    service = trial.services[0]
    service.delete(5)
    service.touch(20)
    service.grow(30)


@pytest.mark.parametrize("order", ["sid", "created", "updated", "updated-desc"])
@pytest.mark.parametrize("style", ["position", "offset", "opaque"])
def test_a_listing_is_cut_at_remembered_links(make_cut: MakeTrial, style: str, order: str) -> None:
    """Chains that began nowhere else, or read all of it each, would be no faster than one."""
    trial = make_cut(page_tokens=style, order=order)
    links = set(remembered(trial))
    assert len(links) == PAGES - 1
    stir(trial)
    trial.simulator.requests.clear()
    trial.simulator.limits.latency_ms = 5
    api: Any = trial.front._app
    api.most_in_flight = 0
    [told] = trial.sync().json["services"]
    assert (told["complete"], told["inserted"], told["updated"]) == (True, 30, 20)
    assert told["deleted"] == 5
    trial.assert_equal_to_world()
    asked = [f"{trial.simulator.base_url}{one.path}?{one.query}" for one in listings(trial)]
    # Each chain reads a page or two more than its part, and the last page is read once more.
    assert len(asked) <= PAGES + 3 + 2 * CHAINS + 1
    assert len([link for link in links if link in asked]) >= CHAINS - 1
    assert 1 < api.most_in_flight <= CHAINS


@pytest.mark.parametrize("bad_token", ["refuse", "empty", "not-found"])
def test_links_that_expired_cost_a_page_each(make_cut: MakeTrial, bad_token: str) -> None:
    """Nobody knows how long a token lives; a service must neither fail for it nor lose a row."""
    trial = make_cut(page_tokens="opaque", bad_token=bad_token)
    stir(trial)
    trial.simulator.page_tokens.forget()
    [told] = trial.sync().json["services"]
    assert (told["complete"], told["inserted"], told["deleted"]) == (True, 30, 5)
    assert told["pages"] <= PAGES + 3 + CHAINS - 1
    trial.assert_equal_to_world()
    [again] = trial.sync().json["services"]
    assert (again["complete"], again["unchanged"]) == (True, 10 * PAGES + 25)


@pytest.mark.parametrize(
    "link",
    [
        "http://127.0.0.1:9/v1/Services/IS/Bindings?Page=1",
        "https://elsewhere.invalid/",
        "not a link",
        "",
    ],
)
def test_a_store_that_was_damaged_by_hand_loses_nothing(make_cut: MakeTrial, link: str) -> None:
    """A link leads to where credentials go, and to what counts as read."""
    trial = make_cut()
    trial.execute("UPDATE page_links SET link = :link", link=link)
    stir(trial)
    result = trial.sync()
    [told] = result.json["services"]
    assert (told["complete"], told["inserted"], told["deleted"]) == (True, 30, 5)
    assert {one.headers["host"] for one in listings(trial)} == {trial.simulator.base_url[7:]}
    assert "chains.dropped" in result.err
    assert link not in result.err or not link
    trial.assert_equal_to_world()


def test_links_in_a_wrong_order_lose_nothing(make_cut: MakeTrial) -> None:
    """Each of them is good, and leads elsewhere than is said."""
    trial = make_cut()
    links = remembered(trial)
    places = [line["rows_before"] for line in trial.query("SELECT rows_before FROM page_links")]
    for rows_before, link in zip(sorted(places), reversed(links), strict=True):
        trial.execute(
            "UPDATE page_links SET link = :link WHERE rows_before = :rows",
            link=link,
            rows=rows_before,
        )
    stir(trial)
    [told] = trial.sync().json["services"]
    assert (told["complete"], told["inserted"], told["deleted"]) == (True, 30, 5)
    trial.assert_equal_to_world()


def test_a_chain_that_breaks_leaves_it_to_one(make_cut: MakeTrial) -> None:
    """What one chain could read must not fail because there were several."""
    trial = make_cut(order="sid")
    stir(trial)
    trial.simulator.faults.add("no-meta", times=1, only_pages=[25])
    result = trial.sync()
    [told] = result.json["services"]
    assert (told["status"], told["complete"], told["deleted"]) == ("published", True, 5)
    assert "scan.restarted" in result.err
    trial.assert_equal_to_world()


def test_a_free_place_goes_to_the_longest_part(make_cut: MakeTrial) -> None:
    """Where one part is far longer than the others, it would be read by one chain alone."""
    trial = make_cut(page_tokens="opaque")
    trial.account["chains_per_service"] = 2
    tokens = {link.rpartition("=")[2] for link in remembered(trial)}
    started: list[str] = []

    def watch(request: Request) -> None:
        token = request.parameters.get("PageToken", [""])[0]
        if token in tokens:
            started.append(token)
        if request.page == PAGES // 2 + 1:  # of the second chain, when the first one has met it
            wait_until(lambda: len(started) > 1)

    trial.front.watch = watch
    [told] = trial.sync().json["services"]
    assert len(started) > 1
    assert (told["complete"], told["unchanged"]) == (True, 10 * PAGES)
    trial.assert_equal_to_world()


def test_a_row_that_moves_behind_the_end_is_read(make_cut: MakeTrial) -> None:
    """One chain reads the end last and comes upon it; several would leave a new binding out."""
    trial = make_cut(order="updated")
    trial.account["chains_per_service"] = 2
    service = trial.services[0]
    added = set(service.grow(20))
    listed = [row.key for row in service.rows_after(Choice("updated"), None, 500)]
    moves = next(sid for sid in listed[:200] if sid in added)
    held = listed.index(moves) // 10  # the page that shows it
    api: Any = trial.front._app

    def end_was_read() -> bool:
        asked = [one.parameters.get("Page") for one in listings(trial)]
        return [str(PAGES + 1)] in asked and not api.in_flight

    def watch(request: Request) -> None:
        if request.is_listing and request.page == held and not end_was_read():
            wait_until(end_was_read)
            service.change(moves, date_updated="2026-01-01T00:00:00Z")

    trial.front.watch = watch
    [told] = trial.sync().json["services"]
    assert (told["complete"], told["inserted"]) == (True, 20)
    assert trial.stored()[moves]["date_updated"].startswith("2026-01-01")
    trial.assert_equal_to_world()


def test_one_chain_remembers_nothing(make_trial: MakeTrial) -> None:
    """Who does not ask for it must not pay for it."""
    trial = make_trial((60,), max_page_size=10)
    trial.sync()
    assert remembered(trial) == []


def test_parts_of_a_service_are_cut_apart(make_trial: MakeTrial) -> None:
    """Links of one filter lead to rows of that filter only."""
    trial = make_trial((400,), max_page_size=10)
    trial.account |= {"chains_per_service": 2, "page_size": 10, "partition_by_type": True}
    trial.sync()
    scopes = {line["scope"] for line in trial.query("SELECT scope FROM page_links")}
    assert scopes == {"type:apn", "type:fcm", "type:gcm", "type:twilsock"}
    stir(trial)
    assert changes(trial.sync()) == {"inserted": 30, "updated": 20, "deleted": 5}
    trial.assert_equal_to_world()


def test_links_of_another_page_size_are_left_alone(make_cut: MakeTrial) -> None:
    """They would go on with the old size for ever, since each page's link holds that of the last."""
    trial = make_cut()
    trial.account["page_size"] = 5
    trial.sync()
    assert {one.parameters["PageSize"][0] for one in listings(trial)} == {"5"}
    assert {line["page_size"] for line in trial.query("SELECT page_size FROM page_links")} == {5}


def test_an_identity_is_in_no_link(make_cut: MakeTrial) -> None:
    """A link by identity names a person."""
    trial = make_cut()
    before = remembered(trial)
    identity = next(iter(trial.services[0].bindings.values()))["identity"]
    trial.backfill("--identity", identity)
    assert remembered(trial) == before


def test_erase_leaves_no_link(make_cut: MakeTrial) -> None:
    """A token may hold the SID of the row before its page."""
    trial = make_cut()
    identity = next(iter(trial.services[0].bindings.values()))["identity"]
    nobody = trial.run("erase", "--identity", "nobody", "--json")
    assert nobody.json["removed"]["page_links"] == 0
    done = trial.run("erase", "--identity", identity, "--json")
    assert done.json["removed"]["page_links"] == PAGES - 1
    assert remembered(trial) == []


def test_a_service_that_is_gone_leaves_no_link(make_cut: MakeTrial) -> None:
    """Nothing of it would ever replace them."""
    trial = make_cut()
    trial.world.add_service(3)
    trial.world.remove_service(trial.services[0].sid)
    trial.sync("--allow-mass-delete")
    assert remembered(trial) == []


def test_a_dry_run_reads_by_one_chain(make_cut: MakeTrial) -> None:
    """What it counts it cannot take back, so it must not count what may not be linked."""
    trial = make_cut()
    stir(trial)
    before = trial.image(), remembered(trial)
    [told] = trial.sync("--dry-run").json["services"]
    assert (told["inserted"], told["updated"], told["deleted"]) == (30, 20, 5)
    assert (trial.image(), remembered(trial)) == before


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_linked_is_not_read_again(make_cut: MakeTrial, ending: signal.Signals) -> None:
    """A reading that is killed goes on behind what its first chain had read; the rest is cut again."""
    trial = make_cut()
    stir(trial)
    process: list[Popen[str]] = []

    def kept() -> bool:
        linked = trial.query("SELECT pages FROM scan_progress WHERE stage_id > 0")
        return bool(linked and linked[0]["pages"])

    def watch(request: Request) -> None:
        if request.is_listing and request.page == 7:
            wait_until(kept)
            process[0].send_signal(ending)

    trial.front.watch = watch
    trial.simulator.limits.latency_ms = 250  # so that what is read is handed on before page 7
    process.append(trial.start("sync"))
    trial.wait_for(process[0], expect=143 if ending == signal.SIGTERM else -ending)
    if ending == signal.SIGTERM:
        assert trial.query("SELECT * FROM scan_progress WHERE stage_id < 0") == []
    trial.front.watch, trial.simulator.limits.latency_ms = None, 0
    trial.expire_leases()
    [told] = trial.sync().json["services"]
    assert (told["resumed"], told["complete"], told["deleted"]) == (True, False, 0)
    assert trial.query("SELECT * FROM scan_progress") == []
    assert trial.sync().totals["deleted"] == 5
    trial.assert_equal_to_world()
