"""The report as one HTML file that loads nothing from anywhere and runs no script."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from etl.report import findings
from etl.report.figures import Figures, Service
from etl.report.findings import number, plural
from etl.report.sections import MOST, make_labels, make_sections, moment

_SOON = timedelta(days=7)
_MOODS = {"succeeded": "good"} | dict.fromkeys(
    ("running", "partial", "interrupted", "locked"), "fair"
)


def render_page(figures: Figures) -> str:
    """Return the whole page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("etl.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"moment": moment, "number": number}
    style = files("etl.report").joinpath("style.css").read_text(encoding="utf-8")
    return environment.get_template(
        "page.html.j2"
    ).render(
        style=Markup(style),  # noqa: S704 - a file of this program
        now=figures.now,
        tiles=_tiles(figures),
        trust=findings.trust(figures),
        withheld=_withheld(figures),
        services=_service_lines(figures),
        others=_others(_ordered(figures)[MOST:]),
        sections=make_sections(figures),
        runs=[_run_line(run) for run in figures.runs],
    )


def _tiles(figures: Figures) -> dict[str, str]:
    services = figures.services
    complete = [service.last_complete_at for service in services]
    oldest = min((at for at in complete if at), default=None)
    return {
        "active bindings": number(figures.active),
        "services": number(len(services)),
        "identities": number(sum(figures.reach.values())),
        "open rejects": number(sum(figures.rejects.values())),
        "deletes held": number(sum(service.deletes_held for service in services)),
        "oldest complete reading": _ago(None if None in complete else oldest, figures.now),
    }


def _withheld(figures: Figures) -> list[str]:
    """Return what the counts do not show as it is, and why."""
    told = []
    labels = make_labels(figures.services)
    for one in figures.services:
        label = labels[one.chat_service_sid]
        if one.deletes_held:
            told.append(
                f"{label}: {plural(one.deletes_held, 'binding')} still count that the last "
                "reading did not meet: the guard kept so many. If they are really gone, run sync "
                "once with --allow-mass-delete."
            )
        if one.rejected_open:
            rows = plural(one.rejected_open, "row")
            told.append(f"{label}: {rows} could not be loaded and stand in no count.")
        if one.failure:
            told.append(f"{label}: {one.failure}")
        if one.last_complete_at is None:
            told.append(f"{label}: never read completely, so nothing of it was ever deleted.")
    more = len(told) - MOST
    return told[:MOST] + ([f"{number(more)} more: see bindings-etl status."] if more > 0 else [])


def _ordered(figures: Figures) -> list[Service]:
    """Return those that need a look first, and the biggest first among them."""
    return sorted(figures.services, key=lambda one: not findings.needs_look(one, figures.now))


def _service_lines(figures: Figures) -> list[dict[str, Any]]:
    return [
        {
            "service": one,
            "mood": _mood(one.last_complete_at, figures.now),
            "ago": _ago(one.last_complete_at, figures.now),
        }
        for one in _ordered(figures)[:MOST]
    ]


def _others(services: Sequence[Service]) -> dict[str, Any] | None:
    if not services:
        return None
    names = ("active", "deleted", "rejected_open", "deletes_held")
    sums = {name: sum(getattr(one, name) for one in services) for name in names}
    return {"label": f"{number(len(services))} others", **sums}


def _run_line(run: Mapping[str, Any]) -> dict[str, Any]:
    took = run["finished_at"] - run["started_at"] if run["finished_at"] else None
    mood = _MOODS.get(run["status"], "bad")
    return {**run, "took": _duration(took) if took else "", "mood": mood}


def _mood(at: datetime | None, now: datetime) -> str:
    if at is None or now - at > _SOON:
        return "bad"
    return "good" if now - at <= findings.FRESH else "fair"


def _ago(at: datetime | None, now: datetime) -> str:
    return "never" if at is None else f"{_duration(now - at)} ago"


def _duration(span: timedelta) -> str:
    seconds = max(0.0, span.total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
