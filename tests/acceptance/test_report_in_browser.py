"""`report` in a real browser: drawn, readable, quiet, on every kind of screen and on paper."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.acceptance.scenario import Scenario

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDE, PHONE = (1280, 900), (390, 844)
CHARTS = 10

Open = Callable[..., Page]


pytestmark = pytest.mark.slow  # a browser takes a second for each page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if os.environ.get("TESTS_REQUIRE_ENGINES"):
            pytest.fail("chromium is required here (Debian: apt install chromium)")
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=[*QUIET])
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open a file; whatever the page asks for or complains of fails the test."""
    told: list[str] = []
    contexts = []

    def open_one(file: Path, size: tuple[int, int] = WIDE, scheme: Any = "light") -> Page:
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: told.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: told.append(f"error: {error}"))
        page.on("request", lambda request: told.append(f"request: {request.url}"))
        page.goto(file.as_uri())
        assert told.pop(0) == f"request: {file.as_uri()}"
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert told == []


@pytest.fixture
def report(scenario: Scenario, tmp_path: Path) -> Path:
    """The page of a warehouse that shows something of everything."""
    scenario.sync()
    first, second = scenario.services[:2]
    first.touch(3)
    second.delete(2)
    first.change(first.sids()[0], date_updated="never")
    first.change(first.sids()[1], message_types=["new_message"], tags=["new"])
    for number, sid in enumerate(first.sids()[2:5]):
        first.change(sid, endpoint="handed on", identity=f"owner-{number}")
    scenario.sync()
    first.grow(3)
    scenario.sync()
    # Else all of it would be the first day, which is no gain.
    scenario.execute(
        "UPDATE bindings SET first_seen_at = '2026-01-01 00:00:00.000000' "
        "WHERE sid < (SELECT MAX(sid) FROM bindings)"
    )
    out = tmp_path / "report.html"
    scenario.run("report", "--out", str(out))
    return out


def shown(page: Page) -> list[dict[str, Any]]:
    """Each chart that can be seen: its size, its marks, and the texts that stick out of its card."""
    found: list[dict[str, Any]] = page.evaluate(
        """() => [...document.querySelectorAll('figure svg')].filter(svg => svg.checkVisibility()).map(svg => {
            const card = svg.closest('section').getBoundingClientRect();
            const boxes = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
            const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
            return {
                name: svg.closest('figure').getAttribute('aria-label'),
                width: svg.getBoundingClientRect().width,
                marks: [...svg.querySelectorAll('[class*=mark-rect] path, [class*=mark-area] path, [class*=mark-line] path')]
                    .filter(mark => mark.getBoundingClientRect().width > 0).length,
                outside: boxes.filter(([, box]) => box.left < card.left || box.right > card.right).map(([text]) => text),
                smallest: Math.min(...[...svg.querySelectorAll('text')].map(
                    text => scale * parseFloat(getComputedStyle(text).fontSize))),
            };
        })"""
    )
    return found


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_chart_is_drawn_and_readable(
    report: Path, open_page: Open, size: tuple[int, int]
) -> None:
    """A chart without marks, a label that is cut off or letters of seven pixels tell nobody anything."""
    page = open_page(report, size)
    charts = shown(page)
    assert len(charts) == page.locator("figure").count() == CHARTS
    for chart in charts:
        assert chart["marks"] > 0, chart
        assert chart["outside"] == [], chart
        assert chart["smallest"] >= 10, chart
        assert chart["width"] > 200, chart
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_two_hundred_services_of_long_names_fit(
    scenario: Scenario, open_page: Open, tmp_path: Path, size: tuple[int, int]
) -> None:
    """A name that is as long as Twilio allows pushes the page off the screen, or the bars out of the picture."""
    scenario.sync()
    scenario.execute(
        "INSERT INTO services (chat_service_sid, account, friendly_name, state, first_seen_at, last_seen_at) "
        "WITH RECURSIVE counted (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < 200) "
        "SELECT printf('IS%032d', n), 'main', printf('%d', n) || :name, 'active', :then, :then FROM counted",
        name="W" * 252,
        then="2026-01-01 00:00:00.000000",
    )
    scenario.execute("UPDATE services SET friendly_name = friendly_name || :name", name="M" * 200)
    scenario.execute(
        "UPDATE bindings SET chat_service_sid = printf('IS%032d', rowid % 200 + 1) WHERE rowid % 2"
    )
    out = tmp_path / "report.html"
    scenario.run("report", "--out", str(out))
    page = open_page(out, size)
    charts = shown(page)
    assert charts
    assert [chart for chart in charts if chart["outside"] or not chart["marks"]] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_reader(report: Path, open_page: Open, scheme: str) -> None:
    """Dark letters on a dark page, or white bars on a white one, are not there."""
    page = open_page(report, scheme=scheme)
    colours: list[list[float]] = page.evaluate(
        """() => ['section', 'h2', 'figure text', 'figure [aria-roledescription=bar]'].map(selector => {
            const style = getComputedStyle(document.querySelector(selector));
            const given = selector === 'section' ? style.backgroundColor : selector === 'h2' ? style.color : style.fill;
            return given.match(/[0-9.]+/g).slice(0, 3).map(Number);
        })"""
    )
    card, *others = (luminance(colour) for colour in colours)
    assert (card < 0.2) == (scheme == "dark")
    title, label, bar = ((max(card, other) + 0.05) / (min(card, other) + 0.05) for other in others)
    assert title > 7
    assert label > 4.5
    assert bar > 2


def luminance(colour: list[float]) -> float:
    """As WCAG 2 reckons it."""
    parts = (part / 255 for part in colour)
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_paper_shows_every_chart(report: Path, open_page: Open) -> None:
    """Who prints it for a meeting gets black on white, whatever the screen is set to."""
    page = open_page(report, scheme="dark")
    page.emulate_media(media="print")
    assert len(shown(page)) == page.locator("figure").count()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")


def test_the_numbers_are_behind_each_chart(report: Path, open_page: Open) -> None:
    """Who doubts a bar, or cannot see it, needs its number."""
    page = open_page(report, PHONE)
    for card in page.locator("section:has(figure)").all():
        card.locator("summary").click()
        assert card.locator("details td").first.is_visible()


def test_an_empty_warehouse_is_quiet(scenario: Scenario, open_page: Open, tmp_path: Path) -> None:
    """Nothing is divided by, and nothing is drawn of, no rows."""
    out = tmp_path / "report.html"
    scenario.run("report", "--out", str(out))
    page = open_page(out)
    assert page.locator("figure").count() == 0
    assert page.get_by_text("No service was read yet").is_visible()
