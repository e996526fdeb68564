"""One listing read by several chains of pages side by side, over real sockets (docs/promises.md §11)."""

import signal
from collections.abc import Callable
from subprocess import Popen
from typing import Any

import pytest

from etl.simulator.replies import Reply
from etl.simulator.request_log import Logged
from etl.simulator.views import Choice
from etl.sync import prefetch
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Scenario, changes, wait_until

MakeScenario = Callable[..., Scenario]

PAGES = 40
CHAINS = 4


@pytest.fixture
def make_cut(make_scenario: MakeScenario) -> MakeScenario:
    """A service of 40 pages that was read once, so that the next reading can cut it."""

    def make(**options: object) -> Scenario:
        scenario = make_scenario((10 * PAGES,), max_page_size=10, **options)
        scenario.account |= {"chains_per_service": CHAINS, "concurrency": CHAINS, "page_size": 10}
        scenario.sync()
        scenario.simulator.requests.clear()
        return scenario

    return make


def remembered(scenario: Scenario) -> list[str]:
    """The links that are stored, in the order of the listing."""
    lines = scenario.query("SELECT link FROM page_links ORDER BY scope, rows_before")
    return [line["link"] for line in lines]


def listings(scenario: Scenario) -> list[Logged]:
    """The pages of bindings that were asked for."""
    return [one for one in scenario.simulator.requests if one.path.endswith("/Bindings")]


def stir(scenario: Scenario) -> None:
    """Change something of each kind."""
    service = scenario.services[0]
    service.delete(5)
    service.touch(20)
    service.grow(30)


@pytest.mark.parametrize("order", ["sid", "created", "updated", "updated-desc"])
@pytest.mark.parametrize("style", ["position", "offset", "opaque"])
def test_a_listing_is_cut_at_remembered_links(
    make_cut: MakeScenario, style: str, order: str
) -> None:
    """Chains that began nowhere else, or read all of it each, would be no faster than one."""
    scenario = make_cut(page_tokens=style, order=order)
    links = set(remembered(scenario))
    assert len(links) == PAGES - 1
    stir(scenario)
    scenario.simulator.requests.clear()
    scenario.simulator.limits.latency_ms = 5
    api: Any = scenario.interceptor._app
    api.most_in_flight = 0
    [told] = scenario.sync().json["services"]
    assert (told["complete"], told["inserted"], told["updated"]) == (True, 30, 20)
    assert told["deleted"] == 5
    scenario.assert_equal_to_world()
    asked = [f"{scenario.simulator.base_url}{one.path}?{one.query}" for one in listings(scenario)]
    # Each chain reads a page or two more than its part, and the last page is read once more.
    assert len(asked) <= PAGES + 3 + 2 * CHAINS + 1
    assert len([link for link in links if link in asked]) >= CHAINS - 1
    assert 1 < api.most_in_flight <= CHAINS


@pytest.mark.parametrize("bad_token", ["refuse", "empty", "not-found"])
def test_links_that_expired_cost_a_page_each(make_cut: MakeScenario, bad_token: str) -> None:
    """Nobody knows how long a token lives; a service must neither fail for it nor lose a row."""
    scenario = make_cut(page_tokens="opaque", bad_token=bad_token)
    stir(scenario)
    scenario.simulator.page_tokens.forget()
    [told] = scenario.sync().json["services"]
    assert (told["complete"], told["inserted"], told["deleted"]) == (True, 30, 5)
    assert told["pages"] <= PAGES + 3 + CHAINS - 1
    scenario.assert_equal_to_world()
    [again] = scenario.sync().json["services"]
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
def test_a_store_that_was_damaged_by_hand_loses_nothing(make_cut: MakeScenario, link: str) -> None:
    """A link leads to where credentials go, and to what counts as read."""
    scenario = make_cut()
    scenario.execute("UPDATE page_links SET link = :link", link=link)
    stir(scenario)
    result = scenario.sync()
    [told] = result.json["services"]
    assert (told["complete"], told["inserted"], told["deleted"]) == (True, 30, 5)
    assert {one.headers["host"] for one in listings(scenario)} == {scenario.simulator.base_url[7:]}
    assert "chains.dropped" in result.err
    assert link not in result.err or not link
    scenario.assert_equal_to_world()


def test_links_in_a_wrong_order_lose_nothing(make_cut: MakeScenario) -> None:
    """Each of them is good, and leads elsewhere than is said."""
    scenario = make_cut()
    links = remembered(scenario)
    places = [line["rows_before"] for line in scenario.query("SELECT rows_before FROM page_links")]
    for rows_before, link in zip(sorted(places), reversed(links), strict=True):
        scenario.execute(
            "UPDATE page_links SET link = :link WHERE rows_before = :rows",
            link=link,
            rows=rows_before,
        )
    stir(scenario)
    [told] = scenario.sync().json["services"]
    assert (told["complete"], told["inserted"], told["deleted"]) == (True, 30, 5)
    scenario.assert_equal_to_world()


def test_a_chain_that_breaks_leaves_it_to_one(make_cut: MakeScenario) -> None:
    """What one chain could read must not fail because there were several."""
    scenario = make_cut(order="sid")
    stir(scenario)
    scenario.simulator.faults.add("no-meta", times=1, only_pages=[25])
    result = scenario.sync()
    [told] = result.json["services"]
    assert (told["status"], told["complete"], told["deleted"]) == ("published", True, 5)
    assert "scan.restarted" in result.err
    scenario.assert_equal_to_world()


def test_a_free_place_goes_to_the_longest_part(make_cut: MakeScenario) -> None:
    """Where one part is far longer than the others, it would be read by one chain alone."""
    scenario = make_cut(page_tokens="opaque")
    scenario.account["chains_per_service"] = 2
    tokens = {link.rpartition("=")[2] for link in remembered(scenario)}
    started: list[str] = []

    def watch(request: Request) -> None:
        token = request.parameters.get("PageToken", [""])[0]
        if token in tokens:
            started.append(token)
        if request.page == PAGES // 2 + 1:  # of the second chain, when the first one has met it
            wait_until(lambda: len(started) > 1)

    scenario.interceptor.watch = watch
    [told] = scenario.sync().json["services"]
    assert len(started) > 1
    assert (told["complete"], told["unchanged"]) == (True, 10 * PAGES)
    scenario.assert_equal_to_world()


def test_a_row_that_moves_behind_the_end_is_read(make_cut: MakeScenario) -> None:
    """One chain reads the end last and comes upon it; several would leave a new binding out."""
    scenario = make_cut(order="updated")
    scenario.account["chains_per_service"] = 2
    service = scenario.services[0]
    added = set(service.grow(20))
    listed = [row.key for row in service.rows_after(Choice("updated"), None, 500)]
    moves = next(sid for sid in listed[:200] if sid in added)
    held = listed.index(moves) // 10  # the page that shows it
    api: Any = scenario.interceptor._app

    def end_was_read() -> bool:
        asked = [one.parameters.get("Page") for one in listings(scenario)]
        return [str(PAGES + 1)] in asked and not api.in_flight

    def watch(request: Request) -> None:
        if request.is_listing and request.page == held and not end_was_read():
            wait_until(end_was_read)
            service.change(moves, date_updated="2026-01-01T00:00:00Z")

    scenario.interceptor.watch = watch
    [told] = scenario.sync().json["services"]
    assert (told["complete"], told["inserted"]) == (True, 20)
    assert scenario.stored()[moves]["date_updated"].startswith("2026-01-01")
    scenario.assert_equal_to_world()


def test_one_chain_remembers_nothing(make_scenario: MakeScenario) -> None:
    """Who does not ask for it must not pay for it."""
    scenario = make_scenario((60,), max_page_size=10)
    scenario.sync()
    assert remembered(scenario) == []


def test_parts_of_a_service_are_cut_apart(make_scenario: MakeScenario) -> None:
    """Links of one filter lead to rows of that filter only."""
    scenario = make_scenario((400,), max_page_size=10)
    scenario.account |= {"chains_per_service": 2, "page_size": 10, "partition_by_type": True}
    scenario.sync()
    scopes = {line["scope"] for line in scenario.query("SELECT scope FROM page_links")}
    assert scopes == {"type:apn", "type:fcm", "type:gcm", "type:twilsock"}
    stir(scenario)
    assert changes(scenario.sync()) == {"inserted": 30, "updated": 20, "deleted": 5}
    scenario.assert_equal_to_world()


def test_links_of_another_page_size_are_left_alone(make_cut: MakeScenario) -> None:
    """They would go on with the old size for ever, since each page's link holds that of the last."""
    scenario = make_cut()
    scenario.account["page_size"] = 5
    scenario.sync()
    assert {one.parameters["PageSize"][0] for one in listings(scenario)} == {"5"}
    assert {line["page_size"] for line in scenario.query("SELECT page_size FROM page_links")} == {5}


def test_an_identity_is_in_no_link(make_cut: MakeScenario) -> None:
    """A link by identity names a person."""
    scenario = make_cut()
    before = remembered(scenario)
    identity = next(iter(scenario.services[0].bindings.values()))["identity"]
    scenario.backfill("--identity", identity)
    assert remembered(scenario) == before


def test_erase_leaves_no_link(make_cut: MakeScenario) -> None:
    """A token may hold the SID of the row before its page."""
    scenario = make_cut()
    identity = next(iter(scenario.services[0].bindings.values()))["identity"]
    nobody = scenario.run("erase", "--identity", "nobody", "--json")
    assert nobody.json["removed"]["page_links"] == 0
    done = scenario.run("erase", "--identity", identity, "--json")
    assert done.json["removed"]["page_links"] == PAGES - 1
    assert remembered(scenario) == []


def test_a_service_that_is_gone_leaves_no_link(make_cut: MakeScenario) -> None:
    """Nothing of it would ever replace them."""
    scenario = make_cut()
    scenario.world.add_service(3)
    scenario.world.remove_service(scenario.services[0].sid)
    scenario.sync("--allow-mass-delete")
    assert remembered(scenario) == []


def test_a_dry_run_reads_by_one_chain(make_cut: MakeScenario) -> None:
    """What it counts it cannot take back, so it must not count what may not be linked."""
    scenario = make_cut()
    stir(scenario)
    before = scenario.image(), remembered(scenario)
    [told] = scenario.sync("--dry-run").json["services"]
    assert (told["inserted"], told["updated"], told["deleted"]) == (30, 20, 5)
    assert (scenario.image(), remembered(scenario)) == before


def stored_chains(scenario: Scenario) -> list[int]:
    """How many rows each chain of an interrupted reading has read before the link that it stored."""
    lines = scenario.query("SELECT rows_read FROM scan_progress WHERE next_link <> ''")
    return [line["rows_read"] for line in lines]


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("on_postgresql", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_chain_goes_on_where_it_was(
    make_cut: MakeScenario,
    request: pytest.FixtureRequest,
    ending: signal.Signals,
    on_postgresql: bool,
) -> None:
    """A node that is drained would cost all chains but the first what they had read."""
    options = {"url": request.getfixturevalue("postgres18_url")} if on_postgresql else {}
    scenario = make_cut(**options)
    stir(scenario)
    process: list[Popen[str]] = []

    def watch(request: Request) -> None:
        if request.is_listing and request.page == 8:
            wait_until(lambda: len(stored_chains(scenario)) == CHAINS)
            process[0].send_signal(ending)

    scenario.interceptor.watch = watch
    scenario.batch_seconds = 1
    scenario.simulator.limits.latency_ms = 250  # so that what is read is handed on before page 8
    process.append(scenario.start("sync"))
    scenario.wait_for(process[0], expect=143 if ending == signal.SIGTERM else -ending)
    scenario.interceptor.watch, scenario.simulator.limits.latency_ms = None, 0
    scenario.expire_leases()
    stored = stored_chains(scenario)
    assert len(stored) == CHAINS
    scenario.simulator.requests.clear()
    [told] = scenario.sync().json["services"]
    assert (told["resumed"], told["complete"], told["deleted"]) == (True, False, 0)
    asked = listings(scenario)
    assert all("PageToken" in one.parameters for one in asked)
    # Each chain reads the page where it meets the next one, or reads the last page once more.
    assert len(asked) <= PAGES + 3 - sum(stored) // 10 + 2 * CHAINS
    assert scenario.query("SELECT * FROM scan_progress") == []
    assert scenario.sync().totals["deleted"] == 5
    scenario.assert_equal_to_world()


@pytest.fixture
def broken_off(make_cut: MakeScenario, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """A reading by several chains that broke off as the API failed, when each had stored something."""
    scenario = make_cut()
    monkeypatch.setattr(prefetch, "BATCH_PAGES", 1)
    stir(scenario)

    def watch(request: Request) -> Reply | None:
        if request.is_listing and len(listings(scenario)) > PAGES // 2:
            return Reply(503, b"")
        return None

    scenario.interceptor.watch = watch
    scenario.settings["retry"]["attempts"] = 1
    scenario.sync(expect=4)
    scenario.interceptor.watch = None
    assert len(stored_chains(scenario)) == CHAINS
    scenario.simulator.requests.clear()
    return scenario


def test_a_chain_that_is_damaged_by_hand_is_read_by_the_one_before(broken_off: Scenario) -> None:
    """A stored link leads to where credentials go; what it should have led to must not be missing."""
    links = ("https://elsewhere.invalid/?Page=1", "not a link", "http://127.0.0.1:9/v1")
    lines = broken_off.query("SELECT stage_id FROM scan_progress WHERE stage_id < 0")
    for line, link in zip(lines, links, strict=True):
        broken_off.execute(
            "UPDATE scan_progress SET next_link = :link WHERE stage_id = :stage",
            link=link,
            stage=line["stage_id"],
        )
    result = broken_off.sync()
    [told] = result.json["services"]
    assert (told["resumed"], told["inserted"], told["deleted"]) == (True, 30, 0)
    assert "chains.dropped" in result.err
    assert "elsewhere" not in result.err
    hosts = {one.headers["host"] for one in listings(broken_off)}
    assert hosts == {broken_off.simulator.base_url[7:]}
    assert broken_off.sync().totals["deleted"] == 5
    broken_off.assert_equal_to_world()


def test_a_beginning_that_is_damaged_by_hand_is_read_anew(broken_off: Scenario) -> None:
    """Nobody could say where the chain belongs, so what it has read must not count."""
    broken_off.execute("UPDATE scan_progress SET first_page = '[' WHERE stage_id < 0")
    result = broken_off.sync()
    [told] = result.json["services"]
    assert (told["resumed"], told["inserted"], told["deleted"]) == (True, 30, 0)
    assert "what is stored of how they began was damaged" in result.err
    assert broken_off.query("SELECT * FROM scan_seen") == []
    assert broken_off.sync().totals["deleted"] == 5
    broken_off.assert_equal_to_world()


def test_with_one_chain_the_others_are_forgotten(broken_off: Scenario) -> None:
    """Who switches several chains off, perhaps as they are trouble, must not be left with them."""
    broken_off.account["chains_per_service"] = 1
    [told] = broken_off.sync().json["services"]
    assert (told["resumed"], told["inserted"]) == (True, 30)
    assert told["pages"] > PAGES // 2
    assert broken_off.query("SELECT * FROM scan_progress") == []
    assert broken_off.sync().totals["deleted"] == 5
    broken_off.assert_equal_to_world()


@pytest.mark.parametrize("status", [500, 401, 403])
def test_a_failure_that_is_not_of_the_link_costs_no_chain(
    broken_off: Scenario, status: int
) -> None:
    """While the API is down, or the key is wrong, each run would throw away what some chain had read."""
    before = sorted(stored_chains(broken_off))
    broken_off.interceptor.watch = lambda request: (
        Reply(status, b"") if request.is_listing else None
    )
    broken_off.sync(expect=4)
    assert sorted(stored_chains(broken_off)) == before
