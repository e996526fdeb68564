"""What privacy hides is nowhere: no table, no stage, no line, no file (docs/promises.md §14)."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from tests.acceptance.scenario import Scenario
from tests.acceptance.test_hooks import Receiver, hook, receiver

__all__ = ["receiver"]

MakeScenario = Callable[..., Scenario]

BOTH = [
    {"identity": "hmac", "endpoint": "hmac", "key": "a key of the warehouse"},
    {"identity": "drop", "endpoint": "drop"},
]


class Life:
    """Everything a warehouse goes through, and all that was written or said of it."""

    def __init__(self, scenario: Scenario, receiver: Receiver) -> None:
        self.scenario = scenario
        self.receiver = receiver
        self.service = scenario.services[0]
        self.names: set[str] = set()
        self.told: list[str] = []

    def remember_names(self) -> None:
        """What the API has now is secret for good."""
        for row in self.service.bindings.values():
            self.names |= {row["identity"], row["endpoint"]}

    def run(self, *arguments: str) -> None:
        """One command; all that it says and leaves is kept."""
        metrics = self.scenario.folder / "metrics.prom"
        extra = ("--metrics-file", str(metrics)) if arguments[0] in ("sync", "backfill") else ()
        result = self.scenario.run(*arguments, *extra, "--log-level", "debug", expect=None)
        self.told += [result.out, result.err, *map(json.dumps, self.receiver.bodies)]
        if extra:
            self.told.append(metrics.read_text())
        self.told.append(self.tables())

    def tables(self) -> str:
        """Every value of every table."""

        def dump(conn: sa.Connection) -> str:
            names = sa.inspect(conn).get_table_names()
            rows = [row for name in names for row in conn.execute(sa.text(f"SELECT * FROM {name}"))]
            return "\n".join(str(value) for row in rows for value in row)

        dumped: str = self.scenario.on_warehouse(dump)
        return dumped

    def change(self, number: int, **changes: Any) -> str:
        sid = self.service.sids()[number]
        self.service.change(sid, **changes)
        return sid

    def assert_nobody_is_named(self) -> None:
        text = "\n".join(self.told)
        spelled = {
            spelling
            for name in self.names
            for spelling in (name, quote(name), quote(name, safe=""), json.dumps(name)[1:-1])
        }
        assert len(spelled) > 20
        assert [name for name in spelled if name in text] == []


def live(life: Life) -> None:
    """Load, changes, rejects, deletes, an interrupted scan, a dry run, a backfill, a report."""
    service = life.service
    who = "Zoë O'Hara+1@x.example"
    for number in range(6):
        life.change(number, identity=f"{who}{number}", endpoint=f"{who}{number}-endpoint")
    life.change(0, url=f"https://x.example/Users/{quote(who)}0", device={"of": [f"{who}0"]})
    life.change(1, endpoint="a phone of its own", owner=f"{who}1 (work)", Identity=who)
    life.remember_names()
    life.scenario.account["page_size"] = 10
    life.scenario.simulator.faults.add("forbidden", only_pages=[2], service=service.sid, times=1)
    life.run("sync")
    life.run("sync", "--json")
    # A SID belongs to one identity for life; that the URL still named the old one could not be known.
    grace = "Grace@x.example"
    life.change(0, identity=grace, endpoint=f"{grace}-endpoint", url=grace, device=[grace])
    life.change(2, date_updated="never", note=f"{who}2")
    life.remember_names()
    service.put(b'{"sid": "no", "identity": "broken@x.example", "x": "\\ud83d"}', key="half")
    service.put("alone@x.example", key="text")
    service.put({"sid": "no", "identity": ["listed@x.example"], "x": "listed@x.example"}, key="two")
    life.names |= {"broken@x.example", "listed@x.example", "alone@x.example"}
    service.remove(service.sids()[3:4])
    life.run("sync", "--dry-run", "--json")
    life.run("sync", "--json")
    life.run("backfill", "--identity", f"{who}4", "--json")
    life.run("rejects", "list", "--json")
    life.run("rejects", "retry", "--json")
    life.run("status", "--json")
    report = life.scenario.folder / "report.html"
    life.run("report", "--out", str(report))
    life.told.append(report.read_text())


@pytest.mark.parametrize("privacy", BOTH, ids=["hmac", "drop"])
def test_a_whole_life_names_nobody(
    make_scenario: MakeScenario, receiver: Receiver, privacy: dict[str, Any]
) -> None:
    """A name in one place is a name that was not hidden."""
    life = Life(make_scenario((25,)), receiver)
    hook(life.scenario, receiver)
    life.scenario.settings["privacy"] = privacy
    live(life)
    life.assert_nobody_is_named()
    assert len(life.scenario.query("SELECT * FROM rejected_bindings")) == 4
    assert life.scenario.query("SELECT * FROM binding_versions") != []


@pytest.mark.slow
@pytest.mark.parametrize("privacy", BOTH, ids=["hmac", "drop"])
def test_a_whole_life_names_nobody_on_any_engine(
    make_scenario: MakeScenario, receiver: Receiver, warehouse_url: str, privacy: dict[str, Any]
) -> None:
    """Each engine stores text in its own way, and what it cannot hold it cuts."""
    life = Life(make_scenario((25,), url=warehouse_url), receiver)
    hook(life.scenario, receiver)
    life.scenario.settings["privacy"] = privacy
    live(life)
    life.assert_nobody_is_named()
