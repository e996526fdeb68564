"""Standard output for results, standard error for what else there is to say. Losing either changes nothing of what was done."""

import os
import sys
from contextlib import suppress

import click


def say(text: str) -> None:
    """Print a result. A reader that has gone, e.g. `| head`, has what it wanted.

    Raises:
        OSError: it cannot be written, e.g. to a full disk.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        discard_the_rest()


def tell(text: str) -> None:
    """Print to standard error, if that is possible."""
    with suppress(OSError, ValueError):
        click.echo(text, err=True)


def discard_the_rest() -> None:
    """Nobody reads standard output any more; what is still held back for it must not fail later."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
