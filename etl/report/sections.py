"""The cards of the page: of each its topic, what it comes down to, a chart and the numbers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec
from markupsafe import Markup

from etl.domain.drift import to_label
from etl.report import charts, findings
from etl.report.figures import DAYS, Counts, Day, Figures, Service
from etl.report.findings import number

MOST = 20
_LONGEST_NAME = 40

_TYPES = {"apn": "apn", "fcm": "fcm", "gcm": "gcm", "twilsock": "twilsock", "other": "other types"}
_REACH = {
    "Apple and Google": "both",
    "Apple only": "apn",
    "Google only": "fcm",
    "no push": "other",
}
_GAINED = ("inserted", "restored")
_CHANGES = (*_GAINED, "deleted")

_ON_CHANGES = "Without the day on which a service was first loaded. Days are UTC."
_ON_GROWTH = "At the end of each day, counted back from today."
_ON_AGES = (
    "Google ends a token that was not renewed for 270 days; push to it costs time and reaches "
    "nobody."
)
_ON_IDENTITIES = "Apple: apn. Google: fcm or gcm. An identity counts once per service."
_ON_MESSAGE_TYPES = (
    "An app registers the same types everywhere; what deviates was registered by something else."
)
_ON_CREDENTIALS = "A credential that no binding hangs on is free to go."
_ON_SHARED = (
    "A phone that was handed on, or an app that does not unregister at logout: its owner gets what "
    "is meant for others. Each is named by the smallest SID among its bindings; the view "
    "shared_endpoints has all."
)

_NO_CHART = Markup()

Line = Sequence[str]


class Table(msgspec.Struct, frozen=True):
    """Cells as text; those from `numbers_from` on are numbers."""

    headers: Line
    lines: Sequence[Line]
    numbers_from: int = 1


class Section(msgspec.Struct, frozen=True):
    """One card."""

    topic: str
    finding: str
    chart: Markup = _NO_CHART
    legend: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Colour → what has it."""
    note: str = ""
    table: Table = Table((), ())


def make_sections(figures: Figures) -> list[Section]:
    """Return all cards, in the order of the page."""
    labels = make_labels(figures.services)
    return [
        _by_service(figures, labels),
        _changes(figures.days),
        _growth(figures.days),
        _ages(figures),
        _counted(
            "Identities by what reaches them",
            findings.reach(figures.reach),
            figures.reach,
            _REACH,
            _ON_IDENTITIES,
        ),
        _counted("Devices per identity", findings.devices(figures.devices), figures.devices),
        _message_types(figures, labels),
        _credentials(figures.credentials),
        _shared(figures),
        _counted("Rejected rows by reason", findings.rejects(figures.rejects), figures.rejects),
        _drift(figures, labels),
    ]


def make_labels(services: Sequence[Service]) -> dict[str, str]:
    """Return what each service is called, by SID: its name where no other has it."""
    names = [_shorten(one.friendly_name or "") for one in services]
    bearers = Counter(names)
    labels: dict[str, str] = {}
    for one, name in zip(services, names, strict=True):
        sid = one.chat_service_sid
        label = _short(sid)
        if name:
            label = name if bearers[name] == 1 else f"{name} ({sid[-6:]})"
        labels[sid] = sid if label in labels.values() else label
    return labels


def moment(at: datetime) -> str:
    """Return a time as the page writes it."""
    return f"{at:%Y-%m-%d %H:%M}"


def _by_service(figures: Figures, labels: Mapping[str, str]) -> Section:
    by_type = {labels[one.chat_service_sid]: one.by_type for one in figures.services if one.by_type}
    finding = findings.by_service(figures, next(iter(labels.values()), ""))
    return _by_type("Active bindings by service and type", finding, _biggest(by_type))


def _changes(days: Sequence[Day]) -> Section:
    recent = days[-DAYS:]
    shown = (*_CHANGES, "updated")
    lines = [
        (f"{day.day}", *(number(day.changes.get(name, 0)) for name in shown))
        for day in reversed(recent)
    ]
    colours = dict(zip(_CHANGES, _CHANGES, strict=True))
    chart = _NO_CHART
    if any(findings.gained_and_lost(recent)):
        chart = charts.columns({day.day: _up_and_down(day) for day in recent}, colours)
    return Section(
        f"Gained and lost per day, last {DAYS} days",
        findings.changes(days),
        chart,
        colours,
        _ON_CHANGES,
        Table(("day", *shown), lines),
    )


def _up_and_down(day: Day) -> Counts:
    return {name: day.changes.get(name, 0) * (1 if name in _GAINED else -1) for name in _CHANGES}


def _growth(days: Sequence[Day]) -> Section:
    chart = _NO_CHART
    if len(days) > 1 and any(day.active for day in days):
        chart = charts.line({day.day: day.active for day in days})
    lines = [(f"{day.day}", number(day.active)) for day in reversed(days)]
    table = Table(("day", "active"), lines)
    finding = findings.growth(days)
    return Section("Active bindings over time", finding, chart, note=_ON_GROWTH, table=table)


def _ages(figures: Figures) -> Section:
    ages = figures.ages if figures.active else {}
    finding = findings.ages(figures.ages)
    return _by_type("Time since the last update", finding, ages, _ON_AGES)


def _credentials(counted: Mapping[str, Counts]) -> Section:
    named = {_short(sid) if sid else "none": kinds for sid, kinds in counted.items()}
    finding = findings.credentials(counted)
    return _by_type("Bindings per credential", finding, _biggest(named), _ON_CREDENTIALS)


def _by_type(topic: str, finding: str, rows: Mapping[str, Counts], note: str = "") -> Section:
    """Return a card with bars of bindings, stacked by type."""
    grouped = {place: _known_types(kinds) for place, kinds in rows.items()}
    used = {kind for kinds in grouped.values() for kind in kinds}
    colours = {kind: kind for kind in _TYPES if kind in used}
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    lines = [
        (place, *(number(row.get(kind, 0)) for kind in kinds), number(sum(row.values())))
        for place, row in rows.items()
    ]
    return Section(
        topic,
        finding,
        charts.bars(grouped, colours) if used else _NO_CHART,
        {kind: _TYPES[kind] for kind in colours},
        note,
        Table(("", *kinds, "all"), lines),
    )


def _counted(
    topic: str,
    finding: str,
    counted: Counts,
    colours: Mapping[str, str] | None = None,
    note: str = "",
) -> Section:
    """Return a card with bars of one number each."""
    shown = dict(list(counted.items())[:MOST])
    rows = {place: {place: value} for place, value in shown.items()}
    colours = colours or dict.fromkeys(shown, "both")
    chart = charts.bars(rows, colours) if any(shown.values()) else _NO_CHART
    table = Table(("", "number"), [(place, number(value)) for place, value in counted.items()])
    return Section(topic, finding, chart, note=note, table=table)


def _message_types(figures: Figures, labels: Mapping[str, str]) -> Section:
    usual = _counted("Bindings by message type", findings.coverage(figures), figures.coverage)
    if not figures.unusual:
        return usual
    lines = [
        (_service(labels, one.chat_service_sid), _types(one.message_types), number(one.number))
        for one in figures.unusual[:MOST]
    ]
    totals = [("all services", place, value) for place, value in usual.table.lines]
    table = Table(("service", "message types", "bindings"), [*totals, *lines], 2)
    return Section(usual.topic, usual.finding, usual.chart, note=_ON_MESSAGE_TYPES, table=table)


def _shared(figures: Figures) -> Section:
    worst = figures.shared.worst
    topic, finding = "Endpoints that several identities have", findings.shared(figures)
    if not worst:
        return Section(topic, finding)
    rows = {_short(one.group_sid): {"identities": one.identities} for one in worst}
    lines = [
        (one.group_sid, number(one.identities), number(one.bindings), number(one.services))
        for one in worst
    ]
    table = Table(("smallest SID", "identities", "bindings", "services"), lines)
    chart = charts.bars(rows, {"identities": "deleted"})
    return Section(topic, finding, chart, note=_ON_SHARED, table=table)


def _drift(figures: Figures, labels: Mapping[str, str]) -> Section:
    lines = [
        (
            _service(labels, one["chat_service_sid"]),
            one["kind"],
            to_label(one["name"]),
            moment(one["first_seen_at"]),
            number(one["rows"]),
        )
        for one in figures.drift[: 5 * MOST]
    ]
    table = Table(("service", "kind", "name", "first seen (UTC)", "rows"), lines, 4)
    return Section("Drifted from what is known", findings.drift(figures.drift), table=table)


def _biggest(rows: Mapping[str, Counts]) -> dict[str, Counts]:
    """Return the biggest, and the others together."""
    ordered = sorted(rows.items(), key=lambda row: -sum(row[1].values()))
    rest = ordered[MOST:]
    together: Counts = {}
    for _, kinds in rest:
        for kind, value in kinds.items():
            together[kind] = together.get(kind, 0) + value
    return dict(ordered[:MOST]) | ({f"{number(len(rest))} others": together} if rest else {})


def _known_types(kinds: Counts) -> Counts:
    grouped: Counts = {}
    for kind, value in kinds.items():
        known = kind if kind in _TYPES else "other"
        grouped[known] = grouped.get(known, 0) + value
    return grouped


def _types(names: Iterable[str] | None) -> str:
    return "null" if names is None else ", ".join(names) or "none"


def _service(labels: Mapping[str, str], sid: str) -> str:
    return labels.get(sid) or _short(sid)


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _short(sid: str) -> str:
    return f"{sid[:8]}…{sid[-4:]}"
