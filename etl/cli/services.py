"""`services` and `retire`: what there is to read, and what is to be read no more."""

import click
from msgspec.structs import asdict

from etl.cli import render
from etl.cli.options import Command, Common, json_option, service_option
from etl.cli.output import say, say_json, show
from etl.cli.screen import Table
from etl.cli.signals import leave, listening_to_signals
from etl.stopping import Stop
from etl.sync.retire import retire
from etl.sync.worklist import read_work_list

_COLUMNS = ("account", "chat_service_sid", "rows", "last_complete_at (UTC)")


@click.command("services", cls=Command, short_help="Every service to be read, biggest first.")
@click.option(
    "--account", "accounts", multiple=True, metavar="NAME", help="Only this account (repeat)."
)
@click.option("--json", "as_json", is_flag=True, help="A JSON list on standard output.")
@click.pass_obj
def list_services(common: Common, accounts: tuple[str, ...], as_json: bool) -> int:
    """List every configured or discovered service with its rows and its last complete reading.

    For schedulers that fan out, a `sync --service IS…` each: biggest first.
    """
    work = read_work_list(common.settings(), accounts, Stop())
    items = [asdict(item) for item in work.items]
    if as_json:
        say_json(render.to_json(items), work.exit_code)
    elif items:
        rows = [list(item.values()) for item in items]
        show([Table(_COLUMNS, rows, optional=("account",))], work.exit_code)
    else:
        say("no service is configured or was found", work.exit_code)
    return work.exit_code


@click.command("retire", cls=Command, short_help="Take out services that are gone.")
@service_option("The service to take out (repeat).", required=True)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@json_option()
@click.pass_obj
def retire_services(common: Common, services: tuple[str, ...], dry_run: bool, as_json: bool) -> int:
    """Take out services that are gone at Twilio (404 by their SID) or configured nowhere.

    Their rows are deleted by `deletes.mode`, without the guard; they leave freshness.
    """
    settings = common.settings()
    stop = Stop(settings.run.deadline_seconds, dry_run=dry_run)
    with listening_to_signals(stop):
        outcome = retire(settings, services, stop, dry_run=dry_run)
        if as_json:
            say_json(render.to_json(outcome.as_json()), outcome.exit_code)
        else:
            show(render.run_summary(outcome), outcome.exit_code)
    if stop.requested:
        leave(outcome.exit_code)
    return outcome.exit_code


commands: dict[str, click.Command] = {"services": list_services, "retire": retire_services}
