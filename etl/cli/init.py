"""`init`: a commented configuration to begin with, and what comes next."""

import json
import re
from pathlib import Path

import click

from etl.cli.options import Command, Common
from etl.cli.output import say, tell
from etl.errors import ConfigurationError

_EXAMPLE = "config.example.yaml"
_HEAD = """\
# Written by `bindings-etl init`: every setting with its default. Keep what you need: only accounts
# and warehouse are required. Any string may hold ${NAME}, ${NAME:-default} or
# ${file:/path/to/a/mounted/secret}.
"""


@click.command("init", cls=Command, short_help="Write a commented configuration to begin with.")
@click.option(
    "--warehouse",
    "url",
    metavar="URL",
    callback=lambda _c, _p, value: None if value is None else _check_url(value),
    help="Where the tables will be, e.g. 'postgresql://etl:${DB_PASSWORD}@db/analytics'. "
    "Default: a SQLite file.",
)
@click.pass_obj
def init(common: Common, url: str | None) -> None:
    """Write a commented configuration, and say what comes next.

    It goes to config.yaml, or where --config or $BINDINGS_ETL_CONFIG says; an existing file is
    never overwritten.
    """
    path = common.config_path
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_content(url))
    except FileExistsError:
        raise ConfigurationError(
            f"{path} is there already and stays as it is; "
            "edit it, or name another file with --config"
        ) from None
    except OSError as cause:
        raise ConfigurationError(f"{path} cannot be written: {cause.strerror}") from cause
    say(_what_next(path))
    if url is not None and re.search(r"//[^/@]*:[^/@$]+@", url):
        tell(f"{path} holds the password in clear; ${{DB_PASSWORD}} or ${{file:…}} keeps it out")


def _check_url(value: str) -> str:
    """Return `value` if it can be a warehouse's URL; placeholders in it count as filled."""
    from etl.warehouse.engines import read_url

    try:
        read_url(re.sub(r"\$\{[^}]*\}", "x", value))
    except ValueError as invalid:
        raise click.BadParameter(str(invalid)) from None
    return value


def _content(url: str | None) -> str:
    _, _, settings = _example().read_text(encoding="utf-8").partition("\n\n")
    if url is not None:
        quoted = json.dumps(url, ensure_ascii=False)
        settings = re.sub(
            r"(?<=\nwarehouse:\n)  url: \S+", lambda _: f"  url: {quoted}", settings, count=1
        )
    return f"{_HEAD}\n{settings}"


def _example() -> Path:
    """Return the example's path: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / _EXAMPLE
    return inside if inside.is_file() else package.parent / _EXAMPLE


def _what_next(path: Path) -> str:
    command = "bindings-etl" if path == Path("config.yaml") else f"bindings-etl --config {path}"
    return f"""\
{path} is written. What comes next:
  1. put the SID of your account (AC…) into it
  2. make an API key of this account (Restricted or Standard, see the README),
     and set TWILIO_API_KEY and TWILIO_API_SECRET
  3. {command} migrate           creates the tables
  4. {command} check             tries everything that a run needs
  5. {command} sync --dry-run    says what would be loaded, and writes nothing
  6. {command} sync"""


commands: dict[str, click.Command] = {"init": init}
