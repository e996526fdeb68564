"""A changed privacy mode or key is noticed before anything is written, and `rekey` goes on from there (docs/promises.md §14)."""

import json
import shutil
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from etl.warehouse import rewriting
from tests.acceptance.crashing import CRASHED, forking
from tests.acceptance.scenario import Scenario, changes
from tests.acceptance.test_erase import everything
from tests.acceptance.test_rejects_command import hold_lease

MakeScenario = Callable[..., Scenario]

pytestmark = pytest.mark.slow  # tests/engines/test_rekey.py is not
Privacy = dict[str, Any]

KEEP: Privacy = {}
HASHED: Privacy = {"identity": "hmac", "endpoint": "hmac", "key": "the first key"}
OTHER_KEY: Privacy = {**HASHED, "key": "the second key"}
HALF: Privacy = {"identity": "hmac", "key": "the first key"}
OTHER_HALF: Privacy = {"endpoint": "hmac", "key": "the first key"}
DROPPED: Privacy = {"identity": "drop", "endpoint": "drop"}


def configure(scenario: Scenario, privacy: Privacy) -> None:
    scenario.settings["privacy"] = privacy


def settle(scenario: Scenario, privacy: Privacy = KEEP) -> set[str]:
    """Fill a warehouse with active, deleted, past, returned and rejected rows; returns the names in them."""
    configure(scenario, privacy)
    service = scenario.services[0]
    names: set[str] = set()
    for number, sid in enumerate(service.sids()[:12]):
        who = f"Zoë O'Hara+{number}@x.example"
        service.change(
            sid, identity=who, endpoint=f"{who}-endpoint", device={"of": [who], "n": 1.5}
        )
    service.change(service.sids()[1], url=f"https://x.example/{quote('Zoë')} O'Hara+1@x.example")
    for one in scenario.services:
        names |= {row[name] for row in one.bindings.values() for name in ("identity", "endpoint")}
    scenario.sync()
    service.touch(5)
    service.delete(3)
    scenario.sync()
    service.change(service.sids()[0], date_updated="never")
    for number in (1, 2):
        who = f"listed{number}@x.example"
        service.put({"sid": "no", "identity": who, "x": [who]}, key=f"odd{number}")
        names.add(who)
    scenario.sync()
    service.touch(8)
    service.bring_back(1)
    scenario.sync()
    return names


def named_in(text: str, names: set[str]) -> list[str]:
    spelled = {one for name in names for one in (name, quote(name), quote(name, safe=""))}
    assert len(spelled) > 20
    return [one for one in spelled if one in text]


def rekey(scenario: Scenario, *arguments: str, expect: int = 0) -> dict[str, Any]:
    return scenario.run("rekey", "--json", *arguments, expect=expect).json


def rewritten(outcome: dict[str, Any]) -> dict[str, int]:
    return {name: tally["rewritten"] for name, tally in outcome["tables"].items()}


def left(outcome: dict[str, Any]) -> dict[str, int]:
    return {name: tally["left"] for name, tally in outcome["tables"].items()}


def image(scenario: Scenario) -> dict[str, list[dict[str, Any]]]:
    """Every row that there is, but for the leases."""
    tables = {
        **scenario.image(),
        "rules": scenario.query("SELECT * FROM privacy_rules ORDER BY state"),
    }
    return {name: rows for name, rows in tables.items() if name != "sync_leases"}


def size(scenario: Scenario, table: str, where: str = "1 = 1") -> int:
    return int(scenario.query(f"SELECT count(*) AS n FROM {table} WHERE {where}")[0]["n"])


WRITERS = [
    ("sync", "--json"),
    ("sync", "--dry-run", "--json"),
    ("backfill", "--type", "apn", "--json"),
    ("rejects", "retry", "--json"),
]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (KEEP, HASHED, ["privacy.identity (keep → hmac)", "privacy.endpoint (keep → hmac)"]),
        (HASHED, OTHER_KEY, ["privacy.key"]),
        (HASHED, {**HASHED, "endpoint": "keep"}, ["privacy.endpoint (hmac → keep)"]),
        (DROPPED, KEEP, ["privacy.identity (drop → keep)", "privacy.endpoint (drop → keep)"]),
    ],
)
def test_a_changed_rule_is_noticed_before_anything_is_done(
    scenario: Scenario, before: Privacy, after: Privacy, told: list[str]
) -> None:
    """One run by another key or mode would leave a warehouse in which nobody can tell which row is hidden how."""
    settle(scenario, before)
    stored, asked = image(scenario), scenario.interceptor.requests
    configure(scenario, after)
    for command in WRITERS:
        result = scenario.run(*command, expect=2)
        message = result.json["error"]["message"]
        assert "bindings-etl rekey --dry-run" in message
        assert f"different: {', '.join(told)}." in message
        assert "key" not in result.out.replace("privacy.key", "").replace("rekey", "")
    assert (image(scenario), scenario.interceptor.requests) == (stored, asked)
    [finding] = [
        one
        for one in scenario.run("check", "--json", expect=2).json["findings"]
        if one["subject"] == "privacy"
    ]
    assert not finding["ok"]
    configure(scenario, before)
    assert changes(scenario.sync()) == {"rejected": 3}


def test_a_service_is_not_retired_by_other_rules(scenario: Scenario) -> None:
    """Its last images would go into the history by rules of which the warehouse knows nothing."""
    scenario.sync()
    scenario.account["services"] = [scenario.services[0].sid]
    configure(scenario, HASHED)
    stored = image(scenario)
    for option in ([], ["--dry-run"]):
        scenario.run("retire", "--service", scenario.services[1].sid, *option, expect=2)
    assert image(scenario) == stored


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (KEEP, HASHED),
        (KEEP, DROPPED),
        (KEEP, HALF),
        (KEEP, OTHER_HALF),
        (KEEP, {"identity": "drop"}),
        (KEEP, {"identity": "hmac", "endpoint": "drop", "key": "k"}),
        (HASHED, DROPPED),
        (HASHED, {**HASHED, "identity": "drop"}),
        (HALF, DROPPED),
        (OTHER_HALF, HASHED),
    ],
)
def test_what_is_rewritten_is_what_the_next_sync_would_write(
    scenario: Scenario, before: Privacy, after: Privacy
) -> None:
    """Every row would change once more, and each change would be told as one at Twilio."""
    names = settle(scenario, before)
    history = scenario.query("SELECT sid, valid_from, valid_to, is_deleted FROM binding_history")
    stamps = scenario.query("SELECT sid, first_seen_at, changed_at, deleted_at FROM bindings")
    configure(scenario, after)
    stored = everything(scenario)
    planned = rekey(scenario, "--dry-run")
    assert everything(scenario) == stored
    done = rekey(scenario)
    assert (done["tables"], done["notes"]) == (planned["tables"], [])
    assert rewritten(done)["bindings"] > 300
    assert rewritten(done)["binding_versions"] > 10
    assert rewritten(done)["rejected_bindings"] >= 1
    assert history == scenario.query(
        "SELECT sid, valid_from, valid_to, is_deleted FROM binding_history"
    )
    assert stamps == scenario.query(
        "SELECT sid, first_seen_at, changed_at, deleted_at FROM bindings"
    )
    shown = {name for name in ("identity", "endpoint") if after.get(name, "keep") == "keep"}
    if not shown:
        assert named_in(everything(scenario), names) == []
    versions = scenario.query("SELECT * FROM binding_versions")
    again = scenario.sync()
    assert changes(again) == {"rejected": 3}
    assert again.totals["unchanged"] == sum(len(one.bindings) for one in scenario.services) - 1
    assert scenario.query("SELECT * FROM binding_versions") == versions
    assert rekey(scenario)["tables"] == rekey(scenario, "--dry-run")["tables"]
    assert sum(rewritten(rekey(scenario)).values()) == 0


@pytest.mark.parametrize("after", [HASHED, {"identity": "drop"}])
def test_an_endpoint_that_may_be_plain_is_hidden_in_doubt(
    scenario: Scenario, after: Privacy
) -> None:
    """Those that hold a hashed identity are hashed, and device tokens look like hashes: which is which does not show."""
    settle(scenario, HALF)
    plain = scenario.query("SELECT endpoint FROM bindings WHERE length(endpoint) = 64")
    assert 0 < len(plain) < 350
    configure(scenario, after)
    rekey(scenario)
    stored = everything(scenario)
    assert [one for one in plain if one["endpoint"] in stored] == []
    assert set(changes(scenario.sync())) == {"updated", "rejected"}
    assert changes(scenario.sync()) == {"rejected": 3}


def test_rewritten_rows_are_known_by_their_bytes_after_one_more_sync(scenario: Scenario) -> None:
    """Looked into at every run for good, a warehouse of a million rows would cost 13 s more each time."""
    settle(scenario)
    configure(scenario, HASHED)
    rekey(scenario)
    stale = f"source_hash = '{'0' * 32}' AND deleted_at IS NULL"
    assert size(scenario, "bindings", stale) == 348
    others = "SELECT sid, content_hash, changed_at, deleted_at, run_id FROM bindings"
    stored = scenario.query(others)
    assert scenario.sync("--dry-run").totals["updated"] == 0
    assert size(scenario, "bindings", stale) == 348
    scenario.sync()
    assert scenario.query(others) == stored
    assert size(scenario, "bindings", stale) == 1  # in quarantine
    rows = scenario.query("SELECT * FROM bindings")
    scenario.sync()
    assert scenario.query("SELECT * FROM bindings") == rows


def test_nobody_is_named_anywhere_afterwards(scenario: Scenario) -> None:
    """A name in one place is a name that was not hidden: history, deleted rows, quarantine, stages, drift."""
    service = scenario.services[0]
    who = "ada.lovelace@x.example"
    for sid in service.sids()[20:22]:
        service.change(sid, identity=who, binding_type=f"web-{who}", **{f"of {who}": 1})
    names = settle(scenario) | {who}
    scenario.simulator.faults.add("forbidden", only_pages=[1], service=service.sid)
    service.touch(60)
    scenario.sync(expect=3)
    assert size(scenario, "scan_staged") > 0
    assert who in json.dumps(scenario.query("SELECT name FROM schema_drift"))
    configure(scenario, HASHED)
    result = scenario.run("rekey", "--log-level", "debug")
    assert named_in(everything(scenario) + result.out + result.err, names) == []
    assert size(scenario, "scan_staged") == 0
    fingerprints = scenario.query("SELECT fingerprint FROM rejected_bindings")
    scenario.simulator.faults.clear()
    scenario.sync()
    assert scenario.query("SELECT fingerprint FROM rejected_bindings") == fingerprints


def test_rejects_that_become_the_same_are_one(scenario: Scenario) -> None:
    """Without its names a reject without a SID may be told from no other, and a key holds one of each."""
    settle(scenario)
    assert size(scenario, "rejected_bindings", "sid IS NULL") == 2
    configure(scenario, DROPPED)
    rekey(scenario)
    assert size(scenario, "rejected_bindings", "sid IS NULL") == 1
    scenario.sync()
    assert size(scenario, "rejected_bindings", "resolved_at IS NULL") == 2


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (HASHED, KEEP, "identity (hmac → keep)"),
        (HASHED, OTHER_KEY, "identity (with another key)"),
        (DROPPED, KEEP, "identity (drop → keep)"),
        (DROPPED, HASHED, "identity (drop → hmac)"),
    ],
)
def test_what_cannot_be_rewritten_is_named_and_the_next_sync_does_it(
    make_scenario: MakeScenario, before: Privacy, after: Privacy, told: str
) -> None:
    """Whoever changes a key has to know which rows keep the old one's hashes, and how to be rid of them."""
    scenario = make_scenario((30,))
    configure(scenario, before)
    scenario.sync()
    scenario.services[0].delete(2)
    scenario.sync()
    configure(scenario, after)
    outcome = rekey(scenario)
    assert sum(rewritten(outcome).values()) == 0
    assert left(outcome) == {"bindings": 30, "binding_versions": 2, "rejected_bindings": 0}
    assert told in outcome["notes"][0]
    assert "next complete sync" in outcome["notes"][0]
    assert ("privacy.old_keys" in outcome["notes"][0]) == (before is HASHED)
    assert changes(scenario.sync()) == {"updated": 28}
    if after is KEEP:
        scenario.assert_equal_to_world()
    assert changes(scenario.sync()) == {}


@pytest.mark.parametrize(
    "stride",
    [7, pytest.param(1, marks=pytest.mark.nightly)],
)
def test_a_re_keying_that_is_killed_goes_on_where_it_was(scenario: Scenario, stride: int) -> None:
    """Rewritten twice a hash becomes the hash of a hash; passed over a name stays: and in between nobody may write."""
    settle(scenario)
    configure(scenario, HASHED)
    path = scenario.warehouse_url.removeprefix("sqlite:///")
    scenario.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, f"{path}.before")
    with forking() as forker:

        def run(at: int | None) -> int:
            assert forker.stdin
            assert forker.stdout
            order = {"arguments": ["rekey", "--config", str(scenario.write_config())], "at": at}
            print(json.dumps({**order, "rows_at_once": 100}), file=forker.stdin, flush=True)
            return int(forker.stdout.readline())

        def reset() -> None:
            for end in ("-wal", "-shm"):
                (scenario.folder / f"warehouse.sqlite{end}").unlink(missing_ok=True)
            shutil.copy(f"{path}.before", path)

        assert run(None) == 0
        undisturbed, at, refused = _told(scenario), 0, set()
        while True:
            at += stride
            reset()
            if run(at) == 0:
                break
            stored = image(scenario)
            if size(scenario, "privacy_rules", "state = 'next'"):
                refused.add(scenario.sync(expect=None).code)
                scenario.expire_leases()
                refused.add(scenario.sync(expect=None).code)
                assert image(scenario)["bindings"] == stored["bindings"]
            scenario.expire_leases()
            assert run(None) == 0, at
            assert _told(scenario) == undisturbed, at
    assert at > 50
    assert refused == {6, 2}
    assert CRASHED not in refused
    assert changes(scenario.sync()) == {"rejected": 3}


def _told(scenario: Scenario) -> dict[str, list[dict[str, Any]]]:
    """What stands in the tables, whichever runs have brought it there."""
    told = image(scenario)
    return {
        table: [
            {name: value for name, value in row.items() if name != "run_id"} for row in told[table]
        ]
        for table in ("bindings", "binding_versions", "rejected_bindings", "scan_staged", "rules")
    }


def test_a_re_keying_to_one_aim_is_not_finished_with_another(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the rows would be hashed by one key and half by another."""
    settle(scenario)
    configure(scenario, HASHED)
    monkeypatch.setattr(rewriting, "AT_ONCE", 100)
    scenario.execute(
        "CREATE TRIGGER broken BEFORE UPDATE ON binding_versions BEGIN SELECT RAISE(ABORT, ''); END"
    )
    rekey(scenario, expect=7)
    scenario.execute("DROP TRIGGER broken")
    assert size(scenario, "sync_leases") == 0
    stored = image(scenario)
    for other in (OTHER_KEY, DROPPED, KEEP):
        configure(scenario, other)
        assert "finish it" in rekey(scenario, expect=2)["error"]["message"]
    assert image(scenario) == stored
    configure(scenario, HASHED)
    first = scenario.query("SELECT DISTINCT run_id FROM bindings")
    assert rewritten(rekey(scenario))["bindings"] == 0
    assert scenario.query("SELECT DISTINCT run_id FROM bindings") == first
    assert scenario.query("SELECT mode, status FROM sync_runs ORDER BY id DESC LIMIT 2") == [
        {"mode": "rekey", "status": "succeeded"},
        {"mode": "rekey", "status": "failed"},
    ]
    assert changes(scenario.sync()) == {"rejected": 3}


def test_a_live_run_is_waited_for(scenario: Scenario) -> None:
    """What a scan has staged by the old rules would be published over rewritten rows."""
    scenario.sync()
    configure(scenario, HASHED)
    hold_lease(scenario, scenario.services[0].sid)
    stored = image(scenario)
    assert "is alive" in rekey(scenario, expect=6)["error"]["message"]
    assert image(scenario) == stored


def test_a_run_that_slept_through_a_re_keying_writes_nothing(scenario: Scenario) -> None:
    """Its configuration was right when it began; its rows would be plain ones among hashed ones."""
    scenario.sync()
    scenario.services[0].touch(5)

    def change(request: Any) -> None:
        if (
            request.is_listing
            and request.page == 0
            and not size(scenario, "privacy_rules", "identity = 'hmac'")
        ):
            scenario.expire_leases()
            scenario.execute("DELETE FROM sync_leases")
            scenario.execute("UPDATE privacy_rules SET identity = 'hmac', key_check = 'x'")

    scenario.account["concurrency"] = 1
    scenario.interceptor.watch = change
    stored = scenario.query("SELECT * FROM bindings")
    result = scenario.sync(expect=None)
    assert result.code in (4, 6)
    assert scenario.query("SELECT * FROM bindings") == stored


def test_exports_deliver_what_was_rewritten(scenario: Scenario) -> None:
    """Plain identities would stay in every other warehouse that follows this one."""
    scenario.sync()
    scenario.services[0].delete(2)
    scenario.sync()
    until = scenario.run(
        "export", "--json", "--format", "jsonl", "--out", str(scenario.folder / "1")
    ).json
    moment = scenario.query("SELECT max(finished_at) AS at FROM sync_runs")[0]["at"]
    configure(scenario, HASHED)
    rekey(scenario)
    for number, since in enumerate((str(until["until"]), f"{moment}Z".replace(" ", "T"))):
        folder = scenario.folder / f"since{number}"
        options = ("--format", "jsonl", "--since", since, "--out", str(folder))
        assert scenario.run("export", "--json", *options).json["rows"] == 350


def test_a_person_is_found_whatever_the_re_keying_has_left(scenario: Scenario) -> None:
    """`erase` that finds nobody tells a person who asked that there is nothing."""
    who = "ada@x.example"
    sids = scenario.services[0].sids()[:3]
    for sid in sids:
        scenario.services[0].change(sid, identity=who)
    configure(scenario, HASHED)
    scenario.sync()
    scenario.services[0].remove(sids[:1])
    scenario.sync()
    configure(scenario, OTHER_KEY)
    error = scenario.run("erase", "--identity", who, "--json", expect=2).json["error"]["message"]
    assert "privacy.old_keys" in error
    configure(scenario, {**OTHER_KEY, "old_keys": ["the first key"]})
    assert (
        scenario.run("erase", "--identity", who, "--dry-run", "--json").json["removed"]["bindings"]
        == 3
    )
    rekey(scenario)
    scenario.sync()
    assert scenario.run("erase", "--identity", who, "--json").json["removed"]["bindings"] == 3


def test_a_person_who_was_hashed_twice_is_found(make_scenario: MakeScenario) -> None:
    """Deleted rows keep their hashes when identities are kept again, and are hashed with the rest when they are not."""
    scenario = make_scenario((30,))
    service = scenario.services[0]
    who = "ada@x.example"
    for sid in service.sids()[:2]:
        service.change(sid, identity=who)
    configure(scenario, HASHED)
    scenario.sync()
    service.remove(service.sids()[:1])
    scenario.sync()
    for privacy in ({**KEEP, "old_keys": ["the first key"]}, HASHED):
        configure(scenario, privacy)
        rekey(scenario)
        scenario.sync()
    scenario.execute("DELETE FROM binding_versions")
    assert scenario.run("erase", "--identity", who, "--json").json["removed"]["bindings"] == 2


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (KEEP, HASHED, "privacy.identity (keep → hmac), privacy.endpoint (keep → hmac)"),
        (HASHED, KEEP, "privacy.identity (hmac → keep)"),
        (HASHED, DROPPED, "privacy.identity (hmac → drop), privacy.endpoint (hmac → drop)"),
        (DROPPED, HALF, "privacy.identity (drop → hmac), privacy.endpoint (drop → keep)"),
    ],
)
def test_a_warehouse_of_before_shows_by_what_rules_it_was_written(
    scenario: Scenario, before: Privacy, after: Privacy, told: str
) -> None:
    """Whoever upgrades and changes the rules at once would mix plain rows and hidden ones."""
    settle(scenario, before)
    scenario.execute("DELETE FROM privacy_rules")
    configure(scenario, after)
    for command in WRITERS:
        assert told in scenario.run(*command, expect=2).json["error"]["message"]
    assert size(scenario, "privacy_rules") == 0
    rekey(scenario)
    scenario.sync()
    assert size(scenario, "privacy_rules") == 1


@pytest.mark.parametrize("privacy", [KEEP, HASHED, DROPPED, HALF, OTHER_HALF])
def test_a_warehouse_of_before_goes_on_by_the_same_rules(
    scenario: Scenario, privacy: Privacy
) -> None:
    """An upgrade that stops every run until a person has looked at it is none."""
    settle(scenario, privacy)
    scenario.execute("DELETE FROM privacy_rules")
    assert changes(scenario.sync("--dry-run")) == {"rejected": 3}
    assert size(scenario, "privacy_rules") == 0
    assert changes(scenario.sync()) == {"rejected": 3}
    assert size(scenario, "privacy_rules") == 1
    assert "nothing to do" in scenario.run("rekey").out
