"""Random lives on every engine: whatever happens at Twilio and to the program, the warehouse tells it as it was (docs/promises.md)."""

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from etl.sync import prefetch
from tests.acceptance.crashing import CRASHED, forking
from tests.acceptance.scenario import CONTENT, Scenario, plain
from tests.engines.lives import KNOWN_TYPES, Ask, Life, Present, check_history, image

ROOT = Path(__file__).parents[2]
BATCH_PAGES = 2
WHOLE = [Ask()]
SEEDS_ON_SNOWFLAKE = (100, 101)
PARTS = [Ask((one,)) for one in KNOWN_TYPES]


@pytest.fixture
def forker() -> Iterator["subprocess.Popen[str]"]:
    """The process that runs commands and crashes them."""
    with forking() as process:
        yield process


class Fates:
    """Runs of the program over many lives, each compared with the model."""

    def __init__(self, scenario: Scenario, forker: "subprocess.Popen[str]", seed: int) -> None:
        self.scenario = scenario
        self.rng = Random(seed)
        self.lives = [Life(service) for service in scenario.services]
        self._forker = forker

    def turn(self) -> None:
        """Something happens; then a run, which may be killed. After a kill the world holds still until all is read anew."""
        for life in self.lives:
            life.stir(self.rng)
        self.scenario.settings["deletes"] = {"mode": self.rng.choice(("soft", "hard"))}
        killed = False
        chosen = self._choose()
        while self.rng.random() < 0.4:
            killed |= self._kill(*chosen)
            chosen = self.rng.choice((chosen, self._choose()))
        self._run(*chosen)
        if killed:
            self.read_anew()

    def read_anew(self) -> None:
        """A complete reading, after which nothing of a killed run is left."""
        self._run(["sync"], WHOLE)

    def _choose(self) -> tuple[list[str], list[Ask]]:
        kind = self.rng.randrange(5)
        if kind == 0:
            return ["sync"], WHOLE
        if kind == 1:
            return ["sync"], PARTS
        if kind == 2:
            types = tuple(self.rng.sample(KNOWN_TYPES, self.rng.randint(1, 2)))
            return ["backfill", *(f"--type={one}" for one in types)], [Ask(types)]
        some = [
            one
            for life in self.lives
            for one in life.service.bindings.values()
            if one["date_updated"][0] == "2"
        ]
        if not some:
            return ["sync"], WHOLE
        chosen = self.rng.choice(some)
        if kind == 3:
            return ["backfill", "--identity", chosen["identity"]], [
                Ask(identity=chosen["identity"])
            ]
        return ["backfill", "--since", chosen["date_updated"]], [Ask(since=chosen["date_updated"])]

    def _run(self, command: list[str], asks: list[Ask]) -> None:
        """To its end. What goes on where a killed run stopped deletes nothing; the next one does."""
        self.scenario.account["partition_by_type"] = asks == PARTS
        told = self.scenario.run(*command, "--json").json["services"]
        print(*command, [one["resumed"] for one in told])  # noqa: T201 - shown when a life goes wrong
        for life in self.lives:
            entries = [one for one in told if one["chat_service_sid"] == life.service.sid]
            assert len(entries) == len(asks)
            for ask, one in zip(asks, entries, strict=True):
                life.reach(life.after([ask], deletes=not one["resumed"]))
        self._compare()
        if any(one["resumed"] for one in told):
            self._run(command, asks)
        elif asks == WHOLE:
            self._check_tidiness()

    def _kill(self, command: list[str], asks: list[Ask]) -> bool:
        """At any step, unless the run ends before; what is published by then is whole."""
        self.scenario.account["concurrency"] = 1  # so that no commit is under way in another thread
        self.scenario.account["partition_by_type"] = asks == PARTS
        self.scenario.write_config()
        at = self.rng.randint(5, 30 * len(self.lives))
        order = {"arguments": [*command, "--config", str(self.scenario.config_path)], "at": at}
        assert self._forker.stdin
        assert self._forker.stdout
        print(json.dumps(order | {"batch_pages": BATCH_PAGES}), file=self._forker.stdin, flush=True)
        code = int(self._forker.stdout.readline())
        print("killed" if code == CRASHED else "not killed", *command, at)  # noqa: T201 - as above
        assert code in (0, CRASHED)
        self.scenario.account["concurrency"] = 4
        self.scenario.expire_leases()
        stored = self._stored()
        for life in self.lives:
            present = stored[life.service.sid]
            assert present in life.outcomes(asks)
            life.reach(present)
        return code == CRASHED

    def _stored(self) -> dict[str, Present]:
        found: dict[str, Present] = {life.service.sid: {} for life in self.lives}
        for sid, row in self.scenario.stored().items():
            found[row["chat_service_sid"]][sid] = image(row)
        return found

    def _compare(self) -> None:
        stored = self._stored()
        for life in self.lives:
            assert stored[life.service.sid] == life.present

    def _check_tidiness(self) -> None:
        """After a complete reading nothing is staged or leased, and what is in quarantine is what is bad."""
        for table in ("scan_seen", "scan_staged", "scan_absent", "scan_progress", "sync_leases"):
            assert self.scenario.query(f"SELECT * FROM {table}") == [], table
        rejected = self.scenario.query(
            "SELECT sid FROM rejected_bindings WHERE resolved_at IS NULL"
        )
        assert {row["sid"] for row in rejected} - {None} == set().union(
            *(life.bad for life in self.lives)
        )

    def check_histories(self) -> None:
        """Each binding's whole story, as analysts read it."""
        lines = self.scenario.query(
            f"SELECT {', '.join(CONTENT)}, valid_from, valid_to, is_deleted, first_seen_at "
            "FROM binding_history ORDER BY sid, valid_from"
        )
        by_sid = {
            sid: list(some) for sid, some in itertools.groupby(lines, lambda line: line["sid"])
        }
        stories = {sid: story for life in self.lives for sid, story in life.story.items()}
        assert by_sid.keys() == stories.keys()
        for sid, story in stories.items():
            check_history([_with_image(line) for line in by_sid[sid]], story)


def _with_image(line: dict[str, Any]) -> dict[str, Any]:
    content = {name: plain(name, line[name]) for name in CONTENT}
    return line | {"image": image(content)}


def live(fates: Fates, turns: int) -> None:
    """So many turns, between two complete readings."""
    fates.read_anew()
    for _ in range(turns):
        fates.turn()
    fates.read_anew()
    fates.check_histories()


@pytest.fixture
def fates_on(
    scenario_on: Callable[..., Scenario],
    warehouse_url: str,
    engine_name: str,
    forker: "subprocess.Popen[str]",
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[int, int], Fates]:
    """So many lives on a fresh warehouse: `fates_on(20, seed)`."""
    monkeypatch.setattr(prefetch, "BATCH_PAGES", BATCH_PAGES)

    def make(lives: int, seed: int) -> Fates:
        print("seed", seed)  # noqa: T201 - shown when a life goes wrong
        rows = tuple(1 + number % 6 for number in range(lives))
        scenario = scenario_on(warehouse_url, rows, max_page_size=2)
        if engine_name == "galera":  # each third try is undone at COMMIT, if all come again at once
            scenario.settings["retry"] |= {"max_wait_seconds": 2}
        return Fates(scenario, forker, seed)

    return make


def test_some_lives(fates_on: Callable[[int, int], Fates]) -> None:
    """Gaps, overlaps, repeated images or rows that nobody deletes show in no single step, but in a life."""
    live(fates_on(4, 9), turns=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed",
    [
        *range(100, 104),
        *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(104, 120)),
    ],
)
def test_many_lives(fates_on: Callable[[int, int], Fates], warehouse_url: str, seed: int) -> None:
    """The same with ten lives of each of twenty seeds, of which some meet what few do."""
    if warehouse_url.startswith("snowflake") and seed not in SEEDS_ON_SNOWFLAKE:
        pytest.skip("a statement costs the emulator ten times as much as others")
    live(fates_on(10, seed), turns=5)
