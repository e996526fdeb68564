"""`report`: one page with charts, for people."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from etl.cli.options import Command, Common
from etl.cli.output import say
from etl.errors import ConfigurationError
from etl.report.figures import Figures, read_figures
from etl.warehouse.opening import configured_warehouse


@click.command("report", cls=Command, short_help="One self-contained page with charts for people.")
@click.option(
    "--out",
    required=True,
    metavar="FILE.html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write it.",
)
@click.pass_obj
def report(common: Common, out: Path) -> None:
    """Write one HTML page with charts: it loads nothing, runs no script, and names no person."""
    write_report(common, out)
    say(f"{out} written")


def write_report(common: Common, out: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        ConfigurationError: its packages are not installed, or it cannot be written there.
    """
    render_page = _load_renderer()
    with configured_warehouse(common.settings()) as warehouse:
        figures = warehouse.read(lambda conn: read_figures(conn, warehouse.engine.now(conn)))
    _write(out, render_page(figures))


def _load_renderer() -> Callable[[Figures], str]:
    try:
        from etl.report.page import render_page
    except ImportError:
        raise ConfigurationError(
            "the report needs other packages: pip install 'bindings-etl[report]'"
        ) from None
    return render_page


def _write(out: Path, page: str) -> None:
    """Replace the file whole or not at all: somebody may be reading yesterday's page."""
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(out)
    except OSError as cause:
        with suppress(OSError):
            unfinished.unlink()
        raise ConfigurationError(f"--out {out} cannot be written: {cause.strerror}") from cause


commands: dict[str, click.Command] = {"report": report}
