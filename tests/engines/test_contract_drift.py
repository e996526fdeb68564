"""What has drifted is found and counted the same on every engine."""

from collections.abc import Callable

from etl.domain.drift import Kind, Novelty
from etl.warehouse import drift, migration
from etl.warehouse.connection import Warehouse
from tests.acceptance.scenario import Scenario
from tests.acceptance.test_drift import listed, sync, told
from tests.engines.scan_harness import SCOPE, SERVICE, ScanHarness, day, sent

NAMES = (
    "firmware", "Firmware", "firmware ", "a.b", "$[0]", 'quo"te', "back\\slash", "'", "%s ?", "élan", "😀", "key", "0", "\t",
)  # fmt: skip


def test_names_of_any_kind_are_counted_exactly(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """A name that a path, a pattern or a collation reads otherwise would be counted with another's rows."""
    scenario = scenario_on(warehouse_url, (len(NAMES) * 2,))
    [service] = scenario.services
    expected: dict[tuple[str, str, str], int] = {}
    for place, name in enumerate(NAMES):
        for number, binding in enumerate(service.sids()[place : place + 2]):
            more = dict.fromkeys(NAMES[place : place + number + 1])
            service.change(binding, **more | {"nested": {name: name}})
    for binding in service.sids():
        row = service.bindings[binding]
        for name in row.keys() & set(NAMES):
            expected[service.sid, "field", name] = expected.get((service.sid, "field", name), 0) + 1
    expected[service.sid, "field", "nested"] = len(NAMES) + 1
    types = ("b", "b.c", '"', "b\\", "😀 b", "[", ",")
    for place, name in enumerate(types):
        for binding in service.sids()[: place + 1]:
            known = service.bindings[binding]["message_types"]
            service.change(binding, message_types=[*(known or ()), name])
        expected[service.sid, "message_type", name] = place + 1
    service.change(service.sids()[-1], binding_type="Über")
    expected[service.sid, "binding_type", "über"] = 1
    told_now = told(sync(scenario))
    assert len(told_now) == len(expected)
    assert listed(scenario) == expected
    service.remove(service.sids()[:1])
    sync(scenario)
    after = listed(scenario)
    assert after[service.sid, "message_type", "b"] == 0
    assert after[service.sid, "message_type", "b.c"] == 1


def test_the_first_to_see_it_writes_it_down(warehouse: Warehouse) -> None:
    """Were the same thing new each time, it would be told for ever."""
    met = {Novelty(Kind.FIELD, "firmware"), Novelty(Kind.FIELD, "FIRMWARE")}

    def record(on: int) -> list[Novelty]:
        return warehouse.transact(
            lambda conn: drift.record(conn, warehouse.engine, SCOPE, met, day(on))
        )

    assert set(record(1)) == met
    assert record(2) == []
    assert [line["first_seen_at"] for line in warehouse.read(drift.read)] == [day(1), day(1)]


def test_an_upgrade_lists_what_is_there_already(harness: ScanHarness, warehouse: Warehouse) -> None:
    """Types that were loaded before are unchanged, so no later run would look at them."""
    harness.scan(
        [
            sent(1, binding_type="web", message_types=["new_message", "b"]),
            sent(2, binding_type="web", message_types=["b", "invited_to_channel"]),
            sent(3, binding_type=None, message_types=None),
        ],
        [sent(4, binding_type="gone")],
    )
    harness.scan([sent(1, binding_type="web", message_types=["new_message", "b"]), sent(2, binding_type="web", message_types=["b", "invited_to_channel"]), sent(3, binding_type=None, message_types=None)])  # fmt: skip
    migration.downgrade(warehouse, "20261125_08")
    migration.upgrade(warehouse, None)
    assert warehouse.read(drift.read) == [
        {
            "chat_service_sid": SERVICE,
            "kind": kind,
            "name": name,
            "rows": 2,
            "first_seen_at": day(1),
        }
        for kind, name in (("binding_type", "web"), ("message_type", "b"))
    ]
