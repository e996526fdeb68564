"""`demo`: what the tool is for, shown in a minute with nothing but this machine."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import sqlalchemy as sa

from etl.cli import render
from etl.cli.options import Command, Common
from etl.cli.output import say, show, tell
from etl.cli.progress import showing_progress
from etl.cli.report import write_report
from etl.cli.screen import Styled, Table
from etl.errors import ConfigurationError
from etl.stopping import Stop
from etl.sync.context import Request
from etl.sync.outcome import RunOutcome
from etl.sync.run import execute
from etl.sync.run_state import RunState
from etl.warehouse import migration
from etl.warehouse.opening import configured_warehouse

if TYPE_CHECKING:
    from etl.simulator.world import Service, World

_WRITTEN_BY = "# Written by `bindings-etl demo`"

_QUESTIONS = {
    "Who can be reached by which kind of push? (view identity_reachability)": """
SELECT CASE WHEN apn > 0 AND fcm > 0 THEN 'iOS and Android' WHEN apn > 0 THEN 'iOS only'
            WHEN fcm > 0 THEN 'Android only' ELSE 'neither' END AS reach, count(*) AS identities
FROM identity_reachability GROUP BY 1 ORDER BY 2 DESC""",
    "In which year was a device last heard of? (view active_bindings)": """
SELECT strftime('%Y', date_updated) AS last_updated, count(*) AS bindings,
       printf('%.1f %%', 100.0 * count(*) / (SELECT count(*) FROM active_bindings)) AS share,
       sum(CASE WHEN binding_type = 'apn' THEN 1 ELSE 0 END) AS apn,
       sum(CASE WHEN binding_type IN ('fcm', 'gcm') THEN 1 ELSE 0 END) AS fcm_gcm,
       sum(CASE WHEN binding_type = 'twilsock' THEN 1 ELSE 0 END) AS twilsock
FROM active_bindings GROUP BY 1 ORDER BY 1""",
    "What changed since the first load? (table binding_versions, view binding_history)": """
SELECT binding_type, sum(CASE WHEN change = 'updated' THEN 1 ELSE 0 END) AS updated,
       sum(CASE WHEN change = 'deleted' THEN 1 ELSE 0 END) AS deleted,
       sum(CASE WHEN change = 'restored' THEN 1 ELSE 0 END) AS restored
FROM binding_versions GROUP BY 1 ORDER BY 2 DESC""",
}


def _leave_as_it_is(_service: "Service") -> None:
    pass


def _let_devices_change(service: "Service") -> None:
    service.delete(len(service) // 100)
    service.touch(len(service) // 50)
    service.grow(len(service) // 100)


def _bring_devices_back(service: "Service") -> None:
    service.bring_back(max(1, len(service) // 300))


# Title of each sync → what happens at the API before it.
_SYNCS: dict[str, Callable[["Service"], None]] = {
    "First sync: everything is new": _leave_as_it_is,
    "Meanwhile devices came, went and changed. Second sync: only that is written": (
        _let_devices_change
    ),
    "Some came back. Third sync: they are restored, with their history": _bring_devices_back,
}


@click.command(
    "demo", cls=Command, short_help="Simulator, SQLite, three syncs, and what an analyst would ask."
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
)
@click.option("--bindings", type=click.IntRange(100, 1_000_000), default=12_000, show_default=True)
@click.pass_obj
def demo(common: Common, folder: Path, bindings: int) -> int:
    """Sync a simulated account into SQLite three times, and ask three questions about it."""
    try:
        from etl.simulator import Simulator, build_demo
    except ImportError:
        raise ConfigurationError("the demo needs: pip install 'bindings-etl[simulator]'") from None
    _require_own(folder)
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "bindings.db"
    for old in folder.glob("bindings.db*"):
        old.unlink()
    world = build_demo(3, bindings, seed=2026)
    # A little latency, as a network has, so that the progress bar is worth a look.
    simulator = Simulator(world, latency_ms=20)
    with simulator.serve() as url:
        common.config = folder / "config.yaml"
        common.config.write_text(
            _configuration(world.account_sid, world.api_key, world.api_secret, url, database)
        )
        common.log_level = common.log_level or "warning"
        say(
            f"An account with {len(world.services)} services and {bindings:,} bindings "
            f"is simulated at {url}.\n"
        )
        _migrate(common)
        if code := _sync_after_changes(common, world):
            return code
    _ask_questions(common)
    say(_farewell(folder, database, _draw(common, folder / "report.html")))
    return 0


def _sync_after_changes(common: Common, world: "World") -> int:
    """Sync after each of the changes of `_SYNCS`; return the exit code of the first that fails."""
    for title, change in _SYNCS.items():
        for service in world.services.values():
            change(service)
        outcome = _sync(common)
        show([Styled(f"── {title}", "bold"), *render.run_summary(outcome), ""])
        if outcome.exit_code:
            tell("Error: this sync did not succeed, so the demo ends here; its reason is above")
            return outcome.exit_code
    return 0


def _require_own(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier demo, whose files may be overwritten."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        own = (folder / "config.yaml").read_text(encoding="utf-8").startswith(_WRITTEN_BY)
    except (OSError, UnicodeDecodeError):
        own = False
    if not own:
        raise ConfigurationError(
            f"--dir {folder} holds files that the demo did not write; name an empty or a new folder"
        )


def _migrate(common: Common) -> None:
    with configured_warehouse(common.settings(), migrated=False) as warehouse:
        migration.upgrade(warehouse, None)


def _sync(common: Common) -> RunOutcome:
    settings = common.settings()
    state = RunState()
    with showing_progress(state):
        return execute(settings, Request(), Stop(), state)


def _ask_questions(common: Common) -> None:
    with configured_warehouse(common.settings()) as warehouse:
        for question, query in _QUESTIONS.items():
            headers, rows = warehouse.read(functools.partial(_ask, sql=query))
            show([Styled(f"── {question}", "bold"), Table(headers, rows), ""])


def _draw(common: Common, out: Path) -> str:
    """Write the page with charts, and tell where it is or what it needs."""
    try:
        write_report(common, out)
    except ConfigurationError as error:
        return f"No page with charts: {error}"
    return f"A page with charts: {out}"


def _ask(conn: sa.Connection, sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
    answer = conn.execute(sa.text(sql))
    return list(answer.keys()), [tuple(row) for row in answer]


def _configuration(account_sid: str, key: str, secret: str, url: str, database: Path) -> str:
    return f"""{_WRITTEN_BY}; the simulator that it points to has ended with it.
accounts:
  - name: demo
    account_sid: {account_sid}
    api_key: {key}
    api_secret: {secret}
    base_url: {url}
warehouse:
  url: sqlite:///{database}
"""


def _farewell(folder: Path, database: Path, charts: str) -> str:
    this = Path(sys.argv[0])
    command = str(this) if this.name == "bindings-etl" else "bindings-etl"
    status = f"{command} status --config {folder / 'config.yaml'}"
    explore = f"sqlite3 {database} '.tables'    # or any other SQLite client"
    return f"{charts}\n\nGo on exploring:\n  {status}\n  {explore}"


commands: dict[str, click.Command] = {"demo": demo}
