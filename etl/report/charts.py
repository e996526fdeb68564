"""Charts as inline SVG. Colours are CSS classes of the page, so that light and dark follow the reader."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from itertools import count

_WIDTH = 640
_LABELS = 176
_VALUES = 72
_ROW = 30
_BAR = 18

_ids = count(1)


@dataclass(frozen=True)
class Bar:
    """One horizontal bar of stacked parts: (class of the colour, what it is, how many)."""

    label: str
    hint: str
    parts: Sequence[tuple[str, str, int]]

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(number for _, _, number in self.parts)


@dataclass(frozen=True)
class Column:
    """One day: parts that grow upwards and parts that grow downwards from the line."""

    day: date
    up: Sequence[tuple[str, str, int]]
    down: Sequence[tuple[str, str, int]]


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars, labelled left and with their totals right."""
    longest = max((row.total for row in rows), default=0) or 1
    room = _WIDTH - _LABELS - _VALUES
    drawn = "".join(_bar(row, place * _ROW, room / longest) for place, row in enumerate(rows))
    said = "; ".join(f"{row.hint}: {row.total:,}" for row in rows)
    return _svg(title, said, len(rows) * _ROW, drawn)


def columns(title: str, days: Sequence[Column]) -> str:
    """Columns above and below a line, one a day."""
    highest = max((_total(day.up) for day in days), default=0)
    lowest = max((_total(day.down) for day in days), default=0)
    height, left = 220, 44
    scale = height / ((highest + lowest) or 1)
    middle = 14 + (highest * scale if highest + lowest else height / 2)
    step = (_WIDTH - left) / max(1, len(days))
    drawn = [_grid(left, middle - highest * scale, f"+{highest:,}")] if highest else []
    drawn += [_grid(left, middle + lowest * scale, f"-{lowest:,}")] if lowest else []
    for place, day in enumerate(days):
        drawn.append(_column(day, left + place * step + step * 0.14, step * 0.72, middle, scale))
    drawn.append(
        f'<line class="axis" x1="{left}" x2="{_WIDTH}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
    )
    drawn.append(_dates(days, left, step, height + 36))
    added, removed = sum(_total(day.up) for day in days), sum(_total(day.down) for day in days)
    return _svg(
        title,
        f"{added:,} inserted, restored or updated and {removed:,} deleted in {len(days)} days",
        height + 44,
        "".join(drawn),
    )


def _bar(row: Bar, top: float, scale: float) -> str:
    middle = top + _ROW / 2
    drawn = [
        f"<g><title>{escape(row.hint)}: {row.total:,}</title>",
        f'<text class="label" x="{_LABELS - 12}" y="{middle + 4.5:.1f}" text-anchor="end">{escape(row.label)}</text></g>',
    ]
    x = float(_LABELS)
    for colour, what, number in row.parts:
        if number:
            width = number * scale
            drawn.append(
                _rect(
                    colour,
                    f"{row.hint}, {what}: {number:,}",
                    (x, middle - _BAR / 2),
                    (max(width - 1, 0.6), _BAR),
                )
            )
            x += width
    drawn.append(f'<text class="value" x="{x + 8:.1f}" y="{middle + 4.5:.1f}">{row.total:,}</text>')
    return "".join(drawn)


def _column(day: Column, x: float, width: float, middle: float, scale: float) -> str:
    drawn = []
    for parts, upwards in ((day.up, True), (day.down, False)):
        y = middle
        for colour, what, number in parts:
            height = number * scale
            if number:
                drawn.append(
                    _rect(
                        colour,
                        f"{day.day:%d %b %Y}: {number:,} {what}",
                        (x, y - height if upwards else y),
                        (width, max(height, 0.6)),
                    )
                )
            y += -height if upwards else height
    return "".join(drawn)


def _rect(colour: str, hint: str, place: tuple[float, float], size: tuple[float, float]) -> str:
    (x, y), (width, height) = place, size
    return (
        f'<rect class="{colour}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2">'
        f"<title>{escape(hint)}</title></rect>"
    )


def _grid(left: float, y: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{left}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _dates(days: Sequence[Column], left: float, step: float, y: float) -> str:
    # Every seventh, counted back from the last: a week between two labels leaves room for them.
    shown = [place for place in range(len(days)) if (len(days) - 1 - place) % 7 == 0]
    return "".join(
        f'<text class="tick" x="{left + (place + 0.5) * step:.1f}" y="{y}" text-anchor="middle">{days[place].day:%-d %b}</text>'
        for place in shown
    )


def _total(parts: Iterable[tuple[str, str, int]]) -> int:
    return sum(number for _, _, number in parts)


def _svg(title: str, said: str, height: float, drawn: str) -> str:
    name = f"chart{next(_ids)}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-text">{escape(said)}</desc>{drawn}</svg>'
    )
