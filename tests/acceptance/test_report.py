"""`report`: the page for people."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.acceptance.scenario import Scenario

# Attributes that make a browser fetch something.
LOADING = {
    "src",
    "href",
    "srcset",
    "data",
    "action",
    "poster",
    "background",
    "xlink:href",
    "formaction",
}
EVIL = "<script>alert('1')</script>&\""


class Page(HTMLParser):
    """The tags of a page, each with its attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def report(scenario: Scenario, folder: Path) -> str:
    out = folder / "report.html"
    scenario.run("report", "--out", str(out))
    return out.read_text(encoding="utf-8")


def with_changes(scenario: Scenario) -> None:
    scenario.sync()
    service = next(iter(scenario.world.services.values()))
    service.touch(5)
    service.delete(2)
    service.change(service.sids()[0], date_updated="never")
    scenario.sync()


def test_the_page_loads_nothing_and_runs_nothing(scenario: Scenario, tmp_path: Path) -> None:
    """A page that fetches fonts or scripts tells strangers who reads it, and is blank where there is no network."""
    with_changes(scenario)
    html = report(scenario, tmp_path)
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {
        tag for tag, _ in page.tags
    }
    assert not [
        (tag, name)
        for tag, attributes in page.tags
        for name in attributes
        if name in LOADING or name.startswith("on")
    ]
    assert not re.search(r"https?://|@import|url\(", html)


def test_what_comes_from_data_is_escaped(scenario: Scenario, tmp_path: Path) -> None:
    """A binding type or an error text that holds markup would run in the reader's browser."""
    with_changes(scenario)
    scenario.execute("UPDATE bindings SET binding_type = :evil, account = :evil", evil=EVIL)
    scenario.execute("UPDATE sync_runs SET error = :evil, mode = :evil, status = :evil", evil=EVIL)
    scenario.execute("UPDATE sync_scans SET account = :evil", evil=EVIL)
    scenario.execute("UPDATE rejected_bindings SET reason = :evil", evil=EVIL)
    scenario.execute("UPDATE services SET friendly_name = :evil", evil=EVIL)
    html = report(scenario, tmp_path)
    assert "<script" not in html
    assert EVIL in Page(html).text


def test_the_page_names_nobody(scenario: Scenario, tmp_path: Path) -> None:
    """A page that is passed around must not carry identities or endpoints."""
    with_changes(scenario)
    html = report(scenario, tmp_path)
    people = scenario.query("SELECT identity, endpoint FROM bindings")
    assert not [one for one in people if one["identity"] in html or one["endpoint"] in html]


def test_the_figures_are_those_of_the_warehouse(scenario: Scenario, tmp_path: Path) -> None:
    """A chart that shows other numbers than the tables misleads everybody who trusts it."""
    with_changes(scenario)
    html = report(scenario, tmp_path)
    text = " ".join(Page(html).text.split())
    (line,) = scenario.query(
        "SELECT count(*) AS active, count(DISTINCT identity) AS people FROM bindings WHERE deleted_at IS NULL"
    )
    assert f"active bindings {line['active']}" in text
    for row in scenario.query("SELECT chat_service_sid, active, deleted FROM service_freshness"):
        assert re.search(
            rf"{row['chat_service_sid']} .*? ago .*? {row['active']} {row['deleted']} ", text
        )
    for row in scenario.query("SELECT binding_type, count(*) AS n FROM active_bindings GROUP BY 1"):
        assert re.search(rf"part: {row['binding_type']}", html)
    assert "0 gained and 2 lost in 30 days: -2" in text
    assert "date_updated is not a date that can be read 1" in text


def test_every_chart_says_what_it_shows(scenario: Scenario, tmp_path: Path) -> None:
    """Who cannot see a chart has only its name, and the numbers below it."""
    with_changes(scenario)
    html = report(scenario, tmp_path)
    charts = re.findall(r"<figure (.*?)>(.*?)</figure>(.*?)</section>", html, re.DOTALL)
    assert len(charts) == 8
    for attributes, drawn, rest in charts:
        assert re.search(r'role="img" aria-label="[^"]+: [^"]+"', attributes)
        assert drawn.count("<svg") == 2
        assert "<td" in rest
    names = re.findall(r' id="([^"]+)"', html)
    assert len(names) == len(set(names))


def test_many_services_are_the_biggest_and_a_sum(scenario: Scenario, tmp_path: Path) -> None:
    """Two hundred bars are no picture; what is left out is told, so that the sum is right."""
    scenario.sync()
    for number in range(200):
        service = f"IS{number:032}"
        scenario.execute(
            "INSERT INTO services (chat_service_sid, account, friendly_name, state, first_seen_at, last_seen_at, active) "
            "VALUES (:service, 'main', :name, 'active', '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000', 1)",
            service=service,
            name=f"Shop {number // 2}",
        )
        scenario.execute(
            "INSERT INTO bindings SELECT :sid, account, account_sid, :service, credential_sid, binding_type, identity, :sid, "
            "message_types, date_created, date_updated, url, extra, content_hash, source_hash, first_seen_at, changed_at, "
            "deleted_at, run_id FROM bindings ORDER BY sid LIMIT 1",
            sid=f"BS{number:032}",
            service=service,
        )
    text = " ".join(Page(report(scenario, tmp_path)).text.split())
    number_of_services = len(scenario.world.services) + 200
    assert f"services {number_of_services} " in text
    assert re.search(
        r"Shop 0 \(000000\) [0 ]*1[0 ]* 1 Shop 0 \(000001\) [0 ]*1[0 ]* 1 Shop 1 ", text
    )
    assert f"{number_of_services - 20} others" in text
    assert f"{200 - 20} more: see bindings-etl status" in text
    (line,) = scenario.query("SELECT count(*) AS n FROM active_bindings")
    assert f" of {line['n']:,} active bindings" in text


@pytest.mark.parametrize("missing", ["altair", "vl_convert", "jinja2"])
def test_missing_packages_are_named(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Who installed the program without its extra has to learn what to install, before anything is asked or written."""
    for module in [name for name in sys.modules if name.startswith("etl.report")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    scenario.settings["warehouse"]["url"] = "sqlite:////no/such/folder/x.db"
    result = scenario.run("report", "--out", str(tmp_path / "report.html"), expect=2)
    assert "pip install 'bindings-etl[report]'" in result.err
    assert not (tmp_path / "report.html").exists()


def test_an_empty_warehouse_has_a_page_too(scenario: Scenario, tmp_path: Path) -> None:
    """Somebody who looks before the first run must not meet an error."""
    page = Page(report(scenario, tmp_path))
    assert page.open == []
    assert "No service was read yet" in page.text


def test_the_page_of_before_stays_when_the_new_one_cannot_be_written(
    scenario: Scenario, tmp_path: Path
) -> None:
    """A half-written page would replace a good one before the eyes of its readers."""
    result = scenario.run("report", "--out", str(tmp_path / "nowhere" / "report.html"), expect=2)
    assert "cannot be written" in result.err
    report(scenario, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if "report" in path.name] == ["report.html"]


@pytest.mark.parametrize("arguments", [(), ("--out",)])
def test_a_place_is_needed(scenario: Scenario, arguments: tuple[str, ...]) -> None:
    """A page that lands on a terminal helps nobody."""
    assert scenario.run("report", *arguments, expect=2).out == ""


def test_a_page_that_cannot_be_written_is_told_in_a_sentence(
    scenario: Scenario, tmp_path: Path
) -> None:
    """Clearing up after a failed page fails for the same reason, and must not hide it."""
    for out in (tmp_path / ("x" * 300), tmp_path / "no" / "such" / "folder.html"):
        assert "cannot be written" in scenario.run("report", "--out", str(out), expect=2).err
