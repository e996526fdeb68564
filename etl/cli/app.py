"""The commands, their common options, and what becomes of an error."""

import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

import click

from etl.cli import output
from etl.cli.options import GLOBAL_OPTIONS, Common
from etl.errors import ConfigurationError, EtlError, Interrupted, OutputLost

# Name → module and what `--help` lists. A module is loaded when its command is used, so that
# `--version` is quick.
_COMMANDS = {
    "init": ("etl.cli.init", "Write a commented configuration to begin with."),
    "sync": ("etl.cli.runs", "One scheduled run over every configured service."),
    "backfill": ("etl.cli.runs", "One-off load of a chosen scope."),
    "migrate": ("etl.cli.warehouse", "Bring the warehouse to the newest revision."),
    "check": (
        "etl.cli.check",
        "Preflight: configuration, credentials, services, warehouse; lists every finding.",
    ),
    "services": (
        "etl.cli.services",
        "The work list: every service with its rows and its last complete reading.",
    ),
    "status": (
        "etl.cli.status",
        "Freshness per service, last runs, rejected rows, who holds a lease.",
    ),
    "rejects": ("etl.cli.rejects", "The quarantine: list, retry, discard."),
    "report": ("etl.cli.report", "One self-contained page with charts for people."),
    "retire": (
        "etl.cli.services",
        "Take out services that are gone at Twilio or configured nowhere.",
    ),
    "purge": ("etl.cli.warehouse", "Remove what is old for good."),
    "erase": ("etl.cli.warehouse", "Remove every trace of one identity."),
    "rekey": ("etl.cli.rekey", "Bring stored rows under the configured privacy rules."),
    "export": ("etl.cli.export", "Changed rows as files, for warehouses that load files."),
    "config": ("etl.cli.configuration", "The configuration's schema and the effective settings."),
    "simulate": ("etl.cli.simulation", "The API simulator on a loopback port."),
    "demo": ("etl.cli.demo", "Simulator, SQLite, three syncs, and what an analyst would ask."),
}

# The commands whose object with `--json` is that of a run, and its mode.
_MODES = {"sync": "sync", "backfill": "backfill", "rejects retry": "retry", "retire": "retire"}


class _LazyGroup(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = _import_without_rich(_COMMANDS[cmd_name][0])
        command: click.Command = module.commands[cmd_name]
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _import_without_rich(name: str) -> ModuleType:
    """Import a module while rich cannot be found.

    structlog loads rich for tracebacks, and httpx for a command line of its own, wherever they find
    it. Neither is shown here, neither has a switch, and both load it in the file that every import
    of theirs goes through; it costs a start from cron 40 ms of its 480 to 700 (measured). None is
    Python's own way to say that there is no such module. What is drawn on a terminal loads rich
    later.
    """
    modules: dict[str, Any] = sys.modules
    barred = [module for module in ("rich", "pygments") if module not in modules]
    modules.update(dict.fromkeys(barred))
    try:
        return importlib.import_module(name)
    finally:
        for module in barred:
            del modules[module]


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"bindings-etl {version('bindings-etl')}")
        ctx.exit()


app = _LazyGroup(
    "bindings-etl",
    help="Keeps a SQL table of all push-notification bindings "
    "of your Twilio Conversations services.",
    params=[
        *GLOBAL_OPTIONS,
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Print the version.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code."""
    common = Common()
    output.start_anew()
    as_json = "--json" in arguments
    try:
        result: Any = app.main(
            list(arguments), prog_name="bindings-etl", standalone_mode=False, obj=common
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.Abort:
        tell_interruption(arguments, "SIGINT", common)
        return 130
    except BrokenPipeError:  # the reader of the help has gone, e.g. `| head`
        output.discard_the_rest()
        return 0
    except click.ClickException as wrong:
        error: Exception = ConfigurationError(wrong.format_message())
        if not as_json and common.log_format != "json":
            with suppress(OSError):
                wrong.show()
            return wrong.exit_code
    except Exception as cause:  # noqa: BLE001 - the outermost boundary
        error = cause
    if isinstance(error, OSError):
        error = _refusal(error)
    if as_json and not isinstance(error, OutputLost):
        with suppress(OutputLost):
            output.say_json(_failure_json(error, common, arguments))
    return output.tell_failure(error, common)


def tell_interruption(
    arguments: Sequence[str], signal_name: str, common: Common | None = None
) -> None:
    """Print the object of a command that a signal ended before it could finish anything itself."""
    if "--json" in arguments and not output.is_delivered():
        error = Interrupted(f"{signal_name} was received; what is committed is whole")
        with suppress(OutputLost):
            output.say_json(_failure_json(error, common or Common(), arguments))


def _refusal(cause: OSError) -> EtlError:
    """Return the error to show for one of the operating system."""
    error = EtlError(
        f"standard output or a file cannot be used: {cause.strerror or type(cause).__name__}"
    )
    error.__cause__ = cause
    return error


def _failure_json(error: Exception, common: Common, arguments: Sequence[str]) -> str:
    """Return the `--json` object of a command that failed; for a run that of a failed run."""
    from etl.cli import render
    from etl.sync.outcome import describe

    if common.failed_run:
        return render.to_json(common.failed_run)
    mode = _MODES.get(common.command or _read_command(arguments))
    if mode is None:
        return render.to_json({"error": describe(error)})
    return render.to_json(
        render.failed_run(error, mode, common.started_at, dry_run="--dry-run" in arguments)
    )


def _read_command(arguments: Sequence[str]) -> str:
    """Return which command is meant, for arguments that were never parsed."""
    words = f" {' '.join(word for word in arguments if not word.startswith('-'))} "
    return next((command for command in _MODES if f" {command} " in words), "")
