"""`rekey`: stored rows brought under the configured privacy rules."""

import click

from etl.cli import render
from etl.cli.options import Command, Common, json_option
from etl.cli.output import say_json, show, tell_failure
from etl.cli.screen import Part, Styled, Table
from etl.cli.signals import listening_to_signals
from etl.errors import Interrupted
from etl.stopping import Stop
from etl.sync.outcome import describe
from etl.sync.rekey import Rekeyed
from etl.sync.rekey import rekey as do_rekey
from etl.warehouse.opening import configured_warehouse


@click.command("rekey", cls=Command, short_help="Bring stored rows under the privacy rules.")
@click.option("--dry-run", is_flag=True, help="Only say how many rows would be rewritten.")
@json_option()
@click.pass_obj
def rekey(common: Common, dry_run: bool, as_json: bool) -> int:
    """Rewrite stored rows after privacy.identity, privacy.endpoint or privacy.key has changed.

    What was kept is hashed or dropped, what was hashed is dropped; anything else is named, and the
    next complete sync does it. Broken off, it goes on where it stopped; until it is done nothing
    else is written.
    """
    settings = common.settings()
    stop = Stop(dry_run=dry_run)
    try:
        with configured_warehouse(settings, stop) as warehouse, listening_to_signals(stop):
            outcome = do_rekey(settings, warehouse, stop, dry_run=dry_run)
    except Interrupted as error:
        if as_json:
            say_json(render.to_json({"error": describe(error)}))
        return stop.exit_code or tell_failure(error, common)
    if as_json:
        say_json(render.to_json(outcome.as_json()))
    else:
        show(_screen(outcome))
    return 0


def _screen(outcome: Rekeyed) -> list[Part]:
    if outcome.change.is_none:
        return ["the warehouse is written by the configured privacy rules: nothing to do"]
    done = "would be rewritten" if outcome.dry_run else "rewritten"
    rows = [(name, tally.rewritten, tally.left) for name, tally in outcome.tables.items()]
    parts: list[Part] = [
        f"{', '.join(outcome.change.in_words)}, {done}:",
        Table(("table", "rows", "cannot be"), rows),
    ]
    if outcome.notes:
        parts += ["", Styled("not done:", "bold"), *(f"  {note}" for note in outcome.notes)]
    return parts


commands: dict[str, click.Command] = {"rekey": rekey}
