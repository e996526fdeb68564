"""`status`: freshness per service, last runs, rejected rows, who holds a lease."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from etl.cli import render
from etl.cli.options import Command, Common, json_option, parse_age, run_group_option
from etl.cli.output import say_json, show
from etl.cli.screen import Part, Styled, Table
from etl.config import Settings
from etl.domain.drift import to_label
from etl.errors import ConfigurationError
from etl.sync.group import add_up
from etl.sync.health import OLD, Health, is_in_trouble, judge
from etl.sync.outcome import count
from etl.sync.staleness import stale_services
from etl.warehouse import ledger
from etl.warehouse.opening import configured_warehouse
from etl.warehouse.overview import LAST_RUNS, Overview, read_overview

_EXIT_CODE_OF_AGE = 8
_SERVICES_LISTED_IN_FULL = 30
_LONGEST_ERROR = 100
_RECENT = timedelta(hours=1)

_STYLES = {
    Health.NEVER_READ: "bold red",
    Health.FAILING: "bold red",
    Health.OLD: "red",
    Health.DELETES_HELD: "yellow",
    Health.REJECTS: "yellow",
    Health.FINE: "green",
    Health.UNCONFIGURED: "dim",
}

Line = Mapping[str, Any]
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
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most N services, the worst ones, and N runs, the last ones "
    f"(default: {LAST_RUNS} runs).",
)
@click.option(
    "--all",
    "show_all",
    is_flag=True,
    help=f"List every service, also where there are more than {_SERVICES_LISTED_IN_FULL}.",
)
@click.pass_obj
def status(
    common: Common,
    as_json: bool,
    max_age: timedelta | None,
    run_group: str | None,
    limit: int | None,
    show_all: bool,
) -> int:
    """Tell how fresh and how complete the warehouse is, or what came of a group of runs."""
    settings = common.settings()
    overview, lines = _read(settings, run_group, max(limit or 0, LAST_RUNS))
    judged = judge(overview.services, overview.failures, overview.read_at, max_age or OLD)
    runs = overview.runs[: limit or LAST_RUNS]
    document = _document(overview, judged[:limit], runs)
    code = 0
    parts = describe(overview, runs, describe_services(judged, limit, show_all=show_all))
    if run_group is not None:
        document, code = add_up(run_group, *lines)
        parts = _describe_group(document, code, overview.read_at)
    if max_age is not None:
        stale = stale_services(
            overview.services, overview.runs, _listed(settings), overview.read_at, max_age
        )
        document |= {"max_age_seconds": int(max_age.total_seconds()), "stale": stale}
        parts += ["", *_part("older than asked for", _stale_table(stale), "none")]
        code = code or (_EXIT_CODE_OF_AGE if stale else 0)
    if as_json:
        say_json(render.to_json(document), code)
    else:
        show(parts, code)
    return code


def _read(
    settings: Settings, run_group: str | None, limit: int
) -> tuple[Overview, tuple[Lines, Lines]]:
    """Return the overview, and the ledger's lines of the group's runs and scans.

    Raises:
        ConfigurationError: there is no such group.
    """
    lease_seconds = settings.run.lease_seconds
    with configured_warehouse(settings) as warehouse:
        overview = warehouse.read(
            lambda conn: read_overview(conn, warehouse.engine, lease_seconds, limit)
        )
        if run_group is None:
            return overview, ([], [])
        runs, scans = warehouse.read(lambda conn: ledger.read_group(conn, run_group))
        killed = warehouse.read(
            lambda conn: ledger.find_killed(conn, overview.read_at, lease_seconds)
        )
    if not runs:
        raise ConfigurationError(
            f"--run-group {run_group}: the ledger has no run of this name; "
            "check it, or whether any run began"
        )
    scans = ledger.with_killed(scans, killed, "run_id")
    return overview, (ledger.with_killed(runs, killed), scans)


def _listed(settings: Settings) -> Mapping[str, str]:
    """Return the accounts of services that the configuration names; `all` names none."""
    return {
        sid: account.name
        for account in settings.accounts
        if account.services != "all"
        for sid in account.services
    }


def _document(overview: Overview, judged: Lines, runs: Lines) -> dict[str, Any]:
    return {
        "services": judged,
        "runs": runs,
        "rejects": overview.rejects,
        "leases": overview.leases,
        "drift": overview.drift,
        "read_at": overview.read_at,
    }


def describe(overview: Overview, runs: Lines, services: list[Part]) -> list[Part]:
    """Return the whole screen; `services` is its part about them."""
    now = overview.read_at
    rejects = [
        (one["chat_service_sid"], one["reason"], one["rows"], *_moment(one["last_seen_at"], now))
        for one in overview.rejects
    ]
    leases = [
        (one["chat_service_sid"], one["scope"], one["run_id"], one["host"], one["until"])
        for one in overview.leases
    ]
    return [
        Styled(f"status at {now:%Y-%m-%d %H:%M:%S} UTC", "bold"),
        "",
        *services,
        "",
        *_part("last runs", _runs_table(runs, now), "none yet"),
        "",
        *_part(
            "open rejects",
            Table(
                ("service", "reason", "rows", "last seen (UTC)", "age"),
                rejects,
                prose=("reason",),
                optional=("last seen (UTC)",),
            ),
            "none",
        ),
        "",
        *_part(
            "leases",
            Table(("service", "scope", "run", "host", "until (UTC)"), leases, optional=("host",)),
            "none held",
        ),
        "",
        *_describe_drift(overview.drift, now),
    ]


def _describe_drift(drift: Lines, now: datetime) -> list[Part]:
    lines = [
        (
            one["chat_service_sid"],
            one["kind"],
            to_label(one["name"]),
            one["rows"],
            *_moment(one["first_seen_at"], now),
        )
        for one in drift
    ]
    columns = ("service", "kind", "name", "rows", "first seen (UTC)", "age")
    table = Table(columns, lines, optional=("first seen (UTC)",))
    return _part("sent by the API, unknown to this version", table, "nothing")


def describe_services(judged: Lines, limit: int | None, *, show_all: bool) -> list[Part]:
    """Return the services, worst first; of many only counts and those in trouble."""
    troubled = [line for line in judged if is_in_trouble(line)]
    title = "services"
    shown, parts = judged, list[Part]()
    if len(judged) > _SERVICES_LISTED_IN_FULL and not show_all:
        shown, title = troubled, "in trouble"
        counted = Counter(line["health"] for line in judged)
        counts = [(Styled(one, _STYLES[one]), counted[one]) for one in Health if counted[one]]
        parts = [*_part(f"{len(judged):,} services", Table(("state", "services"), counts), ""), ""]
    left_out = len(shown[limit:]) if limit else 0
    nothing = "none" if judged else "none read yet"
    parts += _part(title, _services_table(shown[:limit]), nothing)
    if left_out:
        parts.append(f"… and {left_out:,} more; --all lists every service")
    elif len(shown) < len(judged):
        parts.append(f"--all lists all {len(judged):,} services")
    return parts


def _services_table(lines: Sequence[Line]) -> Table:
    accounts = {line["account"] for line in lines}
    rows = [
        (
            line["chat_service_sid"],
            line["account"],
            line["friendly_name"],
            Styled(line["health"], _STYLES[line["health"]]),
            _age(line["age_seconds"]),
            line["last_complete_at"],
            line["active"],
            line["deleted"],
            line["deletes_held"],
            line["rejected_open"],
            _short(line["last_error"]),
        )
        for line in lines
    ]
    headers = (
        "service", "account", "name", "state", "last complete", "at (UTC)", "active", "deleted",
        "held", "rejected", "last error",
    )  # fmt: skip
    return Table(
        headers,
        rows,
        prose=("last error",),
        optional=("at (UTC)", "name", "account", "deleted", "rejected"),
        defaults={"account": accounts.pop()} if len(accounts) == 1 else {},
    )


def _runs_table(runs: Sequence[Line], now: datetime) -> Table:
    rows = [
        (
            run["id"],
            run["mode"],
            _run_status(run),
            *_moment(run["started_at"], now),
            _took(run),
            *(run[name] for name in _CHANGES),
            _short(run["error"]),
        )
        for run in runs
    ]
    headers = ("run", "mode", "status", "began (UTC)", "age", "took", *_CHANGES, "error")
    return Table(
        headers,
        rows,
        prose=("error",),
        optional=("began (UTC)", "took", "fetched", "mode", "restored", "rejected"),
    )


_CHANGES = ("fetched", "inserted", "updated", "deleted", "restored", "rejected")


def _run_status(run: Line) -> Styled:
    told = "killed" if ledger.was_killed(run) else str(run["status"])
    return Styled(told, render.style_of(told))


def _took(run: Line) -> str | None:
    if run["finished_at"] is None or ledger.was_killed(run):
        return None
    return f"{(run['finished_at'] - run['started_at']).total_seconds():,.1f} s"


def _moment(moment: datetime, now: datetime) -> tuple[datetime, Styled]:
    return moment, Styled(age_in_words(int((now - moment).total_seconds())), "")


def _age(seconds: int | None) -> Styled:
    if seconds is None:
        return Styled("never", "bold red")
    if seconds < _RECENT.total_seconds():
        style = "green"
    else:
        style = "yellow" if seconds <= OLD.total_seconds() else "red"
    return Styled(age_in_words(seconds), style)


def age_in_words(seconds: int) -> str:
    """Return such as `just now`, `1 minute ago`, `3 hours ago`, `12 days ago`."""
    for size, noun in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{count(seconds // size, noun)} ago"
    return "just now"


def _short(text: str | None) -> str | None:
    if text is None or len(text) <= _LONGEST_ERROR:
        return text
    return text[:_LONGEST_ERROR].rpartition(" ")[0].rstrip(",;:") + " …"


def _describe_group(document: dict[str, Any], code: int, now: datetime) -> list[Part]:
    rows = [
        _group_line(entry["chat_service_sid"], entry["scope"], entry)
        for entry in document["services"]
    ]
    rows.append(_group_line("total", "", document["totals"] | {"status": document["status"]}))
    runs = [
        (
            run["id"],
            run["mode"],
            run["shard"],
            _run_status(run),
            *_moment(run["started_at"], now),
            _took(run),
            run["host"],
            _short(run["error"]),
        )
        for run in document["runs"]
    ]
    headers = ("run", "mode", "shard", "status", "began (UTC)", "age", "took", "host", "error")
    optional = ("began (UTC)", "host", "took", "mode")
    parts: list[Part] = [
        Styled(
            f"group {document['run_group']}: {document['status']} (exit code {code})",
            render.style_of(document["status"]),
        ),
        "",
        *_part("runs", Table(headers, runs, prose=("error",), optional=optional), "none"),
        "",
        *_part("services", render.counted_table(rows), "none"),
    ]
    errors = render.tell_once(
        (entry["chat_service_sid"], entry["error"]["message"])
        for entry in document["services"]
        if entry["error"]
    )
    if errors:
        parts += ["", Styled("not done:", "bold"), *(f"  {line}" for line in errors)]
    return parts


def _group_line(name: str, scope: str, entry: Line) -> tuple[object, ...]:
    shown = Styled(entry["status"], render.style_of(entry["status"]))
    return (name, scope, shown, *(entry[counter] for counter in render.SHOWN))


def _stale_table(stale: Sequence[Line]) -> Table:
    rows = [
        (
            one["chat_service_sid"] or "no service is known",
            one["account"],
            _age(one["age_seconds"]),
            one["last_complete_at"],
        )
        for one in stale
    ]
    return Table(("service", "account", "last complete", "at (UTC)"), rows, optional=("at (UTC)",))


def _part(title: str, table: Table, nothing: str) -> list[Part]:
    if not table.rows:
        return [f"{title}: {nothing}"]
    return [Styled(f"{title}:", "bold"), table]


commands: dict[str, click.Command] = {"status": status}
