"""`status`: freshness per service, last runs, rejected rows, who holds a lease."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import click

from etl.cli import render
from etl.cli.options import Command, Common, json_option, parse_age
from etl.cli.output import say, say_json
from etl.config import Settings
from etl.stopping import Stop
from etl.sync.staleness import stale_services
from etl.warehouse import migration
from etl.warehouse.connection import open_warehouse
from etl.warehouse.overview import Overview, read_overview

_EXIT_CODE_OF_AGE = 8


@click.command(
    "status",
    cls=Command,
    short_help="Freshness per service, last runs, rejected rows, who holds a lease.",
)
@json_option()
@click.option(
    "--max-age",
    metavar="AGE",
    callback=lambda _c, _p, value: None if value is None else parse_age(value),
    help="Exit with 8 when a service's last complete reading is older, e.g. 30m, or there is none.",
)
@click.pass_obj
def status(common: Common, as_json: bool, max_age: timedelta | None) -> int:
    """Tell how fresh and how complete the warehouse is."""
    settings = common.settings()
    overview = _read(settings)
    document = asdict(overview)
    if max_age is not None:
        document["max_age_seconds"] = int(max_age.total_seconds())
        document["stale"] = stale_services(
            overview.services, overview.runs, _listed(settings), overview.read_at, max_age
        )
    code = _EXIT_CODE_OF_AGE if document.get("stale") else 0
    if as_json:
        say_json(render.to_json(document), code)
    else:
        say(_describe(overview, document.get("stale")), code)
    return code


def _read(settings: Settings) -> Overview:
    warehouse = open_warehouse(settings.warehouse, settings.retry, Stop())
    try:
        warehouse.read(migration.require_head)
        return warehouse.read(lambda conn: read_overview(conn, warehouse.engine))
    finally:
        warehouse.close()


def _listed(settings: Settings) -> Mapping[str, str]:
    """The services that the configuration names, and their accounts; those that `all` stands for are not known here."""
    return {
        sid: account.name
        for account in settings.accounts
        if account.services != "all"
        for sid in account.services
    }


def _describe(overview: Overview, stale: list[dict[str, Any]] | None) -> str:
    parts = [
        _part("services", overview.services, "no service was read yet"),
        _part("last runs", overview.runs, "there was no run yet"),
        _part("open rejects", overview.rejects, "none"),
        _part("leases", overview.leases, "nobody is working"),
    ]
    if stale is not None:
        parts.append(_part("older than asked for", stale, "none"))
    return "\n\n".join(parts)


def _part(title: str, lines: list[dict[str, Any]], nothing: str) -> str:
    if not lines:
        return f"{title}: {nothing}"
    return f"{title}:\n" + render.table(list(lines[0]), [list(line.values()) for line in lines])


commands: dict[str, click.Command] = {"status": status}
