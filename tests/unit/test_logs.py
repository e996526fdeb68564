"""Logs: what is in them, and what never may be (docs/promises.md §6)."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from etl import errors, logs

ROW = "row of ada@example.com"
SECRET = "hunter2"


@pytest.fixture(autouse=True)
def fresh_structlog() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def logged(say: Any, style: logs.Format = "json", level: str = "debug") -> str:
    stream = io.StringIO()
    logs.configure(style, level, stream)
    say(structlog.get_logger())
    return stream.getvalue()


def fail() -> None:
    """Fail as a driver does: with a row in the text, and that wrapped in an error of our own."""
    try:
        try:
            raise KeyError(ROW)
        except KeyError as first:
            raise ValueError(SECRET) from first
    except ValueError as second:
        second.add_note(SECRET)
        raise errors.WarehouseRefused("the disk is full") from second


def caught() -> BaseException:
    try:
        fail()
    except errors.EtlError as error:
        return error
    raise AssertionError


def test_a_line_of_json_has_event_level_and_time() -> None:
    """Log collectors find what happened by these names."""
    line = json.loads(logged(lambda log: log.info("run.started", run_id=7, chat_service_sid="IS1")))
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "run.started", "level": "info", "run_id": 7, "chat_service_sid": "IS1"}


def test_on_a_console_there_are_lines_for_people() -> None:
    """Someone who looks at a terminal is no log collector."""
    line = logged(lambda log: log.info("run.started", run_id=7), style="console")
    assert "run.started" in line
    assert "run_id=7" in line
    assert not line.startswith("{")


@pytest.mark.parametrize(
    ("level", "seen"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)]
)
def test_the_level_holds(level: str, seen: int) -> None:
    """`--log-level` decides what cron mails."""

    def say(log: Any) -> None:
        for each in logs.LEVELS:
            getattr(log, each)("something.happened")

    assert len(logged(say, level=level).splitlines()) == seen


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("way", ["given", "current", "show_traceback"])
def test_a_traceback_tells_where_but_not_what_others_said(style: logs.Format, way: str) -> None:
    """A driver's message may quote a row, and a row holds identities; where it happened is needed all the same."""

    def say(log: Any) -> None:
        if way == "given":
            log.error("scan.failed", exc_info=caught())
        elif way == "show_traceback":
            logs.show_traceback(caught())
        else:
            try:
                fail()
            except errors.EtlError:
                log.exception("scan.failed")

    text = logged(say, style=style)
    assert "WarehouseRefused: the disk is full" in text
    assert "ValueError" in text
    assert "KeyError" in text
    assert "in fail" in text
    assert "ada" not in text
    assert "hunter" not in text


def test_the_chain_of_causes_may_be_a_ring() -> None:
    """An error that is its own cause must not make an endless line."""
    one, other = ValueError(), KeyError()
    one.__cause__, other.__cause__ = other, one
    assert "KeyError" in logged(lambda log: log.error("scan.failed", exc_info=one))


def test_secrets_are_masked() -> None:
    """Settings that are logged by mistake must not give a key away."""
    assert "hunter2" not in logged(
        lambda log: log.info(
            "settings.read", key=SecretStr("hunter2"), nested={"key": [SecretStr("hunter2")]}
        )
    )


@pytest.mark.parametrize("name", ["httpx", "httpcore", "httpcore.http11"])
def test_the_http_libraries_do_not_tell_urls(name: str) -> None:
    """They log every URL, and filtered listings hold identities (docs/api.md §7.7)."""
    logged(lambda _log: None)
    assert not logging.getLogger(name).isEnabledFor(logging.INFO)
