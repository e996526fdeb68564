"""The whole program over HTTP on every engine: hard texts and times, and the same content everywhere (docs/warehouse.md; docs/promises.md §10)."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from etl.simulator import World
from etl.warehouse.connection import Warehouse
from etl.warehouse.tables import bindings
from tests.acceptance.scenario import Scenario

TEXTS = {
    "empty": "",
    "blank": " ",
    "trailing blanks": "ann  ",
    "leading blanks": "  ann",
    "case": "ANN",
    "four bytes": "😀𝔘𠜎",
    "combining": "e\u0301 is not \u00e9",
    "right to left": "\u202e\u05e9\u05dc\u05d5\u05dd",
    "quotes": "'\"`''\"\"",
    "backslashes": "\\ \\\\ \\' \\n \\x00 \\u0000",
    "copy's null": "\\N",
    "copy's end": "\\.",
    "white space": "\t\n\r\x0b\x0c\x1a\x7f\u2028\ufeff",
    "control": "".join(map(chr, range(1, 32))),
    "array": '{a,"b",NULL}',
    "empty array": "{}",
    "commas": ",;a,b|c",
    "percent": "%s %(sid)s %% :sid $1 ? {0} ${HOME}",
    "json": '{"a": ["b", null]}',
    "null": "NULL",
    "number": "1e5",
    "comment": "-- /* x */ ; DROP TABLE bindings",
    "long": "é😀x" * 33_334,
}
MOMENTS = {
    "0001-01-01T00:00:00Z": "0001-01-01 00:00:00.000000",
    "9999-12-31T23:59:59.999999Z": "9999-12-31 23:59:59.999999",
    "1969-12-31T23:59:59.5Z": "1969-12-31 23:59:59.500000",
    "2038-01-19T03:14:08.000001Z": "2038-01-19 03:14:08.000001",
    "2024-03-31T02:30:00.123456+02:00": "2024-03-31 00:30:00.123456",
    "2024-02-29T23:59:59.100Z": "2024-02-29 23:59:59.100000",
}


@pytest.mark.parametrize("column", ["identity", "endpoint"])
def test_any_text_comes_back_as_it_was(
    scenario_on: Callable[..., Scenario], warehouse_url: str, column: str
) -> None:
    """A character that COPY, an array literal, JSON or an escape eats would silently rename a person or lose a device."""
    scenario = scenario_on(warehouse_url, (0,))
    (service,) = scenario.world.services.values()
    expected = {}
    for number, (name, text) in enumerate(TEXTS.items()):
        planted = binding(
            scenario.world, number, {column: text, "extra field": {name: [text, None]}}
        )
        service.put(planted)
        expected[planted["sid"]] = text
    assert scenario.sync().totals["inserted"] == len(TEXTS)
    stored = scenario.query(f"SELECT sid, {column} AS told, extra FROM bindings")
    assert {row["sid"]: row["told"] for row in stored} == expected
    for row in stored:
        extra = row["extra"] if isinstance(row["extra"], dict) else json.loads(row["extra"])
        assert list(extra["extra field"].values()) == [[expected[row["sid"]], None]]
    for sid in expected:
        service.change(sid, credential_sid="CR" + "d" * 32)
    assert scenario.sync().totals["updated"] == len(TEXTS)
    past = scenario.query(f"SELECT sid, {column} AS told FROM binding_versions")
    assert {row["sid"]: row["told"] for row in past} == expected
    assert scenario.sync().totals["unchanged"] == len(TEXTS)


def test_a_dry_run_plans_the_fields_that_the_run_changes(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """Each engine has its own form of times and JSON; compared as it comes, each row had changed."""
    scenario = scenario_on(warehouse_url, (0,))
    (service,) = scenario.world.services.values()
    before: dict[str, Any] = {
        "extra": {"b": 1e2, "a": [None]},
        "date_created": "2024-03-31T02:30:00.1+02:00",
    }
    for number in range(4):
        service.put(binding(scenario.world, number, before))
    scenario.sync()
    changes: tuple[dict[str, Any], ...] = (
        {"endpoint": "new"},
        {"extra": {}},
        {"date_created": None, "message_types": ["b"]},
    )
    for number, changed in enumerate(changes):
        service.put(binding(scenario.world, number, before | changed))
    for arguments in (["--dry-run"], []):
        [told] = scenario.sync(*arguments).services.values()
        assert told["changed_fields"] == {
            "endpoint": 1,
            "message_types": 1,
            "date_created": 1,
            "extra": 1,
        }


def test_any_time_comes_back_to_the_microsecond(
    scenario_on: Callable[..., Scenario], warehouse_url: str, open_on: Callable[..., Warehouse]
) -> None:
    """Servers of these tests live in odd time zones: a shifted or cut time would show here."""
    scenario = scenario_on(warehouse_url, (0,))
    (service,) = scenario.world.services.values()
    sent = {
        service.put(
            binding(scenario.world, number, {"date_created": given, "date_updated": None})
        ): kept
        for number, (given, kept) in enumerate(MOMENTS.items())
    }
    scenario.sync()
    select = sa.text("SELECT sid, date_created, date_updated FROM bindings")
    stored = open_on(warehouse_url).read(lambda conn: conn.execute(select).all())
    assert {sid: written(created) for sid, created, _ in stored} == sent
    assert {updated for _, _, updated in stored} == {None}
    assert scenario.sync().totals["unchanged"] == len(MOMENTS)


NUMBERS = ("1.10", "-0.0", "0.1234567890123456789012345", "1E3", "1e400", "9" * 1000, "1e-1000")
# `jsonb` writes exponents out and knows no sign of zero; the value is the same.
BY_JSONB = {
    "-0.0": "0.0",
    "1E3": "1000",
    "1e400": f"1{'0' * 400}",
    "1e-1000": f"0.{'0' * 999}1",
}


def test_a_number_of_an_unknown_field_keeps_every_digit(
    scenario_on: Callable[..., Scenario], warehouse_url: str, open_on: Callable[..., Warehouse]
) -> None:
    """An amount or a version that comes back as a float is wrong data."""
    scenario = scenario_on(warehouse_url, (0,))
    (service,) = scenario.world.services.values()
    for number, sent in enumerate(NUMBERS):
        row = json.dumps(binding(scenario.world, number, {}))[:-1]
        service.put(f'{row}, "x": [{sent}]}}'.encode(), key=f"row{number}")
    scenario.sync()
    stored = open_on(warehouse_url).read(
        lambda conn: conn.scalars(sa.select(sa.cast(bindings.c.extra, sa.Text))).all()
    )
    kept = BY_JSONB if warehouse_url.startswith("postgresql") else {}
    expected = {f'{{"x":[{kept.get(sent, sent)}]}}' for sent in NUMBERS}
    assert {extra.replace(" ", "") for extra in stored} == expected
    assert scenario.sync().totals["unchanged"] == len(NUMBERS)


def test_an_empty_list_is_not_null_and_an_empty_text_is_not_null(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """No subscriptions and unknown subscriptions are different answers to an analyst; so are no identity and an empty one."""
    scenario = scenario_on(warehouse_url, (0,))
    (service,) = scenario.world.services.values()
    empty = service.put(
        binding(
            scenario.world,
            1,
            {"message_types": [], "identity": "", "endpoint": "", "binding_type": "", "url": ""},
        )
    )
    nothing = dict.fromkeys(
        (
            "message_types",
            "identity",
            "endpoint",
            "binding_type",
            "url",
            "credential_sid",
            "date_created",
        )
    )
    null = service.put(binding(scenario.world, 2, nothing))
    scenario.sync()
    stored = scenario.stored()
    assert {
        name: stored[empty][name]
        for name in ("message_types", "identity", "endpoint", "binding_type", "url", "extra")
    } == {
        "message_types": [],
        **dict.fromkeys(("identity", "endpoint", "binding_type", "url"), ""),
        "extra": None,
    }
    assert {name: stored[null][name] for name in nothing} == nothing
    nulls = "SELECT sid FROM bindings WHERE message_types IS NULL AND identity IS NULL AND extra IS NULL"
    assert scenario.query(nulls) == [{"sid": null}]
    service.change(empty, message_types=None)
    service.change(null, message_types=[])
    assert scenario.sync().totals["updated"] == 2
    assert scenario.query("SELECT sid FROM bindings WHERE message_types IS NULL") == [
        {"sid": empty}
    ]


def test_rejects_are_kept_whole_and_close_when_repaired(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """One bad row costs one row, on every engine, and the row that loads at last closes its reject."""
    scenario = scenario_on(warehouse_url, (30,))
    (service,) = scenario.world.services.values()
    bad = binding(scenario.world, 1, {"identity": "a\x00b 😀"})
    service.put(bad)
    service.put(b'{"sid": "nonsense", "x": "\\\\N {} \'\\u00e9\'"}', key="nameless")
    totals = scenario.sync(expect=None).totals
    assert (totals["inserted"], totals["rejected"]) == (30, 2)
    lines = scenario.query(
        "SELECT sid, reason, payload, resolved_at FROM rejected_bindings ORDER BY sid"
    )
    assert {line["sid"] for line in lines} == {None, bad["sid"]}
    assert json.loads(next(line["payload"] for line in lines if line["sid"])) == bad
    assert (
        next(line["payload"] for line in lines if not line["sid"])
        == '{"sid": "nonsense", "x": "\\\\N {} \'\\u00e9\'"}'
    )
    assert scenario.sync(expect=None).totals["unchanged"] == 30
    assert scenario.query("SELECT count(*) AS n FROM rejected_bindings") == [{"n": 2}]
    service.remove(["nameless"])
    service.put(bad | {"identity": "ab"})
    assert scenario.sync().totals["inserted"] == 1
    assert scenario.query(
        "SELECT count(*) AS n FROM rejected_bindings WHERE resolved_at IS NULL"
    ) == [{"n": 0}]
    scenario.assert_equal_to_world()


@pytest.mark.parametrize(
    "engine_name", ["postgresql18", "postgresql16", "mariadb", "duckdb", "ducklake"], indirect=True
)
def test_every_engine_holds_what_sqlite_holds(
    scenario_on: Callable[..., Scenario], warehouse_url: str, engine_name: str, tmp_path: Path
) -> None:
    """The engine must not change the result: the same story, synced side by side, leaves the same content."""
    scenario = scenario_on(warehouse_url, (120, 35))
    reference = Scenario(
        tmp_path,
        scenario.simulator,
        f"sqlite:///{tmp_path / 'reference.sqlite'}",
        scenario.interceptor,
    ).migrate()
    first, second = scenario.world.services.values()
    for number, text in enumerate(TEXTS.values()):
        second.put(
            binding(
                scenario.world,
                number,
                {"identity": text, "endpoint": text, "chat_service_sid": second.sid},
            )
        )
    gone: list[str] = []

    def change_much() -> None:
        first.touch(9)
        first.shuffle_message_types(9)
        first.grow(5)
        second.touch(3)
        gone.extend(first.delete(7))

    steps: list[Callable[[], Any]] = [
        lambda: None,
        change_much,
        lambda: [first.bring_back(4), second.delete(2), first.put(b'{"sid": "BSx"}', key="odd")],
        lambda: [first.remove(["odd"]), second.bring_back(1), first.touch(6)],
        lambda: None,
    ]
    for step in steps:
        step()
        counted = [one.sync(expect=None) for one in (scenario, reference)]
        assert counted[0].totals == counted[1].totals
    for table, columns in EXPORTED.items():
        assert export(scenario, table, columns) == export(reference, table, columns), table
    assert export(scenario, "bindings", EXPORTED["bindings"]) != []
    assert export(scenario, "binding_versions", EXPORTED["binding_versions"]) != []


CONTENT = (
    "sid, account, account_sid, chat_service_sid, credential_sid, binding_type, identity, endpoint, message_types, date_created, "
    "date_updated, url, extra, content_hash, run_id"
)
EXPORTED = {
    "bindings": f"{CONTENT}, source_hash, deleted_at IS NULL AS active",
    "binding_versions": f"{CONTENT}, binding_versions.change AS why",
    "active_bindings": CONTENT,
    "binding_message_types": "sid, message_type",
    "binding_history": f"{CONTENT}, is_deleted, valid_to IS NULL AS is_current",
    "identity_reachability": "account, chat_service_sid, identity, apn, fcm, gcm, other, last_updated",
    "service_freshness": "account, chat_service_sid, active, deleted, rejected_open, last_complete_at IS NULL AS never",
    "rejected_bindings": "chat_service_sid, fingerprint, sid, reason, payload, run_id, resolved_at IS NULL AS still_open",
    "sync_runs": "id, mode, status, pages, requests, fetched, inserted, updated, unchanged, deleted, restored, rejected, error",
    "sync_scans": "run_id, scope, status, complete, resumed, fetched, inserted, updated, unchanged, deleted, restored, rejected",
}
BOOLEANS = {"active", "is_deleted", "is_current", "never", "still_open", "complete", "resumed"}
DOCUMENTS = {"message_types", "extra"}
TIMES = {"date_created", "date_updated", "last_updated"}


def export(scenario: Scenario, table: str, columns: str) -> list[str]:
    """The content of a table in one form, in one order."""
    return sorted(
        json.dumps({name: exported(name, value) for name, value in row.items()}, sort_keys=True)
        for row in scenario.query(f"SELECT {columns} FROM {table}")
    )


def exported(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in BOOLEANS:
        return bool(value)
    if name in DOCUMENTS:
        return json.loads(value) if isinstance(value, str) else value
    return written(value) if name in TIMES else value


def written(value: Any) -> str:
    """A time as UTC text, whatever type the driver gives."""
    if isinstance(value, datetime):
        value = (value.astimezone(UTC) if value.tzinfo else value).replace(tzinfo=None)
        return str(value.isoformat(sep=" ", timespec="microseconds"))
    return str(value)


def binding(world: World, number: int, fields: dict[str, Any]) -> dict[str, Any]:
    """A binding of the world's first service, with these fields."""
    service = next(iter(world.services))
    sid = f"BS{number:032x}"
    return {
        "sid": sid,
        "account_sid": world.account_sid,
        "chat_service_sid": service,
        "credential_sid": None,
        "binding_type": "apn",
        "identity": "somebody",
        "endpoint": "somewhere",
        "message_types": ["new_message"],
        "date_created": "2023-05-04T09:42:00Z",
        "date_updated": "2023-05-04T09:42:00Z",
        "url": f"https://conversations.twilio.com/v1/Services/{service}/Bindings/{sid}",
        **fields,
    }
