"""Charts by Vega-Lite, drawn as SVG beforehand: the page needs no script, and prints as it shows.

Colours are CSS variables of the page, so that light and dark follow the reader. Each chart is drawn
twice, for a wide and for a narrow screen, since a scaled one has letters that nobody reads.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from itertools import count
from typing import Any, NamedTuple

import altair as alt
import vl_convert
from markupsafe import Markup


class Size(NamedTuple):
    """For which screens a chart is drawn."""

    name: str
    width: int
    label_limit: int
    room: float
    """How far the scale goes beyond the longest bar, whose number has to stand there."""


SIZES = (Size("wide", 600, 180, 1.18), Size("narrow", 310, 110, 1.45))
Draw = Callable[[Size], Any]
_numbers = count(1)


def bars(rows: Mapping[str, Mapping[str, int]], colours: Mapping[str, str]) -> Markup:
    """Horizontal bars with their totals at the end, each stacked of parts that have colours."""
    order = list(colours)
    parts = [
        {"label": label, "part": part, "place": order.index(part), "number": number}
        for label, row in rows.items()
        for part, number in row.items()
    ]
    sums = {label: sum(row.values()) for label, row in rows.items()}
    totals = [{"label": label, "total": total} for label, total in sums.items()]
    longest = max(sums.values(), default=0) or 1
    side = alt.Y("label:N", sort=list(rows), title=None, axis=_labels())

    def draw(size: Size) -> Any:
        room = alt.Scale(domain=[0, longest * size.room])
        stacked = (
            alt.Chart(_data(parts))
            .mark_bar(height=18)
            .encode(
                x=alt.X("number:Q", stack="zero", axis=None, scale=room),
                y=side,
                color=_coloured("part", colours),
                order="place:Q",
            )
        )
        values = (
            alt.Chart(_data(totals))
            .mark_text(align="left", dx=7, color="var(--ink)", fontWeight=600)
            .encode(x=alt.X("total:Q", scale=room), y=side, text=alt.Text("total:Q", format=","))
        )
        return (stacked + values).properties(width=size.width, height=alt.Step(28))

    return _draw(draw)


def columns(days: Mapping[date, Mapping[str, int]], colours: Mapping[str, str]) -> Markup:
    """One column a day; what is negative grows downwards."""
    parts = [
        {"day": day.isoformat(), "part": part, "number": number}
        for day, row in days.items()
        for part, number in row.items()
    ]

    def draw(size: Size) -> Any:
        chart = (
            alt.Chart(_data(parts))
            .mark_bar()
            .encode(
                x=alt.X("day:O", title=None, axis=_dates(list(days), size.width)),
                y=alt.Y("number:Q", title=None, axis=_grid()),
                color=_coloured("part", colours),
            )
        )
        line = alt.Chart(_data([{"zero": 0}])).mark_rule(color="var(--soft)").encode(y="zero:Q")
        return (chart + line).properties(width=size.width, height=200)

    return _draw(draw)


def line(points: Mapping[date, int]) -> Markup:
    """One number over time, from zero."""
    values = [{"day": day.isoformat(), "number": number} for day, number in points.items()]

    def draw(size: Size) -> Any:
        base = alt.Chart(_data(values)).encode(
            x=alt.X("day:O", title=None, axis=_dates(list(points), size.width)),
            y=alt.Y("number:Q", title=None, axis=_grid()),
        )
        area = base.mark_area(color="var(--both)", opacity=0.18)
        return (area + base.mark_line(color="var(--both)", strokeWidth=2)).properties(
            width=size.width, height=200
        )

    return _draw(draw)


def _data(values: Sequence[dict[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=list(values))


def _coloured(field: str, colours: Mapping[str, str]) -> alt.Color:
    scale = alt.Scale(domain=list(colours), range=[f"var(--{one})" for one in colours.values()])
    return alt.Color(f"{field}:N", scale=scale, legend=None)


def _labels() -> alt.Axis:
    return alt.Axis(domain=False, ticks=False, labelPadding=10)


def _grid() -> alt.Axis:
    return alt.Axis(
        domain=False, ticks=False, tickCount=4, format="~s", gridColor="var(--line)", labelPadding=8
    )


def _dates(days: Sequence[date], width: int) -> alt.Axis:
    """So many that they have room, counted back from the last."""
    most = width // 75
    step = max(1, -(-len(days) // most))
    shown = [day.isoformat() for day in days[::-1][::step]]
    return alt.Axis(
        values=shown,
        labelExpr="utcFormat(toDate(datum.value), '%-d %b')",
        labelAngle=0,
        domain=False,
        ticks=False,
        labelPadding=8,
    )


def _draw(draw: Draw) -> Markup:
    drawn = (
        f'<div class="{size.name}">{_svg(draw(size), size.label_limit)}</div>' for size in SIZES
    )
    return Markup("".join(drawn))  # noqa: S704 - the library has escaped what comes from data


def _svg(chart: Any, label_limit: int) -> str:
    # The reader's letters may be wider than those that were measured here.
    room = {"left": 14, "right": 8, "top": 2, "bottom": 2}
    styled = (
        chart.properties(
            background="transparent",
            padding=room,
            autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        )
        .configure(font="sans-serif")
        .configure_view(stroke=None)
        .configure_axis(labelColor="var(--soft)", labelFontSize=13, labelLimit=label_limit)
        .configure_text(fontSize=13)
    )
    # HTML needs no namespaces, and names within a page must be its own.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", vl_convert.vegalite_to_svg(styled.to_dict()))
    own = f"c{next(_numbers)}-"
    return re.sub(r'(id="|url\(#)', rf"\g<1>{own}", svg)
