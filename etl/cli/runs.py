"""`sync` and `backfill`."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import click
import structlog

from etl.cli import render
from etl.cli.aftermath import Aftermath, metrics_option
from etl.cli.options import (
    Command,
    Common,
    json_option,
    parse_identity,
    parse_moment,
    run_group_option,
    service_option,
)
from etl.cli.output import say_json, show, tell_failure
from etl.cli.progress import showing_progress
from etl.cli.signals import leave, listening_to_signals
from etl.config import Settings, read_portable
from etl.domain.scope import KNOWN_TYPES
from etl.domain.shard import Shard
from etl.errors import ConfigurationError, OutputLost
from etl.stopping import Stop
from etl.sync.context import LOCAL, Request
from etl.sync.outcome import RunOutcome
from etl.sync.run import execute
from etl.sync.run_state import RunState
from etl.sync.workers import Threads, Workers
from etl.warehouse.engines import locate

log = structlog.get_logger()

# What the ledger's column for the scope has room for, besides a filter by identity and by time.
_LONGEST_TYPES = 120


_shard_option = click.option(
    "--shard",
    metavar="I/N",
    callback=lambda _c, _p, value: _shard(value),
    help="Only part I (0…N-1) of N; all parts together keep to each account's concurrency.",
)


_on_option = click.option(
    "--on",
    default=LOCAL,
    show_default=True,
    metavar="local|dask://HOST:PORT",
    callback=lambda _c, _p, value: _place(value),
    help="Scan services here, or at a Dask cluster.",
)


@click.command("sync", cls=Command, short_help="One scheduled run over every configured service.")
@service_option()
@click.option(
    "--account", "accounts", multiple=True, metavar="NAME", help="Only this account (repeat)."
)
@click.option(
    "--dry-run", is_flag=True, help="Read and compare, print what would change, write nothing."
)
@json_option()
@click.option("--allow-mass-delete", is_flag=True, help="Lift the delete guard for this run.")
@click.option("--fresh", is_flag=True, help="Do not go on where an interrupted scan stopped.")
@_shard_option
@run_group_option("A name that this run shares with others, e.g. shards; see status --run-group.")
@metrics_option()
@_on_option
@click.pass_obj
def sync(common: Common, /, as_json: bool, metrics_file: Path | None, **options: Any) -> int:
    """Read every configured service and publish what changed."""
    request = Request(mode="sync", **options)
    return _run(common, request, Aftermath(common, request, metrics_file), as_json=as_json)


@click.command("backfill", cls=Command, short_help="One-off load of a chosen scope.")
@service_option()
@click.option(
    "--account", "accounts", multiple=True, metavar="NAME", help="Only this account (repeat)."
)
@click.option(
    "--type",
    "binding_types",
    multiple=True,
    metavar="TYPE",
    callback=lambda _c, _p, values: tuple(sorted({_binding_type(value) for value in values})),
    help="Only this binding type, e.g. apn (repeat).",
)
@click.option("--any-type", is_flag=True, help="Accept a --type that looks misspelt.")
@click.option(
    "--identity",
    "identities",
    multiple=True,
    metavar="X",
    callback=lambda _c, _p, values: tuple(dict.fromkeys(map(parse_identity, values))),
    help="Only this identity (repeat).",
)
@click.option(
    "--since",
    metavar="T",
    callback=lambda _c, _p, value: _moment(value),
    help="Only rows whose date_updated is T or later.",
)
@click.option(
    "--until",
    metavar="T",
    callback=lambda _c, _p, value: _moment(value),
    help="Only rows whose date_updated is before T.",
)
@click.option("--fresh", is_flag=True, help="Do not go on where an interrupted scan stopped.")
@click.option(
    "--dry-run", is_flag=True, help="Read and compare, print what would change, write nothing."
)
@json_option()
@_shard_option
@run_group_option("A name that this run shares with others, e.g. shards; see status --run-group.")
@metrics_option()
@_on_option
@click.pass_obj
def backfill(
    common: Common,
    /,
    as_json: bool,
    metrics_file: Path | None,
    any_type: bool,
    **options: Any,
) -> int:
    """Load a chosen scope once: resumable, and beside the scheduled sync without harm.

    A filtered backfill deletes only inside its filter; a dated one (--since, --until) deletes
    nothing.
    Times are ISO 8601, e.g. 2026-11-01 or 2026-11-01T09:30:00Z; without a zone they are UTC.
    """
    request = Request(mode="backfill", **options)
    _refuse_empty_scope(request)
    if not any_type:
        _refuse_slips(request.binding_types)
    return _run(common, request, Aftermath(common, request, metrics_file), as_json=as_json)


commands = {"sync": sync, "backfill": backfill}


def _run(common: Common, request: Request, aftermath: Aftermath, *, as_json: bool) -> int:
    try:
        return _run_to_end(common, request, aftermath, as_json=as_json)
    except Exception as error:
        aftermath.of_failure(error)
        raise


def _run_to_end(common: Common, request: Request, aftermath: Aftermath, *, as_json: bool) -> int:
    settings = aftermath.settings = common.settings()
    if unknown := sorted(set(request.binding_types) - set(KNOWN_TYPES)):
        log.warning("filter.doubted", unknown_types=unknown, known_types=KNOWN_TYPES)
    stop = aftermath.stop = Stop(settings.run.deadline_seconds, dry_run=request.dry_run)
    state, trace = RunState(), aftermath.begin()

    def leave_late() -> NoReturn:
        outcome = state.outcome(request, stop)
        code = _tell(outcome, common, as_json=as_json)
        aftermath.of_run(outcome, code)
        leave(code)

    with listening_to_signals(stop, leave_late):
        with showing_progress(state), _workers(common, settings, request, stop) as workers:
            outcome = execute(settings, request, stop, state, trace, workers)
        code = _tell(outcome, common, as_json=as_json)
    aftermath.of_run(outcome, code)
    if stop.requested:
        leave(code)
    return code


@contextmanager
def _workers(common: Common, settings: Settings, request: Request, stop: Stop) -> Iterator[Workers]:
    if request.on == LOCAL:
        yield Threads()
        return
    engine, url = locate(settings.warehouse.url.get_secret_value())
    if engine.file_of(url) is not None:
        raise ConfigurationError(
            f"--on {request.on}: the workers of a cluster cannot share the file of "
            "warehouse.url; it needs PostgreSQL or MariaDB"
        )
    try:
        from etl.sync.cluster import connected
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"--on {request.on}: the extra dask is not installed: pip install 'bindings-etl[dask]'"
        ) from None
    with connected(request.on, read_portable(common.config_path), stop) as workers:
        yield workers


def _tell(outcome: RunOutcome, common: Common, *, as_json: bool) -> int:
    """Print the result, and return the exit code; a lost result is no fault of the run."""
    try:
        if as_json:
            say_json(render.to_json(outcome.as_json()), outcome.exit_code)
        else:
            show(render.run_summary(outcome), outcome.exit_code)
    except OutputLost as lost:
        return tell_failure(lost, common)
    return outcome.exit_code


def _shard(value: str | None) -> Shard | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", value)
    if match is None or not int(match[1]) < int(match[2]):
        raise click.BadParameter(f"{value!r} is not I/N with 0 ≤ I < N, e.g. 0/8")
    return Shard(int(match[1]), int(match[2]))


def _place(value: str) -> str:
    if value != LOCAL and not re.fullmatch(r"dask://[^/\s@]+:\d{1,5}", value):
        raise click.BadParameter(
            f"{value!r} is neither local nor dask://HOST:PORT, e.g. dask://scheduler:8786"
        )
    return value


def _binding_type(value: str) -> str:
    """Return the type in lower case; unknown ones are taken, since they may exist tomorrow."""
    kind = value.strip().lower()
    if not re.fullmatch(r"[^\s,]+", kind) or not kind.isprintable():
        raise click.BadParameter(
            f"{value!r} is not a binding type such as apn; repeat the option for several"
        )
    return kind


def _refuse_empty_scope(request: Request) -> None:
    if request.since and request.until and request.since >= request.until:
        raise click.UsageError("--since is not before --until: no row could be read")
    if len(",".join(request.binding_types)) > _LONGEST_TYPES:
        raise click.BadParameter(
            f"more than {_LONGEST_TYPES} characters of types; load them by several backfills",
            param_hint="--type",
        )


def _refuse_slips(kinds: tuple[str, ...]) -> None:
    """Refuse a type that looks like a misspelt known one: its load would find nothing."""
    for kind in set(kinds) - set(KNOWN_TYPES):
        for near in difflib.get_close_matches(kind, KNOWN_TYPES, 1):
            raise click.BadParameter(
                f"{kind!r} is no binding type known today; did you mean {near}? "
                "If not, add --any-type",
                param_hint="--type",
            )


def _moment(value: str | None) -> datetime | None:
    return None if value is None else parse_moment(value)
