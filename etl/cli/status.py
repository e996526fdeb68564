"""`status`: freshness per service, last runs, rejected rows, who holds a lease."""

from dataclasses import asdict
from typing import Any

import click

from etl.cli import render
from etl.cli.options import Command, Common, json_option
from etl.cli.output import say
from etl.stopping import Stop
from etl.warehouse import migration
from etl.warehouse.connection import open_warehouse
from etl.warehouse.overview import Overview, read_overview


@click.command(
    "status",
    cls=Command,
    short_help="Freshness per service, last runs, rejected rows, who holds a lease.",
)
@json_option()
@click.pass_obj
def status(common: Common, as_json: bool) -> None:
    """Tell how fresh and how complete the warehouse is."""
    settings = common.settings()
    warehouse = open_warehouse(settings.warehouse, settings.retry, Stop())
    try:
        warehouse.read(migration.require_head)
        overview = warehouse.read(lambda conn: read_overview(conn, warehouse.engine))
    finally:
        warehouse.close()
    say(render.to_json(asdict(overview)) if as_json else _describe(overview))


def _describe(overview: Overview) -> str:
    parts = [
        _part("services", overview.services, "no service was read yet"),
        _part("last runs", overview.runs, "there was no run yet"),
        _part("open rejects", overview.rejects, "none"),
        _part("leases", overview.leases, "nobody is working"),
    ]
    return "\n\n".join(parts)


def _part(title: str, lines: list[dict[str, Any]], nothing: str) -> str:
    if not lines:
        return f"{title}: {nothing}"
    return f"{title}:\n" + render.table(list(lines[0]), [list(line.values()) for line in lines])


commands: dict[str, click.Command] = {"status": status}
