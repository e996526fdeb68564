"""`export`: changed rows as files, for warehouses that load files."""

from datetime import datetime
from pathlib import Path

import click

from etl.cli import render
from etl.cli.options import Command, Common, json_option, parse_moment
from etl.cli.output import say, say_json, tell_failure
from etl.cli.signals import listening_to_signals
from etl.errors import Interrupted
from etl.export.formats import Format
from etl.export.writing import Order
from etl.export.writing import export as write_export
from etl.stopping import Stop
from etl.sync.outcome import describe
from etl.warehouse.exporting import Since
from etl.warehouse.opening import configured_warehouse

# Of more digits no engine's run id is, and a statement would break on it.
_LONGEST_RUN_ID = 18


@click.command("export", cls=Command, short_help="Changed rows as files, for other warehouses.")
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder to make; it must not exist yet, or be empty.",
)
@click.option(
    "--since",
    metavar="RUN_ID|TIME",
    help="`until` of the last manifest, a run, or an ISO 8601 time (UTC). Default: everything.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["parquet", "jsonl"]),
    default="parquet",
    show_default=True,
    help="jsonl is one JSON object a line.",
)
@json_option()
@click.pass_obj
def export(common: Common, out: Path, since: str | None, format_: Format, as_json: bool) -> int:
    """Write what changed, deleted rows included, and a manifest; whole or not at all."""
    order = Order(out, _parse_since(since), since, format_)
    settings = common.settings()
    stop = Stop(dry_run=True)
    try:
        with (
            # The folder is looked at first; `write_export` asks for the revision.
            configured_warehouse(settings, stop, migrated=False) as warehouse,
            listening_to_signals(stop),
        ):
            manifest = write_export(warehouse, order, stop)
    except Interrupted as error:
        if as_json:
            say_json(render.to_json({"error": describe(error)}))
        return stop.exit_code or tell_failure(error, common)
    if as_json:
        say_json(render.to_json(manifest))
    else:
        size = sum(file["bytes"] for file in manifest["files"])
        say(
            f"{out}: {manifest['rows']:,} rows, {size:,} bytes; "
            f"the next export: --since {manifest['until']}"
        )
    return 0


def _parse_since(value: str | None) -> Since:
    if value is None:
        return Since()
    if value.isascii() and value.isdigit() and len(value) <= _LONGEST_RUN_ID:
        return Since(run_id=int(value))
    return Since(moment=_parse_time(value))


def _parse_time(value: str) -> datetime:
    try:
        return parse_moment(value)
    except click.BadParameter:
        raise click.BadParameter(
            f"--since {value!r} is neither the id of a run, nor an ISO 8601 time "
            "such as 2026-11-01 or 2026-11-01T09:30:00Z"
        ) from None


commands: dict[str, click.Command] = {"export": export}
