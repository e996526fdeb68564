"""`migrate`, `purge` and `erase`: the commands that change the warehouse besides a run."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from msgspec.structs import asdict

from etl.cli import render
from etl.cli.options import (
    Command,
    Common,
    json_option,
    parse_age,
    parse_identity,
    parse_moment,
)
from etl.cli.output import say, say_json, tell
from etl.cli.screen import plain_table
from etl.config import Settings
from etl.warehouse import migration
from etl.warehouse.connection import Warehouse
from etl.warehouse.opening import configured_warehouse

F = TypeVar("F", bound=Callable[..., Any])


@click.command("migrate", cls=Command, short_help="Bring the warehouse to the newest revision.")
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL instead, for review.")
@click.option(
    "--check",
    "only_check",
    is_flag=True,
    help="Only say whether the warehouse is at the newest revision.",
)
@json_option()
@click.pass_obj
def migrate(common: Common, as_sql: bool, only_check: bool, as_json: bool) -> int:
    """Create or update the warehouse's tables and views."""
    from etl.warehouse.tables import HEAD

    if as_sql and as_json:
        raise click.UsageError("--sql prints SQL, --json an object: choose one")
    settings = common.settings()
    with configured_warehouse(settings, migrated=False) as warehouse:
        if as_sql:
            say(
                migration.print_sql(
                    migration.dialect_spoken(warehouse), settings.warehouse.database_schema
                )
            )
        elif only_check:
            warehouse.read(migration.require_head)
            _tell_revision(warehouse, HEAD, HEAD, as_json=as_json)
        else:
            before, after = migration.upgrade(warehouse, settings.warehouse.database_schema)
            _tell_revision(warehouse, before, after, as_json=as_json)
    return 0


def _tell_revision(warehouse: Warehouse, before: str | None, after: str, *, as_json: bool) -> None:
    if as_json:
        say_json(render.to_json({"warehouse": warehouse.name, "from": before, "revision": after}))
    elif before == after:
        say(f"{warehouse.name}: at the newest revision, {after}")
    else:
        say(f"{warehouse.name}: brought from {before or 'nothing'} to {after}")


def _cutoff_option(name: str, what: str) -> Callable[[F], F]:
    return click.option(
        name,
        metavar="AGE|TIME",
        callback=lambda _c, _p, value: None if value is None else _parse_cutoff(value),
        help=f"{what} An age such as 30d, 12h or 4w, or an ISO 8601 time (UTC).",
    )


@click.command("purge", cls=Command, short_help="Remove what is old for good.")
@_cutoff_option("--deleted-before", "Soft-deleted rows with their history, resolved rejects.")
@_cutoff_option("--versions-before", "Past images, also of bindings that exist.")
@_cutoff_option("--runs-before", "Lines of the ledger that no freshness rests on.")
@click.option("--dry-run", is_flag=True, help="Only say how many rows would be removed.")
@json_option()
@click.pass_obj
def purge(
    common: Common,
    deleted_before: datetime | None,
    versions_before: datetime | None,
    runs_before: datetime | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove what is older than asked for, for good, in portions; name at least one kind.

    It may be broken off and begun again, and runs may go on beside it.
    """
    from etl.sync import removal
    from etl.warehouse.purging import Cutoffs

    cutoffs = Cutoffs(deleted_before, versions_before, runs_before)
    asked_for = {name: moment for name, moment in asdict(cutoffs).items() if moment}
    if not asked_for:
        raise click.UsageError("give --deleted-before, --versions-before or --runs-before")
    counted = _in_warehouse(
        common, lambda _settings, warehouse: removal.purge(warehouse, cutoffs, dry_run=dry_run)
    )
    if as_json:
        say_json(render.to_json({"dry_run": dry_run, "removed": counted}))
        return
    done = "would be removed" if dry_run else "removed"
    moments = ", ".join(
        f"{name} before {at:%Y-%m-%d %H:%M:%S} UTC" for name, at in asked_for.items()
    )
    say(f"{moments}, {done}:\n{_describe(counted)}")


@click.command("erase", cls=Command, short_help="Remove every trace of one identity.")
@click.option(
    "--identity",
    required=True,
    metavar="X",
    callback=lambda _c, _p, value: parse_identity(value),
    help="Exactly as at Twilio.",
)
@click.option("--dry-run", is_flag=True, help="Only say how many rows would be removed.")
@json_option()
@click.pass_obj
def erase(common: Common, identity: str, dry_run: bool, as_json: bool) -> None:
    """Remove every trace of one identity, also from history, quarantine and unfinished scans.

    The API gives the identity again at the next sync, unless it is deleted at Twilio too.
    """
    from etl.sync import removal

    counted = _in_warehouse(
        common,
        lambda settings, warehouse: removal.erase(settings, warehouse, identity, dry_run=dry_run),
    )
    if as_json:
        say_json(render.to_json({"dry_run": dry_run, "removed": counted}))
        return
    if not any(counted.values()):
        say(
            "the warehouse has no trace of the identity; "
            "check that it is spelled exactly as at Twilio"
        )
        return
    done = "would be removed" if dry_run else "removed"
    say(f"every trace of the identity, {done}:\n{_describe(counted)}")
    tell("the next sync loads it again, unless the user and its bindings are deleted at Twilio too")


commands: dict[str, click.Command] = {"migrate": migrate, "purge": purge, "erase": erase}


def _in_warehouse(
    common: Common, work: Callable[[Settings, Warehouse], dict[str, int]]
) -> dict[str, int]:
    settings = common.settings()
    with configured_warehouse(settings) as warehouse:
        return work(settings, warehouse)


def _parse_cutoff(value: str) -> datetime:
    """Return the moment before which is removed; minutes are refused: 6m here means months."""
    if not re.fullmatch(r"\d+[hdw]", value):
        return _parse_time(value)
    try:
        return datetime.now(UTC) - parse_age(value, "hdw")
    except OverflowError:
        raise click.BadParameter(f"{value!r} is too long an age") from None


def _parse_time(value: str) -> datetime:
    try:
        return parse_moment(value)
    except click.BadParameter:
        raise click.BadParameter(
            f"{value!r} is neither an age such as 30d, 12h or 4w, "
            "nor an ISO 8601 time such as 2026-11-01 or 2026-11-01T09:30:00Z"
        ) from None


def _describe(counted: Mapping[str, int]) -> str:
    return plain_table(("table", "rows"), list(counted.items()))
