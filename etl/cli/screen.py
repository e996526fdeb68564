"""Tables and sentences as a terminal has room for them; plain lines of cells anywhere else.

A pipe gets every column, whole SIDs and one line a row, whatever the figures are: `cut`, `awk` and
`grep` find things where they were. On a terminal rich draws, and columns that say nothing or do not
fit are left out.
"""

import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from io import StringIO
from typing import TYPE_CHECKING, NamedTuple, TextIO

import msgspec

if TYPE_CHECKING:
    from rich.console import RenderableType

_GAP = 2
_UPRIGHT_BELOW = 80
_FEW_COLUMNS = 3
_LEAST_PROSE = 20
_ROOMY_PROSE = 40
_LEAST_SID = 8
_NOTHING = (0, "", "-", None)
_SID = re.compile(r"[A-Z]{2}[0-9a-fA-F]{32}").fullmatch
_SERVICE_SID = re.compile(r"\bIS[0-9a-fA-F]{32}\b")


class Styled(NamedTuple):
    """A value that stands out where there are colours, e.g. `Styled("failed", "red")`."""

    value: object
    style: str


class Table(msgspec.Struct, frozen=True):
    """Rows under headers, and what may be done to make them fit."""

    headers: Sequence[str]
    rows: Sequence[Sequence[object]]
    prose: Collection[str] = ()
    """Columns of sentences, which are broken into lines."""
    optional: Sequence[str] = ()
    """Columns that may be left out, the first one first."""
    defaults: dict[str, object] = msgspec.field(default_factory=dict)
    """By column, a value that says nothing if every row has it; nor does 0 or an empty cell."""


Part = str | Styled | Table


def room(stream: TextIO) -> int | None:
    """Return how many columns the terminal behind a stream has; None when it is no terminal."""
    try:
        on_terminal = stream.isatty()
    except ValueError:  # closed
        on_terminal = False
    return shutil.get_terminal_size().columns if on_terminal else None


def draw(parts: Iterable[Part], width: int | None = None) -> str:
    """Return the text of all parts below each other; without `width` as plain lines."""
    if width is None:
        return "\n".join(_plain(part) for part in parts)
    from rich.console import Console

    canvas = StringIO()
    console = Console(file=canvas, width=width, force_terminal=True, highlight=False, markup=False)
    for part in parts:
        for line in _drawn(part, width):
            console.print(line)
    return "\n".join(line.rstrip() for line in canvas.getvalue().splitlines())


def plain_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return columns side by side, a line a row; numbers to the right."""
    body = [[cell_text(value) for value in row] for row in rows]
    widths = _widths(headers, body)
    numeric = [bool(body) and all(_is_number(row[at]) for row in body) for at in range(len(widths))]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([line(list(headers)), *(line(row) for row in body)])


def cell_text(value: object) -> str:
    """Return a value as people read it, on one line."""
    value = value.value if isinstance(value, Styled) else value
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return " ".join(str(value).split())


def shorten(sids: Collection[str]) -> dict[str, str]:
    """Return each SID cut to as many characters as tell it from all the others."""
    for length in range(_LEAST_SID, 34):
        if len({sid[:length] for sid in sids}) == len(sids):
            return {sid: f"{sid[:length]}…" for sid in sids}
    return {sid: sid for sid in sids}


def _plain(part: Part) -> str:
    if isinstance(part, Table):
        return plain_table(part.headers, part.rows)
    return str(part.value if isinstance(part, Styled) else part)


def _drawn(part: Part, width: int) -> list["RenderableType"]:
    from rich.text import Text

    if isinstance(part, Table):
        return _drawn_table(part, width)
    text, style = part if isinstance(part, Styled) else (part, "")
    return [_hanging(Text(line, style), line) for line in str(text).split("\n")]


def _hanging(text: "RenderableType", line: str) -> "RenderableType":
    """Return a line that keeps its indent when it is wrapped."""
    from rich.padding import Padding
    from rich.text import Text

    indent = len(line) - len(line.lstrip())
    if not indent or not isinstance(text, Text):
        return text
    return Padding(Text(line.strip(), text.style), (0, 0, 0, indent))


def _drawn_table(table: Table, width: int) -> list["RenderableType"]:
    telling = _without(table, _silent(table))
    fitting = _fit(telling, width)
    if (width < _UPRIGHT_BELOW and len(telling.headers) > _FEW_COLUMNS) or fitting is None:
        return _upright(telling)
    return [_side_by_side(fitting)]


def _fit(table: Table, width: int) -> Table | None:
    """Return the table that fits: SIDs shortened, then optional columns left out one by one."""
    short = _with_short_sids(table)
    dispensable = [name for name in table.optional if name in table.headers]
    narrower = (_without(short, dispensable[:number]) for number in range(len(dispensable) + 1))
    if _least_width(table, _ROOMY_PROSE) <= width:
        return table
    return next((one for one in narrower if _least_width(one, _LEAST_PROSE) <= width), None)


def _least_width(table: Table, prose: int) -> int:
    widths = _widths(table.headers, [[cell_text(value) for value in row] for row in table.rows])
    least = [
        min(width, prose) if name in table.prose else width
        for name, width in zip(table.headers, widths, strict=True)
    ]
    return sum(least) + _GAP * (len(least) - 1)


def _silent(table: Table) -> set[str]:
    """Return the columns that say nothing in any row."""
    return {
        name
        for at, name in enumerate(table.headers)
        if table.rows
        and all(_says_nothing(row[at], table.defaults.get(name, "")) for row in table.rows)
    }


def _says_nothing(value: object, default: object) -> bool:
    value = value.value if isinstance(value, Styled) else value
    return not isinstance(value, bool) and value in (*_NOTHING, default)


def _without(table: Table, names: Collection[str]) -> Table:
    kept = [at for at, name in enumerate(table.headers) if name not in names]
    return Table(
        [table.headers[at] for at in kept],
        [[row[at] for at in kept] for row in table.rows],
        table.prose,
        table.optional,
        table.defaults,
    )


def _with_short_sids(table: Table) -> Table:
    """Return the table with its SIDs cut; in sentences only those of services.

    Support asks for whole request ids.
    """
    texts = [cell_text(value) for row in table.rows for value in row]
    named = [sid for text in texts for sid in _SERVICE_SID.findall(text)]
    short = shorten({*filter(_SID, texts), *named})

    def cut(value: object) -> object:
        text = cell_text(value)
        shortened = short.get(text) or _SERVICE_SID.sub(lambda found: short[found[0]], text)
        if shortened == text:
            return value
        return Styled(shortened, value.style) if isinstance(value, Styled) else shortened

    rows = [[cut(value) for value in row] for row in table.rows]
    return Table(table.headers, rows, table.prose, table.optional, table.defaults)


def _side_by_side(table: Table) -> "RenderableType":
    from rich.table import Table as Grid

    grid = Grid(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for at, name in enumerate(table.headers):
        numeric = bool(table.rows) and all(_is_number(cell_text(row[at])) for row in table.rows)
        grid.add_column(
            name,
            justify="right" if numeric else "left",
            no_wrap=name not in table.prose,
            overflow="fold",
        )
    for row in table.rows:
        grid.add_row(*(_cell(value) for value in row))
    return grid


def _upright(table: Table) -> list["RenderableType"]:
    """Return each row as a block: its first cell, and below it a line per column."""
    from rich.padding import Padding
    from rich.table import Table as Grid
    from rich.text import Text

    blocks: list[RenderableType] = []
    names = [name.strip() for name in table.headers[1:]]
    for row in table.rows:
        grid = Grid(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=False)
        grid.add_column(no_wrap=True, min_width=max(map(len, names), default=0))
        grid.add_column(overflow="fold")
        for name, value in zip(names, row[1:], strict=True):
            if not _says_nothing(value, table.defaults.get(name, "")):
                grid.add_row(Text(name, "dim"), _cell(value))
        head = cell_text(row[0])
        head = f"{table.headers[0]} {head}" if _is_number(head) else head
        blocks += [Text(head, "bold"), Padding(grid, (0, 0, 0, 2))]
    return blocks


def _cell(value: object) -> "RenderableType":
    from rich.text import Text

    return Text(cell_text(value), value.style if isinstance(value, Styled) else "")


def _widths(headers: Sequence[str], body: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(len(header), *(len(row[at]) for row in body)) if body else len(header)
        for at, header in enumerate(headers)
    ]


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or not text
