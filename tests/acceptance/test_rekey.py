"""A changed privacy mode or key is noticed before anything is written, and `rekey` goes on from there (docs/promises.md §14)."""

import json
import shutil
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from etl.warehouse import rewriting
from tests.acceptance.crashing import CRASHED, forking
from tests.acceptance.test_erase import everything
from tests.acceptance.test_rejects_command import hold_lease
from tests.acceptance.trial import Trial, changes

MakeTrial = Callable[..., Trial]
Privacy = dict[str, Any]

KEEP: Privacy = {}
HASHED: Privacy = {"identity": "hmac", "endpoint": "hmac", "key": "the first key"}
OTHER_KEY: Privacy = {**HASHED, "key": "the second key"}
HALF: Privacy = {"identity": "hmac", "key": "the first key"}
OTHER_HALF: Privacy = {"endpoint": "hmac", "key": "the first key"}
DROPPED: Privacy = {"identity": "drop", "endpoint": "drop"}


def configure(trial: Trial, privacy: Privacy) -> None:
    trial.settings["privacy"] = privacy


def settle(trial: Trial, privacy: Privacy = KEEP) -> set[str]:
    """Fill a warehouse with active, deleted, past, returned and rejected rows; returns the names in them."""
    configure(trial, privacy)
    service = trial.services[0]
    names: set[str] = set()
    for number, sid in enumerate(service.sids()[:12]):
        who = f"Zoë O'Hara+{number}@x.example"
        service.change(
            sid, identity=who, endpoint=f"{who}-endpoint", device={"of": [who], "n": 1.5}
        )
    service.change(service.sids()[1], url=f"https://x.example/{quote('Zoë')} O'Hara+1@x.example")
    for one in trial.services:
        names |= {row[name] for row in one.bindings.values() for name in ("identity", "endpoint")}
    trial.sync()
    service.touch(5)
    service.delete(3)
    trial.sync()
    service.change(service.sids()[0], date_updated="never")
    for number in (1, 2):
        who = f"listed{number}@x.example"
        service.put({"sid": "no", "identity": who, "x": [who]}, key=f"odd{number}")
        names.add(who)
    trial.sync()
    service.touch(8)
    service.bring_back(1)
    trial.sync()
    return names


def named_in(text: str, names: set[str]) -> list[str]:
    spelled = {one for name in names for one in (name, quote(name), quote(name, safe=""))}
    assert len(spelled) > 20
    return [one for one in spelled if one in text]


def rekey(trial: Trial, *arguments: str, expect: int = 0) -> dict[str, Any]:
    return trial.run("rekey", "--json", *arguments, expect=expect).json


def rewritten(outcome: dict[str, Any]) -> dict[str, int]:
    return {name: tally["rewritten"] for name, tally in outcome["tables"].items()}


def left(outcome: dict[str, Any]) -> dict[str, int]:
    return {name: tally["left"] for name, tally in outcome["tables"].items()}


def image(trial: Trial) -> dict[str, list[dict[str, Any]]]:
    """Every row that there is, but for the leases."""
    tables = {**trial.image(), "rules": trial.query("SELECT * FROM privacy_rules ORDER BY state")}
    return {name: rows for name, rows in tables.items() if name != "sync_leases"}


def size(trial: Trial, table: str, where: str = "1 = 1") -> int:
    return int(trial.query(f"SELECT count(*) AS n FROM {table} WHERE {where}")[0]["n"])


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
    trial: Trial, before: Privacy, after: Privacy, told: list[str]
) -> None:
    """One run by another key or mode would leave a warehouse in which nobody can tell which row is hidden how."""
    settle(trial, before)
    stored, asked = image(trial), trial.front.requests
    configure(trial, after)
    for command in WRITERS:
        result = trial.run(*command, expect=2)
        message = result.json["error"]["message"]
        assert "bindings-etl rekey --dry-run" in message
        assert f"different: {', '.join(told)}." in message
        assert "key" not in result.out.replace("privacy.key", "").replace("rekey", "")
    assert (image(trial), trial.front.requests) == (stored, asked)
    [finding] = [
        one
        for one in trial.run("check", "--json", expect=2).json["findings"]
        if one["subject"] == "privacy"
    ]
    assert not finding["ok"]
    configure(trial, before)
    assert changes(trial.sync()) == {"rejected": 3}


def test_a_service_is_not_retired_by_other_rules(trial: Trial) -> None:
    """Its last images would go into the history by rules of which the warehouse knows nothing."""
    trial.sync()
    trial.account["services"] = [trial.services[0].sid]
    configure(trial, HASHED)
    stored = image(trial)
    for option in ([], ["--dry-run"]):
        trial.run("retire", "--service", trial.services[1].sid, *option, expect=2)
    assert image(trial) == stored


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
    trial: Trial, before: Privacy, after: Privacy
) -> None:
    """Every row would change once more, and each change would be told as one at Twilio."""
    names = settle(trial, before)
    history = trial.query("SELECT sid, valid_from, valid_to, is_deleted FROM binding_history")
    stamps = trial.query("SELECT sid, first_seen_at, changed_at, deleted_at FROM bindings")
    configure(trial, after)
    stored = everything(trial)
    planned = rekey(trial, "--dry-run")
    assert everything(trial) == stored
    done = rekey(trial)
    assert (done["tables"], done["notes"]) == (planned["tables"], [])
    assert rewritten(done)["bindings"] > 300
    assert rewritten(done)["binding_versions"] > 10
    assert rewritten(done)["rejected_bindings"] >= 1
    assert history == trial.query(
        "SELECT sid, valid_from, valid_to, is_deleted FROM binding_history"
    )
    assert stamps == trial.query("SELECT sid, first_seen_at, changed_at, deleted_at FROM bindings")
    shown = {name for name in ("identity", "endpoint") if after.get(name, "keep") == "keep"}
    if not shown:
        assert named_in(everything(trial), names) == []
    versions = trial.query("SELECT * FROM binding_versions")
    again = trial.sync()
    assert changes(again) == {"rejected": 3}
    assert again.totals["unchanged"] == sum(len(one.bindings) for one in trial.services) - 1
    assert trial.query("SELECT * FROM binding_versions") == versions
    assert rekey(trial)["tables"] == rekey(trial, "--dry-run")["tables"]
    assert sum(rewritten(rekey(trial)).values()) == 0


@pytest.mark.parametrize("after", [HASHED, {"identity": "drop"}])
def test_an_endpoint_that_may_be_plain_is_hidden_in_doubt(trial: Trial, after: Privacy) -> None:
    """Those that hold a hashed identity are hashed, and device tokens look like hashes: which is which does not show."""
    settle(trial, HALF)
    plain = trial.query("SELECT endpoint FROM bindings WHERE length(endpoint) = 64")
    assert 0 < len(plain) < 350
    configure(trial, after)
    rekey(trial)
    stored = everything(trial)
    assert [one for one in plain if one["endpoint"] in stored] == []
    assert set(changes(trial.sync())) == {"updated", "rejected"}
    assert changes(trial.sync()) == {"rejected": 3}


def test_rewritten_rows_are_known_by_their_bytes_after_one_more_sync(trial: Trial) -> None:
    """Looked into at every run for good, a warehouse of a million rows would cost 13 s more each time."""
    settle(trial)
    configure(trial, HASHED)
    rekey(trial)
    stale = f"source_hash = '{'0' * 32}' AND deleted_at IS NULL"
    assert size(trial, "bindings", stale) == 348
    others = "SELECT sid, content_hash, changed_at, deleted_at, run_id FROM bindings"
    stored = trial.query(others)
    assert trial.sync("--dry-run").totals["updated"] == 0
    assert size(trial, "bindings", stale) == 348
    trial.sync()
    assert trial.query(others) == stored
    assert size(trial, "bindings", stale) == 1  # in quarantine
    rows = trial.query("SELECT * FROM bindings")
    trial.sync()
    assert trial.query("SELECT * FROM bindings") == rows


def test_nobody_is_named_anywhere_afterwards(trial: Trial) -> None:
    """A name in one place is a name that was not hidden: history, deleted rows, quarantine, stages, drift."""
    service = trial.services[0]
    who = "ada.lovelace@x.example"
    for sid in service.sids()[20:22]:
        service.change(sid, identity=who, binding_type=f"web-{who}", **{f"of {who}": 1})
    names = settle(trial) | {who}
    trial.simulator.faults.add("forbidden", only_pages=[1], service=service.sid)
    service.touch(60)
    trial.sync(expect=3)
    assert size(trial, "scan_staged") > 0
    assert who in json.dumps(trial.query("SELECT name FROM schema_drift"))
    configure(trial, HASHED)
    result = trial.run("rekey", "--log-level", "debug")
    assert named_in(everything(trial) + result.out + result.err, names) == []
    assert size(trial, "scan_staged") == 0
    fingerprints = trial.query("SELECT fingerprint FROM rejected_bindings")
    trial.simulator.faults.clear()
    trial.sync()
    assert trial.query("SELECT fingerprint FROM rejected_bindings") == fingerprints


def test_rejects_that_become_the_same_are_one(trial: Trial) -> None:
    """Without its names a reject without a SID may be told from no other, and a key holds one of each."""
    settle(trial)
    assert size(trial, "rejected_bindings", "sid IS NULL") == 2
    configure(trial, DROPPED)
    rekey(trial)
    assert size(trial, "rejected_bindings", "sid IS NULL") == 1
    trial.sync()
    assert size(trial, "rejected_bindings", "resolved_at IS NULL") == 2


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
    make_trial: MakeTrial, before: Privacy, after: Privacy, told: str
) -> None:
    """Whoever changes a key has to know which rows keep the old one's hashes, and how to be rid of them."""
    trial = make_trial((30,))
    configure(trial, before)
    trial.sync()
    trial.services[0].delete(2)
    trial.sync()
    configure(trial, after)
    outcome = rekey(trial)
    assert sum(rewritten(outcome).values()) == 0
    assert left(outcome) == {"bindings": 30, "binding_versions": 2, "rejected_bindings": 0}
    assert told in outcome["notes"][0]
    assert "next complete sync" in outcome["notes"][0]
    assert ("privacy.old_keys" in outcome["notes"][0]) == (before is HASHED)
    assert changes(trial.sync()) == {"updated": 28}
    if after is KEEP:
        trial.assert_equal_to_world()
    assert changes(trial.sync()) == {}


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_a_re_keying_that_is_killed_goes_on_where_it_was(trial: Trial, stride: int) -> None:
    """Rewritten twice a hash becomes the hash of a hash; passed over a name stays: and in between nobody may write."""
    settle(trial)
    configure(trial, HASHED)
    path = trial.warehouse_url.removeprefix("sqlite:///")
    trial.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, f"{path}.before")
    with forking() as forker:

        def run(at: int | None) -> int:
            assert forker.stdin
            assert forker.stdout
            order = {"arguments": ["rekey", "--config", str(trial.write_config())], "at": at}
            print(json.dumps({**order, "rows_at_once": 100}), file=forker.stdin, flush=True)
            return int(forker.stdout.readline())

        def reset() -> None:
            for end in ("-wal", "-shm"):
                (trial.folder / f"warehouse.sqlite{end}").unlink(missing_ok=True)
            shutil.copy(f"{path}.before", path)

        assert run(None) == 0
        undisturbed, at, refused = _told(trial), 0, set()
        while True:
            at += stride
            reset()
            if run(at) == 0:
                break
            stored = image(trial)
            if size(trial, "privacy_rules", "state = 'next'"):
                refused.add(trial.sync(expect=None).code)
                trial.expire_leases()
                refused.add(trial.sync(expect=None).code)
                assert image(trial)["bindings"] == stored["bindings"]
            trial.expire_leases()
            assert run(None) == 0, at
            assert _told(trial) == undisturbed, at
    assert at > 50
    assert refused == {6, 2}
    assert CRASHED not in refused
    assert changes(trial.sync()) == {"rejected": 3}


def _told(trial: Trial) -> dict[str, list[dict[str, Any]]]:
    """What stands in the tables, whichever runs have brought it there."""
    told = image(trial)
    return {
        table: [
            {name: value for name, value in row.items() if name != "run_id"} for row in told[table]
        ]
        for table in ("bindings", "binding_versions", "rejected_bindings", "scan_staged", "rules")
    }


def test_a_re_keying_to_one_aim_is_not_finished_with_another(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the rows would be hashed by one key and half by another."""
    settle(trial)
    configure(trial, HASHED)
    monkeypatch.setattr(rewriting, "AT_ONCE", 100)
    trial.execute(
        "CREATE TRIGGER broken BEFORE UPDATE ON binding_versions BEGIN SELECT RAISE(ABORT, ''); END"
    )
    rekey(trial, expect=7)
    trial.execute("DROP TRIGGER broken")
    assert size(trial, "sync_leases") == 0
    stored = image(trial)
    for other in (OTHER_KEY, DROPPED, KEEP):
        configure(trial, other)
        assert "finish it" in rekey(trial, expect=2)["error"]["message"]
    assert image(trial) == stored
    configure(trial, HASHED)
    first = trial.query("SELECT DISTINCT run_id FROM bindings")
    assert rewritten(rekey(trial))["bindings"] == 0
    assert trial.query("SELECT DISTINCT run_id FROM bindings") == first
    assert trial.query("SELECT mode, status FROM sync_runs ORDER BY id DESC LIMIT 2") == [
        {"mode": "rekey", "status": "succeeded"},
        {"mode": "rekey", "status": "failed"},
    ]
    assert changes(trial.sync()) == {"rejected": 3}


def test_a_live_run_is_waited_for(trial: Trial) -> None:
    """What a scan has staged by the old rules would be published over rewritten rows."""
    trial.sync()
    configure(trial, HASHED)
    hold_lease(trial, trial.services[0].sid)
    stored = image(trial)
    assert "is alive" in rekey(trial, expect=6)["error"]["message"]
    assert image(trial) == stored


def test_a_run_that_slept_through_a_re_keying_writes_nothing(trial: Trial) -> None:
    """Its configuration was right when it began; its rows would be plain ones among hashed ones."""
    trial.sync()
    trial.services[0].touch(5)

    def change(request: Any) -> None:
        if (
            request.is_listing
            and request.page == 0
            and not size(trial, "privacy_rules", "identity = 'hmac'")
        ):
            trial.expire_leases()
            trial.execute("DELETE FROM sync_leases")
            trial.execute("UPDATE privacy_rules SET identity = 'hmac', key_check = 'x'")

    trial.account["concurrency"] = 1
    trial.front.watch = change
    stored = trial.query("SELECT * FROM bindings")
    result = trial.sync(expect=None)
    assert result.code in (4, 6)
    assert trial.query("SELECT * FROM bindings") == stored


def test_exports_deliver_what_was_rewritten(trial: Trial) -> None:
    """Plain identities would stay in every other warehouse that follows this one."""
    trial.sync()
    trial.services[0].delete(2)
    trial.sync()
    until = trial.run(
        "export", "--json", "--format", "jsonl", "--out", str(trial.folder / "1")
    ).json
    moment = trial.query("SELECT max(finished_at) AS at FROM sync_runs")[0]["at"]
    configure(trial, HASHED)
    rekey(trial)
    for number, since in enumerate((str(until["until"]), f"{moment}Z".replace(" ", "T"))):
        folder = trial.folder / f"since{number}"
        options = ("--format", "jsonl", "--since", since, "--out", str(folder))
        assert trial.run("export", "--json", *options).json["rows"] == 350


def test_a_person_is_found_whatever_the_re_keying_has_left(trial: Trial) -> None:
    """`erase` that finds nobody tells a person who asked that there is nothing."""
    who = "ada@x.example"
    sids = trial.services[0].sids()[:3]
    for sid in sids:
        trial.services[0].change(sid, identity=who)
    configure(trial, HASHED)
    trial.sync()
    trial.services[0].remove(sids[:1])
    trial.sync()
    configure(trial, OTHER_KEY)
    error = trial.run("erase", "--identity", who, "--json", expect=2).json["error"]["message"]
    assert "privacy.old_keys" in error
    configure(trial, {**OTHER_KEY, "old_keys": ["the first key"]})
    assert (
        trial.run("erase", "--identity", who, "--dry-run", "--json").json["removed"]["bindings"]
        == 3
    )
    rekey(trial)
    trial.sync()
    assert trial.run("erase", "--identity", who, "--json").json["removed"]["bindings"] == 3


def test_a_person_who_was_hashed_twice_is_found(make_trial: MakeTrial) -> None:
    """Deleted rows keep their hashes when identities are kept again, and are hashed with the rest when they are not."""
    trial = make_trial((30,))
    service = trial.services[0]
    who = "ada@x.example"
    for sid in service.sids()[:2]:
        service.change(sid, identity=who)
    configure(trial, HASHED)
    trial.sync()
    service.remove(service.sids()[:1])
    trial.sync()
    for privacy in ({**KEEP, "old_keys": ["the first key"]}, HASHED):
        configure(trial, privacy)
        rekey(trial)
        trial.sync()
    trial.execute("DELETE FROM binding_versions")
    assert trial.run("erase", "--identity", who, "--json").json["removed"]["bindings"] == 2


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
    trial: Trial, before: Privacy, after: Privacy, told: str
) -> None:
    """Whoever upgrades and changes the rules at once would mix plain rows and hidden ones."""
    settle(trial, before)
    trial.execute("DELETE FROM privacy_rules")
    configure(trial, after)
    for command in WRITERS:
        assert told in trial.run(*command, expect=2).json["error"]["message"]
    assert size(trial, "privacy_rules") == 0
    rekey(trial)
    trial.sync()
    assert size(trial, "privacy_rules") == 1


@pytest.mark.parametrize("privacy", [KEEP, HASHED, DROPPED, HALF, OTHER_HALF])
def test_a_warehouse_of_before_goes_on_by_the_same_rules(trial: Trial, privacy: Privacy) -> None:
    """An upgrade that stops every run until a person has looked at it is none."""
    settle(trial, privacy)
    trial.execute("DELETE FROM privacy_rules")
    assert changes(trial.sync("--dry-run")) == {"rejected": 3}
    assert size(trial, "privacy_rules") == 0
    assert changes(trial.sync()) == {"rejected": 3}
    assert size(trial, "privacy_rules") == 1
    assert "nothing to do" in trial.run("rekey").out
