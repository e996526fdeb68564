"""Writes docs/screens.md: what the commands show, captured from runs against the simulator (`make docs`)."""

import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from etl.simulator import Fault, Simulator, World
from etl.simulator.world import Service
from tests.acceptance.terminal import show_result

PAGE = Path(__file__).with_name("screens.md")
_WIDTH, _NARROW = 80, 60
# The last run ended four minutes and 5 seconds ago: a screen that is out in 50 seconds says "4 minutes ago".
_SLACK_SECONDS = 50
_FIVE_MINUTES_APART = """
UPDATE sync_runs SET finished_at = strftime('%Y-%m-%d %H:%M:%S.000000', 'now',
    format('-%d seconds', 245 + 300 * ((SELECT max(id) FROM sync_runs) - id)));
UPDATE sync_runs SET started_at = strftime('%Y-%m-%d %H:%M:%S.000000', finished_at, '-1 second');
UPDATE sync_scans SET finished_at = (SELECT finished_at FROM sync_runs WHERE id = run_id);
UPDATE rejected_bindings SET last_seen_at = (SELECT finished_at FROM sync_runs WHERE id = run_id);
UPDATE services SET last_complete_at = (SELECT max(finished_at) FROM sync_scans
    WHERE complete AND sync_scans.chat_service_sid = services.chat_service_sid);
"""

_HEAD = """\
# Screens

What the commands show on a terminal, captured from runs against the simulator. Columns without a figure are left
out, SIDs are shortened where that keeps them apart and there is no room for whole ones, and below 80 columns each
row stands upright. States have colours, unless `NO_COLOR` is set. A pipe or a file gets plain lines instead, one a
row, with every column and whole SIDs, for `grep` and `awk`; programs take `--json`. This page is written by
`make docs`."""


def render_page() -> str:
    """Return the whole page as Markdown, captured anew."""
    return "\n\n".join([_HEAD, *_few_services(), *_many_services()]) + "\n"


def masked(page: str) -> str:
    """Return a page without what differs from capture to capture: figures of time, ports, request ids."""
    page = re.sub(r"\bRQ[0-9a-f]{32}\b", "RQ…", page)
    page = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", page)
    page = re.sub(r"\d\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", page)
    return re.sub(r"in [\d,.]+ s,", "in SECONDS,", page)


def _few_services() -> Iterator[str]:
    """A run of which little went well, and what `status` and `check` say after it."""
    world = World(seed=11)
    busy, held, broken, slow = (world.add_service(bindings=n) for n in (2_580, 1_230, 400, 200))
    with _Stage(world).set() as stage:
        stage.run("migrate")
        stage.run("sync")
        busy.touch(31)
        busy.grow(12)
        busy.delete(7)
        busy.put({**busy.bindings[busy.sids()[0]], "date_updated": "yesterday"})
        held.delete(600)
        stage.fail("error-503", broken, only_pages=[1])
        stage.fail("error-503", slow)
        yield stage.capture("`sync`", "sync", code=3)
        yield stage.capture("`status`", "status")
        yield stage.capture("`status` at 60 columns", "status", width=_NARROW)
        stage.calm()
        stage.fail("forbidden", slow)
        yield stage.capture("`check`", "check", code=3)


def _many_services() -> Iterator[str]:
    world = World(seed=12)
    services = [world.add_service(bindings=40 + 7 * number) for number in range(60)]
    with _Stage(world).set() as stage:
        stage.run("migrate")
        stage.run("sync")
        for service in services[8:10]:
            service.delete(len(service) // 2)
        stage.fail("error-503", services[3])
        stage.fail("forbidden", services[21])
        stage.fail("error-500", services[40])
        stage.run("sync", code=3)
        title = "`status` with 60 services, five of them in trouble"
        yield stage.capture(title, "status", "--limit", "20")


class _Stage:
    """A folder with a configuration and a SQLite warehouse, and the simulator that it names."""

    def __init__(self, world: World) -> None:
        self._simulator = Simulator(world)
        self._world = world

    @contextmanager
    def set(self) -> Iterator["_Stage"]:
        with tempfile.TemporaryDirectory() as folder, self._simulator.serve() as url:
            self._folder = Path(folder)
            (self._folder / "config.yaml").write_text(yaml.safe_dump(self._configuration(url)))
            yield self

    def _configuration(self, url: str) -> dict[str, object]:
        account = {
            "name": "main",
            "account_sid": self._world.account_sid,
            "api_key": self._world.api_key,
            "api_secret": self._world.api_secret,
            "base_url": url,
        }
        return {
            "accounts": [account],
            "warehouse": {"url": "sqlite:///bindings.db"},
            "retry": {"max_wait_seconds": 0.01},
        }

    def fail(self, fault: str, service: Service, only_pages: list[int] | None = None) -> None:
        self._simulator.faults.add(Fault(fault, service=service.sid, only_pages=only_pages))

    def calm(self) -> None:
        self._simulator.faults.clear()

    def run(self, *arguments: str, width: int = _WIDTH, code: int = 0) -> str:
        ended, text = show_result(width, *arguments, folder=self._folder)
        if ended != code:
            raise RuntimeError(f"{arguments} ended with {ended}, not with {code}:\n{text}")
        return text

    def capture(self, title: str, *arguments: str, width: int = _WIDTH, code: int = 0) -> str:
        """Return a screen as a section; one that took so long that its ages moved on is captured again."""
        text = None
        while text is None:
            began = time.monotonic()
            self._set_back()
            shown = self.run(*arguments, width=width, code=code)
            text = shown if time.monotonic() - began < _SLACK_SECONDS else None
        lines = "\n".join(line.rstrip() for line in text.splitlines())
        command = " ".join(["bindings-etl", *arguments])
        return f"## {title}\n\n```text\n$ {command}\n{lines}\n```"

    def _set_back(self) -> None:
        """Let the runs have been five minutes apart: what is just over says nothing about ages."""
        with sqlite3.connect(self._folder / "bindings.db") as database:
            database.executescript(_FIVE_MINUTES_APART)


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
