"""The commands, their common options, and what becomes of an error."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from etl.cli.options import GLOBAL_OPTIONS, Common
from etl.errors import EtlError

# Name → module and what `--help` lists. A module is loaded when its command is used: `--version` has to be quick.
_COMMANDS = {
    "sync": ("etl.cli.runs", "One scheduled run over every configured service."),
    "backfill": ("etl.cli.runs", "One-off load of a chosen scope."),
    "migrate": ("etl.cli.warehouse", "Bring the warehouse to the newest revision."),
    "check": ("etl.cli.check", "Preflight: configuration, credentials, services, warehouse; lists every finding."),
    "status": ("etl.cli.status", "Freshness per service, last runs, rejected rows, who holds a lease."),
    "rejects": ("etl.cli.rejects", "The quarantine: list, retry, discard."),
    "report": ("etl.cli.report", "One self-contained page with charts for people."),
    "purge": ("etl.cli.warehouse", "Remove soft-deleted rows and their history for good."),
    "erase": ("etl.cli.warehouse", "Remove every trace of one identity."),
    "config": ("etl.cli.configuration", "The configuration's schema and the effective settings."),
    "simulate": ("etl.cli.simulation", "The API simulator on a loopback port."),
    "demo": ("etl.cli.demo", "Simulator, SQLite, two syncs, and what an analyst would ask."),
}


class _LazyGroup(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        _load_structlog_alone()
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command: click.Command = module.commands[cmd_name]
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _load_structlog_alone() -> None:
    """structlog loads rich, for tracebacks that are never shown here, wherever it finds it: 40 ms of every start from cron."""
    if sys.stderr.isatty() or "rich" in sys.modules:
        return
    modules: dict[str, Any] = sys.modules  # None is the import system's way to say that there is no such module
    modules["rich"] = None
    try:
        importlib.import_module("structlog")
    finally:
        del modules["rich"]


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"bindings-etl {version('bindings-etl')}")
        ctx.exit()


app = _LazyGroup(
    "bindings-etl",
    help="Keeps a SQL table of all push-notification bindings of your Twilio Conversations services.",
    params=[
        *GLOBAL_OPTIONS,
        click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; gives the exit code of the contract."""
    common = Common()
    try:
        result: Any = app.main(list(arguments), prog_name="bindings-etl", standalone_mode=False, obj=common)
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except click.ClickException as wrong:
        wrong.show()
        code = wrong.exit_code
    except click.Abort:
        code = 130
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`; it has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except EtlError as error:
        code = _report(str(error), error.exit_code, error, common)
    except Exception as error:  # noqa: BLE001 - the outermost boundary: a sentence for people, frames for --log-level debug
        text = f"a fault of bindings-etl itself ({type(error).__name__}); run with --log-level debug and report it"
        code = _report(text, 1, error, common)
    return code


def _report(text: str, code: int, error: BaseException, common: Common) -> int:
    click.echo(f"Error: {text}", err=True)
    if common.log_level == "debug":
        from etl import logs

        logs.configure(common.log_format, common.log_level)
        logs.show_traceback(error)
    return code
