"""The report as one HTML file that loads nothing from anywhere and runs no script."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from importlib.resources import files

from etl.domain.drift import to_label
from etl.report.charts import Bar, Column, bars, columns
from etl.report.figures import DAYS, Counts, Figures, Service

_TYPES = {"apn": "apn", "fcm": "fcm", "gcm": "gcm", "twilsock": "twilsock", "other": "other types"}
_CHANGES = ("inserted", "restored", "updated", "deleted")
_MOST_BARS = 12
_MOST_LINES = 100


def render_page(figures: Figures) -> str:
    """The whole page."""
    sections = (
        _tiles(figures),
        '<div class="grid">',
        _card(
            "Bindings by service and type",
            _legend(_used_types(figures)),
            _services_chart(figures.services),
        ),
        _card(
            f"Changes per day, last {DAYS} days",
            _legend({name: name for name in _CHANGES}),
            _changes_chart(figures),
            _NOTE_ON_CHANGES,
        ),
        _card(
            "Time since the last update",
            _legend(_used_types(figures)),
            _ages_chart(figures),
            _NOTE_ON_AGES,
        ),
        _card(
            "Identities by what reaches them",
            "",
            _reachability_chart(figures.reachability),
            _NOTE_ON_IDENTITIES,
        ),
        "</div>",
        _card("Services", "", _services_table(figures), _note_on_held(figures)),
        _card("Rejected rows, by reason", "", _rejects_table(figures.rejects)),
        _card("Drifted from what is known", "", _drift_table(figures)),
        _card("Last runs", "", _runs_table(figures)),
    )
    return _DOCUMENT.format(
        style=files("etl.report").joinpath("style.css").read_text(encoding="utf-8"),
        now=_moment(figures.now),
        body="\n".join(sections),
    )


_NOTE_ON_CHANGES = "Without the day on which a service was first loaded. Dates are UTC."
_NOTE_ON_AGES = (
    "A device that was not heard of for long may be gone; push to it costs time and reaches nobody."
)
_NOTE_ON_SERVICES = (
    "Deletes held: bindings that the last reading did not meet and that the guard kept, since they "
    "were too many; if they are really gone, run sync once with --allow-mass-delete."
)
_NOTE_ON_IDENTITIES = "Apple: apn. Google: fcm or gcm. An identity counts once per service."


def _tiles(figures: Figures) -> str:
    services = figures.services
    complete = [service.last_complete_at for service in services]
    oldest = (
        None if None in complete else min((moment for moment in complete if moment), default=None)
    )
    tiles = (
        ("active bindings", _number(sum(service.active for service in services))),
        ("services", _number(len(services))),
        ("identities", _number(sum(figures.reachability.values()))),
        ("open rejects", _number(sum(figures.rejects.values()))),
        ("deletes held", _number(sum(service.deletes_held for service in services))),
        ("oldest complete reading", _ago(oldest, figures.now)),
    )
    drawn = (f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in tiles)
    return f'<dl class="tiles">{"".join(drawn)}</dl>'


def _card(title: str, legend: str, body: str, note: str = "") -> str:
    small = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><header><h2>{escape(title)}</h2>{legend}</header>{body}{small}</section>"


def _legend(entries: Mapping[str, str]) -> str:
    drawn = (
        f'<li><i class="{colour}"></i>{escape(label)}</li>' for colour, label in entries.items()
    )
    return f'<ul class="legend">{"".join(drawn)}</ul>'


def _used_types(figures: Figures) -> dict[str, str]:
    used = {_colour(kind) for service in figures.services for kind in service.by_type}
    return {colour: label for colour, label in _TYPES.items() if colour in used}


def _colour(kind: str) -> str:
    return kind if kind in _TYPES else "other"


def _stack(by_type: Counts) -> list[tuple[str, str, int]]:
    order = list(_TYPES)
    parts = (
        (_colour(kind), "without type" if kind == "none" else kind, number)
        for kind, number in by_type.items()
    )
    return sorted(parts, key=lambda part: (order.index(part[0]), part[1]))


def _services_chart(services: Sequence[Service]) -> str:
    if not services:
        return _nothing("No service was read yet.")
    shown = [
        Bar(
            _short(service.chat_service_sid),
            f"{service.account}, {service.chat_service_sid}",
            _stack(service.by_type),
        )
        for service in services[:_MOST_BARS]
    ]
    rest = services[_MOST_BARS:]
    if rest:
        together: Counts = {}
        for service in rest:
            for kind, number in service.by_type.items():
                together[kind] = together.get(kind, 0) + number
        shown.append(
            Bar(f"{len(rest):,} others", f"{len(rest):,} other services", _stack(together))
        )
    return bars("Active bindings by service and type", shown)


def _changes_chart(figures: Figures) -> str:
    if not any(day.changes for day in figures.days):
        return _nothing("Nothing changed in these days.")
    days = [
        Column(
            day.day,
            *(
                [(name, name, day.changes.get(name, 0)) for name in names]
                for names in (_CHANGES[:-1], _CHANGES[-1:])
            ),
        )
        for day in figures.days
    ]
    return columns("Changes of bindings per day", days)


def _ages_chart(figures: Figures) -> str:
    rows = [Bar(label, label, _stack(by_type)) for label, by_type in figures.ages.items()]
    return bars("Active bindings by time since their last update", rows)


def _reachability_chart(reachability: Counts) -> str:
    if not any(reachability.values()):
        return _nothing("No identity is stored.")
    colours = {
        "Apple and Google": "both",
        "Apple only": "apn",
        "Google only": "fcm",
        "no push": "other",
    }
    rows = [
        Bar(label, label, [(colours[label], "identities", number)])
        for label, number in reachability.items()
    ]
    return bars("Identities by the kinds of push that reach them", rows)


def _services_table(figures: Figures) -> str:
    if not figures.services:
        return _nothing("No service was read yet.")
    lines = [
        (
            escape(service.account),
            f"<code>{escape(service.chat_service_sid)}</code>{_name(service)}",
            _freshness(service.last_complete_at, figures.now) + _concern(service),
            _number(service.active),
            _number(service.deleted),
            _number(service.rejected_open),
            _number(service.deletes_held),
        )
        for service in figures.services[:_MOST_LINES]
    ]
    more = len(figures.services) - len(lines)
    table = _table(
        (
            "account",
            "service",
            "read completely",
            "active",
            "deleted",
            "open rejects",
            "deletes held",
        ),
        lines,
        numbers_from=3,
    )
    return table + (f'<p class="note">and {more:,} smaller ones</p>' if more else "")


def _note_on_held(figures: Figures) -> str:
    return _NOTE_ON_SERVICES if any(one.deletes_held for one in figures.services) else ""


def _rejects_table(rejects: Counts) -> str:
    if not rejects:
        return _nothing("Every row could be loaded.")
    return _table(
        ("reason", "rows"),
        [(escape(reason), _number(number)) for reason, number in rejects.items()],
        numbers_from=1,
    )


def _drift_table(figures: Figures) -> str:
    if not figures.drift:
        return _nothing("No field, type or form of time that is not known.")
    lines = [
        (
            f"<code>{escape(one['chat_service_sid'])}</code>",
            escape(one["kind"]),
            f"<code>{escape(to_label(one['name']))}</code>",
            _moment(one["first_seen_at"]),
            _number(one["rows"]),
        )
        for one in figures.drift[:_MOST_LINES]
    ]
    return _table(("service", "kind", "name", "first seen (UTC)", "rows"), lines, numbers_from=4)


def _runs_table(figures: Figures) -> str:
    if not figures.runs:
        return _nothing("There was no run yet.")
    counters = ("fetched", "inserted", "updated", "deleted", "restored", "rejected")
    lines = [
        (
            str(run["id"]),
            escape(run["mode"]),
            _status(run["status"], run["error"]),
            _moment(run["started_at"]),
            _duration(run["finished_at"] - run["started_at"]) if run["finished_at"] else "",
            *(_number(run[name]) for name in counters),
        )
        for run in figures.runs
    ]
    return _table(
        ("run", "mode", "status", "started (UTC)", "took", *counters), lines, numbers_from=4
    )


def _status(status: str, error: str | None) -> str:
    why = f"<p>{escape(error)}</p>" if error else ""
    return f'<span class="pill {_mood(status)}">{escape(status)}</span>{why}'


def _table(headers: Sequence[str], lines: Iterable[Sequence[str]], *, numbers_from: int) -> str:
    """Cells are HTML already; from a column on they are numbers."""

    def row(cells: Sequence[str], tag: str) -> str:
        drawn = (
            f"<{tag}{' class=n' if place >= numbers_from else ''}>{cell}</{tag}>"
            for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(drawn)}</tr>"

    body = "".join(row(cells, "td") for cells in lines)
    return f'<div class="scroll"><table><thead>{row(headers, "th")}</thead><tbody>{body}</tbody></table></div>'


def _nothing(text: str) -> str:
    return f'<p class="nothing">{escape(text)}</p>'


def _freshness(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return '<span class="pill bad">never</span>'
    mood = (
        "good"
        if now - moment < timedelta(days=1)
        else "fair"
        if now - moment < timedelta(days=7)
        else "bad"
    )
    return f'<span class="pill {mood}">{_ago(moment, now)}</span> <small>{_moment(moment)}</small>'


def _name(service: Service) -> str:
    return f"<p>{escape(service.friendly_name)}</p>" if service.friendly_name else ""


def _concern(service: Service) -> str:
    """What a fresh time would hide."""
    held = f"{_number(service.deletes_held)} deletes held" if service.deletes_held else ""
    state = "" if service.state == "active" else service.state
    return "".join(
        f' <span class="pill bad">{escape(text)}</span>' for text in (state, held) if text
    )


def _mood(status: str) -> str:
    return {
        "succeeded": "good",
        "running": "fair",
        "partial": "fair",
        "interrupted": "fair",
        "locked": "fair",
    }.get(status, "bad")


def _ago(moment: datetime | None, now: datetime) -> str:
    return "never" if moment is None else f"{_duration(now - moment)} ago"


def _duration(span: timedelta) -> str:
    seconds = max(0.0, span.total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _short(sid: str) -> str:
    return f"{sid[:8]}…{sid[-6:]}"


def _number(number: int) -> str:
    return f"{number:,}"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


_DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Push bindings, {now} UTC</title>
<style>{style}</style>
</head>
<body><main>
<h1>Push bindings</h1>
<p>State of the warehouse at {now} UTC</p>
{body}
</main></body>
</html>
"""
