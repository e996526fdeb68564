"""The options that every command takes, before or after its name."""

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from etl.config import Settings
    from etl.logs import Format

F = TypeVar("F", bound=Callable[..., Any])

_LONGEST_GROUP = 128
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Common(msgspec.Struct):
    """What the global options say, and what was asked for."""

    config: Path | None = None
    log_format: "Format" = "auto"
    log_level: str | None = None
    """None: `info`, but `warning` on a terminal, where the result says what was done."""
    command: str = ""
    """Such as `rejects list`; empty as long as it is not known."""
    started_at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    failed_run: dict[str, Any] | None = None
    """The object of a run that could not begin, as hooks got it: `--json` prints the same."""

    @property
    def config_path(self) -> Path:
        """`--config`, else `$BINDINGS_ETL_CONFIG`, else `./config.yaml`."""
        return self.config or Path(os.environ.get("BINDINGS_ETL_CONFIG") or "config.yaml")

    def settings(self) -> "Settings":
        """Set up logs, then read the configuration.

        Raises:
            ConfigurationError: with every fault of the file.
        """
        from etl import config
        from etl.warehouse.engines import read_url

        self.start_logs()
        return config.load(self.config_path, read_url)

    def start_logs(self) -> None:
        """Set up logs as the options say."""
        from etl import logs

        default = "warning" if logs.is_for_people(self.log_format) else "info"
        logs.configure(self.log_format, self.log_level or default)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None:
        setattr(ctx.find_object(Common), str(param.name), value)


GLOBAL_OPTIONS: list[click.Parameter] = [
    click.Option(
        ["--config"],
        type=click.Path(path_type=Path, dir_okay=False),
        expose_value=False,
        callback=_keep,
        help="Configuration file. Default: $BINDINGS_ETL_CONFIG, else ./config.yaml.",
    ),
    click.Option(
        ["--log-format"],
        type=click.Choice(["auto", "console", "json"]),
        expose_value=False,
        callback=_keep,
        help="auto: console on a terminal, JSON otherwise.",
    ),
    click.Option(
        ["--log-level"],
        type=click.Choice(["debug", "info", "warning", "error"]),
        expose_value=False,
        callback=_keep,
        help="Default: info; warning on a terminal.",
    ),
]


class Command(click.Command):
    """A command that also takes the global options after its name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *GLOBAL_OPTIONS]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ensure_object(Common).command = ctx.command_path.partition(" ")[2]
        return super().parse_args(ctx, args)


class Group(click.Group):
    """A group of commands that also takes the global options between its name and theirs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *GLOBAL_OPTIONS]


def service_option(
    help_text: str = "Only this service (repeat).", *, required: bool = False
) -> Callable[[F], F]:
    """Return the option `--service IS…`, repeatable."""
    return click.option(
        "--service",
        "services",
        multiple=True,
        required=required,
        metavar="IS…",
        callback=_check_service,
        help=help_text,
    )


def json_option() -> Callable[[F], F]:
    """Return the option `--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="One JSON object on standard output."
    )


def run_group_option(what: str) -> Callable[[F], F]:
    """Return the option `--run-group NAME`."""
    return click.option("--run-group", metavar="NAME", callback=_check_run_group, help=what)


def parse_moment(value: str) -> datetime:
    """Return the moment that an option names in ISO 8601; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is not an ISO 8601 time, e.g. 2026-11-01 or 2026-11-01T09:30:00Z"
        ) from None


def parse_age(value: str, units: str = "smhdw") -> timedelta:
    """Return the time span that an option gives, such as 30m, 12h, 30d or 4w."""
    age = re.fullmatch(rf"(\d{{1,9}})([{units}])", value)
    if age is None:
        examples = ", ".join(f"30{unit}" for unit in units)
        raise click.BadParameter(f"{value!r} is not an age such as {examples}")
    try:
        return timedelta(**{_UNITS[age[2]]: int(age[1])})
    except OverflowError:
        raise click.BadParameter(f"{value!r} is too long an age") from None


def parse_identity(value: str) -> str:
    """Return `value`; refuse an empty one (a variable that was not set) without repeating it."""
    if not value:
        raise click.BadParameter("the identity is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("the identity is not valid UTF-8") from None
    return value


def _check_run_group(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (0 < len(value) <= _LONGEST_GROUP and value.isprintable()):
        raise click.BadParameter(
            f"a name of 1 to {_LONGEST_GROUP} printable characters is needed, "
            "e.g. nightly-2026-11-25"
        )
    return value


def _check_service(
    _ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    for sid in value:
        if not re.fullmatch(r"IS[0-9a-fA-F]{32}", sid):
            raise click.BadParameter(f"{sid!r} is not a service SID (IS and 32 hexadecimal digits)")
    return tuple(dict.fromkeys(value))
