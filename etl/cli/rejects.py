"""`rejects list`, `retry` and `discard`: the quarantine.

Payloads hold identities and are shown only when asked for.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from etl.cli import render
from etl.cli.options import Command, Common, Group, json_option, service_option
from etl.cli.output import say, say_json, show
from etl.cli.screen import Part, Styled, Table
from etl.cli.signals import leave, listening_to_signals
from etl.stopping import Stop
from etl.sync.outcome import RunOutcome, count, sentence
from etl.sync.reject_retry import Retried, retry
from etl.warehouse import quarantine
from etl.warehouse.connection import Warehouse
from etl.warehouse.opening import configured_warehouse
from etl.warehouse.quarantine import Line

T = TypeVar("T")

_LISTED = ("id", "chat_service_sid", "sid", "reason", "first_seen_at", "last_seen_at")


@click.group("rejects", cls=Group, short_help="The quarantine: list, retry, discard.")
def rejects() -> None:
    """Look after the rows that could not be loaded."""


@rejects.command("list", cls=Command)
@service_option()
@json_option()
@click.option(
    "--payload", is_flag=True, help="With --json: also the raw rows, which hold identities."
)
@click.pass_obj
def list_rejects(common: Common, services: tuple[str, ...], as_json: bool, payload: bool) -> None:
    """List the open rejects."""
    if payload and not as_json:
        raise click.UsageError(
            "--payload goes with --json: raw rows hold identities and are not for the terminal"
        )
    lines = _in_warehouse(
        common, lambda warehouse: warehouse.read(lambda conn: quarantine.read_open(conn, services))
    )
    if as_json:
        listed = [_as_json(line, payload=payload) for line in lines]
        say_json(render.to_json({"rejects": listed}))
    elif lines:
        show([_table(lines)])
    else:
        say("no open rejects")


@rejects.command("retry", cls=Command)
@service_option()
@json_option()
@click.pass_obj
def retry_rejects(common: Common, services: tuple[str, ...], as_json: bool) -> int:
    """Ask the API for each open reject by its SID, and publish what can be loaded today.

    What the API has no more is resolved. A row whose SID cannot be read waits for a program that
    can read it.
    """
    settings = common.settings()
    stop = Stop(settings.run.deadline_seconds)
    with listening_to_signals(stop):
        outcome, retried = retry(settings, services, stop)
        code = outcome.exit_code or (3 if any(one.unanswered for one in retried) else 0)
        if as_json:
            say_json(render.to_json(outcome.as_json()), code)
        else:
            show(_describe(outcome, retried), code)
    if stop.requested:
        leave(code)
    return code


@rejects.command("discard", cls=Command)
@service_option()
@json_option()
@click.pass_obj
def discard_rejects(common: Common, services: tuple[str, ...], as_json: bool) -> None:
    """Mark the open rejects as resolved. A run that meets such a row again opens it again."""

    def discard(warehouse: Warehouse) -> int:
        return warehouse.transact(
            lambda conn: quarantine.close_open(conn, services, warehouse.engine.now(conn))
        )

    number = _in_warehouse(common, discard)
    if as_json:
        say_json(render.to_json({"discarded": number}))
    else:
        say(f"{count(number, 'open reject')} discarded")


commands: dict[str, click.Command] = {"rejects": rejects}


def _in_warehouse(common: Common, work: Callable[[Warehouse], T]) -> T:
    with configured_warehouse(common.settings()) as warehouse:
        return work(warehouse)


def _as_json(line: Line, *, payload: bool) -> dict[str, Any]:
    shown = line._asdict()
    if not payload:
        del shown["payload"]
    return shown


def _table(lines: Sequence[Line]) -> Table:
    return Table(
        ("id", "chat_service_sid", "sid", "reason", "first seen (UTC)", "last seen (UTC)"),
        [[getattr(line, name) for name in _LISTED] for line in lines],
        prose=("reason",),
        optional=("first seen (UTC)", "last seen (UTC)"),
    )


def _describe(outcome: RunOutcome, retried: Sequence[Retried]) -> list[Part]:
    if not retried:
        return ["no open rejects"]
    rows = [
        (result.id, one.scope.chat_service_sid, result.sid, result.result, result.reason)
        for one in retried
        for result in one.results
    ]
    status = render.style_of(outcome.status)
    parts: list[Part] = [Styled(f"run {outcome.run_id}: {outcome.mode} {outcome.status}", status)]
    if rows:
        headers = ("id", "chat_service_sid", "sid", "result", "reason")
        parts.append(Table(headers, rows, prose=("reason",)))
    return [*parts, *(_summary(one) for one in retried)]


def _summary(one: Retried) -> str:
    if one.error:
        return f"{one.scope.chat_service_sid}: {one.status}: {sentence(one.error)}"
    results = [result.result for result in one.results]
    counted = (
        f"{results.count(name)} {name}" for name in ("loaded", "gone", "rejected", "unanswered")
    )
    return f"{one.scope.chat_service_sid}: {', '.join(counted)}"
