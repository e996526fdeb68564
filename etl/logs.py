"""Structured logs on standard error: lines for people on a terminal, JSON elsewhere."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO

import structlog

from etl.errors import EtlError

Format = Literal["auto", "console", "json"]
LEVELS = ("debug", "info", "warning", "error")


class BestEffortStream:
    """A stream whose errors (full disk, closed pipe) are ignored."""

    def __init__(self, find: Callable[[], TextIO]) -> None:
        self._find = find

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._find().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._find().flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._find(), name)


def configure(style: Format, level: str, stream: TextIO | None = None) -> None:
    """Set up structlog for the process.

    httpx logs whole URLs, which may hold identities (docs/api.md §7.7), so it may only warn.
    """
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # The standard error of the moment: a progress bar may stand in for it while it is shown.
    target: Any = stream or BestEffortStream(lambda: sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _frames_for_exceptions,
            _renderer(style),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )


def is_for_people(style: Format) -> bool:
    """Return whether a person reads the log on a terminal."""
    return style != "json" and sys.stderr.isatty()


def _renderer(style: Format) -> Any:
    on_terminal = sys.stderr.isatty()
    if style == "console" or (style == "auto" and on_terminal):
        colours = (
            on_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )
        return structlog.dev.ConsoleRenderer(colors=colours, sort_keys=False)
    return structlog.processors.JSONRenderer()


def _frames_for_exceptions(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Turn `exc_info` into frames and class names.

    The text of foreign exceptions stays out: a driver's message may quote a row, and a row holds
    identities.
    """
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["traceback"] = _describe(error)
    return event


def _describe(error: BaseException) -> str:
    chain: list[str] = []
    told: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in told:
        told.add(id(current))
        text = f": {current}" if isinstance(current, EtlError) else ""
        chain.append(
            "".join(traceback.format_tb(current.__traceback__)) + type(current).__qualname__ + text
        )
        current = current.__cause__ or current.__context__
    return "\ncaused by\n".join(chain)


def show_traceback(error: BaseException) -> None:
    """Log where an error came from, without the text of foreign exceptions."""
    structlog.get_logger().debug("traceback", exc_info=error)


def tell_failure(text: str, exit_code: int) -> None:
    """Log why a command failed, for collectors that read only the JSON lines of the log."""
    structlog.get_logger().error("command.failed", message=text, exit_code=exit_code)
