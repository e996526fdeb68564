"""Standard output for results, standard error for what else there is to say.

Losing either changes nothing of what was done. Who reads text and has gone has what he wanted; the
object of `--json` is waited for by a program, so that its loss is told by the exit code.
"""

import codecs
import json
import os
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from etl.errors import OutputLost, exit_code_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from etl.cli.options import Common
    from etl.cli.screen import Part


class _Deliveries:
    """Whether the object of `--json` is out; a second one would make it unreadable."""

    done = False


def say(text: str, exit_code: int = 0) -> None:
    """Print a result for people. A reader that has gone, e.g. `| head`, has what it wanted.

    Raises:
        OutputLost: it cannot be written, e.g. to a full disk; an `exit_code` other than 0 stays.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        discard_the_rest()
    except OSError as cause:
        discard_the_rest()
        raise _lost(cause.strerror, exit_code) from cause


def show(parts: "Iterable[Part]", exit_code: int = 0) -> None:
    """Print a result for people: as wide as the terminal, or as plain lines where there is none.

    Raises:
        OutputLost: as `say`.
    """
    from etl.cli import screen

    say(screen.draw(parts, screen.room(sys.stdout)), exit_code)


def say_json(text: str, exit_code: int = 0) -> None:
    """Print the one object of `--json`.

    Raises:
        OutputLost: it cannot be written, or nobody reads it; an `exit_code` other than 0 stays.
    """
    if getattr(sys.stdout, "name", None) == os.devnull:  # see `__main__`: it was closed
        raise _lost("it is closed", exit_code)
    try:
        click.echo(
            text if _takes_all() else _BEYOND_ASCII.sub(lambda sign: _escaped(sign[0]), text)
        )
    except OSError as cause:
        discard_the_rest()
        raise _lost(cause.strerror, exit_code) from cause
    _Deliveries.done = True


def tell(text: str) -> None:
    """Print to standard error, if that is possible."""
    with suppress(OSError, ValueError):
        click.echo(text, err=True)


def tell_failure(error: BaseException, common: "Common") -> int:
    """Say in a sentence why a command failed, and return its exit code."""
    from etl import logs
    from etl.sync.outcome import sentence

    code = exit_code_of(error)
    if common.log_format == "json" or common.log_level == "debug":
        common.start_logs()
    if common.log_format == "json":
        logs.tell_failure(sentence(error), code)
    else:
        tell(f"Error: {sentence(error)}")
    if common.log_level == "debug":
        logs.show_traceback(error)
    return code


def is_delivered() -> bool:
    """Return whether the object of `--json` was printed."""
    return _Deliveries.done


def start_anew() -> None:
    """Forget what was printed before: a new command line begins."""
    _Deliveries.done = False


def discard_the_rest() -> None:
    """Point standard output to /dev/null: its reader is gone, and its buffer must not fail."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _lost(reason: str | None, exit_code: int) -> OutputLost:
    return OutputLost(
        f"the result could not be written to standard output ({reason or 'no reason given'}); "
        "what the command did stays done",
        exit_code or OutputLost.exit_code,
    )


# JSON may always be written in ASCII, and a stream of another encoding than UTF-8 takes no more.
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


def _takes_all() -> bool:
    encoding = getattr(sys.stdout, "encoding", None)
    return encoding is None or codecs.lookup(encoding).name == "utf-8"


def _escaped(sign: str) -> str:
    return json.dumps(sign)[1:-1]
