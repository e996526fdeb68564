"""Rows rewritten to other privacy rules on every engine, and who may write meanwhile (docs/promises.md §14)."""

import json
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from etl import config, errors
from etl.config import Settings
from etl.domain.hiding import treat
from etl.domain.privacy import PrivacyRules
from etl.stopping import Stop
from etl.sync import rekey as rekeying
from etl.sync.privacy import require_agreement, rules_of
from etl.sync.session import ScanSession
from etl.warehouse import leases, privacy_rules, rewriting
from etl.warehouse.connection import Warehouse
from etl.warehouse.leases import Holder
from tests.acceptance.crashing import CRASHED, forking
from tests.acceptance.scenario import Scenario, changes
from tests.engines.scan_harness import SCOPE, SERVICE, ScanHarness, sent

HASHED = {"identity": "hmac", "endpoint": "hmac", "key": "a key of the warehouse"}


def test_rewritten_rows_are_what_a_sync_writes(
    scenario_on: Callable[..., Scenario], warehouse_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each engine keeps JSON and times in a form of its own, and the hash of a row is of none of them."""
    monkeypatch.setattr(rewriting, "AT_ONCE", 7)
    scenario = scenario_on(warehouse_url, (30,))
    service = scenario.services[0]
    names = {row[name] for row in service.bindings.values() for name in ("identity", "endpoint")}
    for number, sid in enumerate(service.sids()[:4]):
        service.change(sid, nested={"b": [1.50, {"z": 0, "aa": "ü\u2028"}], "a": None}, n=number)
    scenario.sync()
    for _ in range(3):
        service.touch(6)
        names |= {row["endpoint"] for row in service.bindings.values()}
        scenario.sync()
    service.delete(3)
    scenario.sync()
    service.change(service.sids()[0], date_updated="never")
    for number in (1, 2):
        service.put({"sid": "no", "identity": f"odd{number}@x.example"}, key=f"odd{number}")
        names.add(f"odd{number}@x.example")
    scenario.sync()
    stamps = scenario.query("SELECT sid, changed_at, deleted_at FROM bindings ORDER BY sid")
    images = scenario.query(
        "SELECT id, sid, valid_from, valid_to FROM binding_versions ORDER BY id"
    )
    scenario.settings["privacy"] = HASHED
    planned = scenario.run("rekey", "--dry-run", "--json").json["tables"]
    assert scenario.run("rekey", "--json").json["tables"] == planned
    assert planned["binding_versions"]["rewritten"] == len(images) > 18
    assert stamps == scenario.query("SELECT sid, changed_at, deleted_at FROM bindings ORDER BY sid")
    assert images == scenario.query(
        "SELECT id, sid, valid_from, valid_to FROM binding_versions ORDER BY id"
    )
    stored = json.dumps(
        [
            *scenario.query("SELECT * FROM bindings"),
            *scenario.query("SELECT * FROM binding_versions"),
            *scenario.query("SELECT * FROM rejected_bindings"),
        ],
        default=str,
        ensure_ascii=False,
    )
    assert [name for name in names if name in stored] == []
    assert changes(scenario.sync()) == {"rejected": 3}
    assert len(scenario.query("SELECT * FROM binding_versions")) == len(images)
    stale = f"SELECT sid FROM bindings WHERE deleted_at IS NULL AND source_hash = '{'0' * 32}'"
    assert len(scenario.query(stale)) == 1  # in quarantine
    scenario.settings["privacy"] = {"identity": "drop", "endpoint": "drop"}
    scenario.run("rekey")
    assert len(scenario.query("SELECT * FROM rejected_bindings")) == 2
    assert changes(scenario.sync()) == {"rejected": 3}


def test_a_killed_re_keying_goes_on_on_every_engine(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """What is rewritten twice is the hash of a hash, and what is passed over stays: in rows as in their past."""
    scenario = scenario_on(warehouse_url, (30,))
    service = scenario.services[0]
    scenario.sync()
    past = {row["endpoint"] for row in service.bindings.values()}
    service.touch(12)
    scenario.sync()
    assert len(scenario.query("SELECT * FROM binding_versions")) == 12
    scenario.settings["privacy"] = HASHED
    with forking() as forker:
        assert forker.stdin
        assert forker.stdout
        for at in (2, 17, 29, 41, 53):
            order = {"arguments": ["rekey", "--config", str(scenario.write_config())], "at": at}
            print(json.dumps({**order, "rows_at_once": 7}), file=forker.stdin, flush=True)
            assert int(forker.stdout.readline()) in (CRASHED, 0)
            scenario.expire_leases()
    scenario.run("rekey")
    hashed = {treat("hmac", HASHED["key"].encode(), one) for one in past}
    versions = scenario.query("SELECT endpoint FROM binding_versions")
    assert {row["endpoint"] for row in versions} <= hashed
    assert changes(scenario.sync()) == {}


class StopAfterPortions(Stop):
    """Asks to stop once so many portions are done."""

    def __init__(self, portions: int) -> None:
        super().__init__()
        self._portions = portions

    def check(self) -> None:
        self._portions -= 1
        if self._portions == 0:
            self.request("SIGTERM was received", 143)
        super().check()


def test_a_stopped_re_keying_is_gone_on_with(
    harness: ScanHarness, warehouse_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod that is evicted from a large warehouse would begin anew each time, and never be done."""
    monkeypatch.setattr(rewriting, "AT_ONCE", 2)
    warehouse = harness.warehouse
    harness.scan([sent(number) for number in range(7)])
    settings = settings_of(warehouse_url, identity="drop")
    agree(warehouse, PrivacyRules())
    with pytest.raises(errors.Interrupted):
        rekeying.rekey(settings, warehouse, StopAfterPortions(2), dry_run=False)
    assert warehouse.read(lambda conn: leases.live(conn, warehouse.engine)) == []
    assert [identity for (identity,) in harness.bindings("identity")].count(None) == 4
    planned = rekeying.rekey(settings, warehouse, Stop(), dry_run=True)
    done = rekeying.rekey(settings, warehouse, Stop(), dry_run=False)
    assert planned.tables["bindings"].rewritten == done.tables["bindings"].rewritten == 3
    assert {identity for (identity,) in harness.bindings("identity")} == {None}
    agree(warehouse, rules_of(settings))


def rules(key: str) -> PrivacyRules:
    return PrivacyRules("hmac", "keep", key)


def agree(warehouse: Warehouse, mine: PrivacyRules) -> None:
    warehouse.transact(lambda conn: require_agreement(conn, warehouse.engine, mine))


def test_of_two_first_runs_by_other_rules_one_is_refused(warehouse: Warehouse) -> None:
    """Both find an empty warehouse: were both to go on, its rows would be hashed by two keys."""
    refused: list[Exception] = []

    def begin(key: str) -> None:
        try:
            agree(warehouse, rules(key))
        except errors.ConfigurationError as error:
            refused.append(error)

    runs = [threading.Thread(target=begin, args=(key,)) for key in ("one", "other")]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(refused) == 1
    recorded = warehouse.read(privacy_rules.read)
    assert recorded.current in (rules("one"), rules("other"))


def settings_of(url: str, **privacy: Any) -> Settings:
    account = config.Account(
        name="main",
        account_sid="AC" + "a" * 32,
        api_key=SecretStr("SK1"),
        api_secret=SecretStr("s"),
    )
    return Settings(
        accounts=[account],
        warehouse=config.Warehouse(url=SecretStr(url)),
        privacy=config.Privacy(**privacy),
    )


def test_who_takes_a_lease_and_who_rewrites_exclude_each_other(
    warehouse: Warehouse, warehouse_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan that looks while the rewriting begins would see neither, and publish by the rules of before."""
    if warehouse.engine.single_writer:
        pytest.skip("one connection: there is no such moment")
    agree(warehouse, PrivacyRules())
    refused: list[errors.EtlError] = []
    ended = threading.Event()
    rewrite_some = rewriting.rewrite_some

    def rewrite_then(*arguments: Any) -> Any:
        assert ended.wait(60)
        return rewrite_some(*arguments)

    monkeypatch.setattr(rewriting, "rewrite_some", rewrite_then)

    def rewrite() -> None:
        try:
            settings = settings_of(warehouse_url, identity="drop")
            rekeying.rekey(settings, warehouse, Stop(), dry_run=False)
        except errors.LeaseHeld as error:
            refused.append(error)

    begun = threading.Thread(target=rewrite)

    def wait_a_moment(_conn: sa.Connection, _now: datetime) -> None:
        if begun.ident is None:
            begun.start()
            begun.join(timeout=0.5)  # it waits for this transaction, or undoes it

    holder = Holder("scan", 1, "host", 120)
    warehouse.transact(lambda conn: leases.lock_service(conn, warehouse.engine, SERVICE))
    session = ScanSession(warehouse, holder, SCOPE, PrivacyRules())
    try:
        session.open(wait_a_moment)
    except (errors.LeaseHeld, errors.ConfigurationError) as error:
        refused.append(error)
    ended.set()
    begun.join()
    assert len(refused) == 1
