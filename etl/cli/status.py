"""`status`: freshness per service, last runs, rejected rows, who holds a lease."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import click

from etl.cli import render
from etl.cli.options import Command, Common, json_option, parse_age, run_group_option
from etl.cli.output import say, say_json
from etl.config import Settings
from etl.errors import ConfigurationError
from etl.stopping import Stop
from etl.sync.group import add_up
from etl.sync.staleness import stale_services
from etl.warehouse import ledger, migration
from etl.warehouse.connection import open_warehouse
from etl.warehouse.overview import Overview, read_overview

_EXIT_CODE_OF_AGE = 8

Lines = list[dict[str, Any]]


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
@run_group_option("The runs of one group added up; exit as one run would.")
@click.pass_obj
def status(common: Common, as_json: bool, max_age: timedelta | None, run_group: str | None) -> int:
    """Tell how fresh and how complete the warehouse is, or what came of a group of runs."""
    settings = common.settings()
    overview, lines = _read(settings, run_group)
    document, code, text = asdict(overview), 0, ""
    if run_group is not None:
        document, code = add_up(run_group, *lines)
        text = _describe_group(document, code)
    if max_age is not None:
        document["max_age_seconds"] = int(max_age.total_seconds())
        document["stale"] = stale_services(
            overview.services, overview.runs, _listed(settings), overview.read_at, max_age
        )
    code = code or (_EXIT_CODE_OF_AGE if document.get("stale") else 0)
    if as_json:
        say_json(render.to_json(document), code)
    else:
        say("\n\n".join([text or _describe(overview), *_describe_age(document)]), code)
    return code


def _read(settings: Settings, run_group: str | None) -> tuple[Overview, tuple[Lines, Lines]]:
    """The overview, and the lines of the group's runs and scans.

    Raises:
        ConfigurationError: there is no such group.
    """
    warehouse = open_warehouse(settings.warehouse, settings.retry, Stop())
    try:
        warehouse.read(migration.require_head)
        overview = warehouse.read(lambda conn: read_overview(conn, warehouse.engine))
        if run_group is None:
            return overview, ([], [])
        runs, scans = warehouse.read(lambda conn: ledger.read_group(conn, run_group))
    finally:
        warehouse.close()
    if not runs:
        raise ConfigurationError(
            f"--run-group {run_group}: the ledger has no run of this name; check it, or whether any run began"
        )
    return overview, (runs, scans)


def _listed(settings: Settings) -> Mapping[str, str]:
    """The services that the configuration names, and their accounts; those that `all` stands for are not known here."""
    return {
        sid: account.name
        for account in settings.accounts
        if account.services != "all"
        for sid in account.services
    }


def _describe(overview: Overview) -> str:
    parts = [
        _part("services", overview.services, "no service was read yet"),
        _part("last runs", overview.runs, "there was no run yet"),
        _part("open rejects", overview.rejects, "none"),
        _part("leases", overview.leases, "nobody is working"),
    ]
    return "\n\n".join(parts)


def _describe_group(document: dict[str, Any], code: int) -> str:
    shown = ("chat_service_sid", "scope", "status", *render.SHOWN)
    services = [{name: entry[name] for name in shown} for entry in document["services"]]
    totals = {name: document["totals"][name] for name in render.SHOWN}
    services.append(
        {"chat_service_sid": "total", "scope": "", "status": document["status"], **totals}
    )
    parts = [
        f"group {document['run_group']}: {document['status']} (exit code {code})",
        _part("runs", document["runs"], "none"),
        _part("services", services, "none"),
    ]
    if errors := [
        f"  {entry['chat_service_sid']}: {entry['error']['message']}"
        for entry in document["services"]
        if entry["error"]
    ]:
        parts.append("\n".join(["not done:", *errors]))
    return "\n\n".join(parts)


def _describe_age(document: dict[str, Any]) -> list[str]:
    if "stale" not in document:
        return []
    return [_part("older than asked for", document["stale"], "none")]


def _part(title: str, lines: list[dict[str, Any]], nothing: str) -> str:
    if not lines:
        return f"{title}: {nothing}"
    return f"{title}:\n" + render.table(list(lines[0]), [list(line.values()) for line in lines])


commands: dict[str, click.Command] = {"status": status}
