"""The seeded world without any HTTP."""

import json
import re

import pytest

from etl.simulator import World, build_demo

FIELDS = {
    "sid",
    "account_sid",
    "chat_service_sid",
    "credential_sid",
    "date_created",
    "date_updated",
    "endpoint",
    "identity",
    "binding_type",
    "message_types",
    "url",
}


def filled(bindings=400, seed=1):
    """Give a world with one service."""
    world = World(seed)
    return world, world.add_service(bindings)


def test_same_seed_same_world():
    """If this failed, a demo or a failing test could not be played again."""
    worlds = [filled(seed=7) for _ in range(2)]
    for _, service in worlds:
        for change in (
            service.grow,
            service.touch,
            service.delete,
            service.bring_back,
            service.shuffle_message_types,
        ):
            change(5)
    (one, first), (other, second) = worlds
    assert one.__dict__.keys() == other.__dict__.keys()
    assert (one.account_sid, one.api_key, one.api_secret, one.auth_token) == (
        other.account_sid,
        other.api_key,
        other.api_secret,
        other.auth_token,
    )
    assert list(first.bindings.items()) == list(second.bindings.items())


def test_other_seed_other_world():
    """If this failed, all worlds would be one and tests over several accounts would prove nothing."""
    (one, first), (other, second) = filled(seed=1), filled(seed=2)
    assert one.account_sid != other.account_sid
    assert not set(first.bindings) & set(second.bindings)


def test_account_can_be_named():
    """If this failed, a configuration written beforehand could not name the simulator's account."""
    world = World(1, account_sid="AC" + "a" * 32)
    service = world.add_service(3)
    assert {row["account_sid"] for row in service.bindings.values()} == {"AC" + "a" * 32}


def test_rows_have_the_eleven_fields_and_realistic_variety():
    """If this failed, rows would lack fields or the odd cases that a client must survive."""
    _, service = filled(5_000)
    rows = list(service.bindings.values())
    assert all(set(row) == FIELDS for row in rows)
    assert {row["binding_type"] for row in rows} == {"apn", "fcm", "gcm", "twilsock"}
    assert all(
        (row["credential_sid"] is None) == (row["binding_type"] == "twilsock") for row in rows
    )
    assert all(row["date_created"] <= row["date_updated"] for row in rows)
    kinds = [json.dumps(row["message_types"]) for row in rows]
    assert 0 < kinds.count("null") < 250
    assert 0 < kinds.count("[]") < 250
    assert len({kind for kind in kinds if kind.count("_") > 3}) > 5
    names = [row["identity"] for row in rows]
    assert len(set(names)) < len(names)
    assert any("+" in name and "@" in name for name in names)
    assert any(ord(letter) > 0xFFFF for name in names for letter in name)


def test_bindings_are_ordered_by_sid_and_named_by_it():
    """If this failed, expectations read from the world would not match the listing."""
    _, service = filled()
    assert list(service.bindings) == sorted(service.bindings)
    assert all(sid == row["sid"] for sid, row in service.bindings.items())
    assert all(re.fullmatch("BS[0-9a-f]{32}", sid) for sid in service.bindings)


def test_grow_adds_new_rows_only():
    """If this failed, inserts between two runs could not be played."""
    _, service = filled()
    before = dict(service.bindings)
    added = service.grow(30)
    assert len(added) == 30
    assert not set(added) & set(before)
    assert dict(service.bindings) == before | {sid: service.bindings[sid] for sid in added}


@pytest.mark.parametrize("number", [3, 100])
def test_touch_changes_endpoint_and_date_only(number):
    """If this failed, an update between two runs could go unseen or change too much."""
    _, service = filled()
    before = dict(service.bindings)
    touched = service.touch(number)
    assert len(touched) == number
    assert {sid for sid, row in service.bindings.items() if row != before[sid]} == set(touched)
    for sid in touched:
        changed = {name for name in FIELDS if service.bindings[sid][name] != before[sid][name]}
        assert changed == {"endpoint", "date_updated"}
        assert service.bindings[sid]["date_updated"] > before[sid]["date_updated"]


def test_shuffle_reorders_message_types_only():
    """If this failed, the test that order is no change would change content."""
    _, service = filled()
    before = dict(service.bindings)
    shuffled = service.shuffle_message_types(25)
    assert len(shuffled) == 25
    for sid, row in service.bindings.items():
        types = row["message_types"]
        assert (types != before[sid]["message_types"]) == (sid in shuffled)
        assert row | {"message_types": sorted(types or [])} == (
            before[sid] | {"message_types": sorted(before[sid]["message_types"] or [])}
        )


@pytest.mark.parametrize("number", [2, 100])
def test_deleted_rows_come_back_with_the_same_sid(number):
    """If this failed, the restoring of bindings could not be tested."""
    _, service = filled()
    before = dict(service.bindings)
    gone = service.delete(number)
    assert len(gone) == number
    assert set(service.bindings) == set(before) - set(gone)
    assert service.bring_back(number - 1) == gone[:-1]
    assert service.bring_back(10) == gone[-1:]
    assert dict(service.bindings) == before


def test_planted_rows_are_kept_apart():
    """If this failed, tests could not tell malformed rows from those that must be loaded."""
    _, service = filled(10)
    before = set(service.bindings)
    good = service.put({"sid": "BS" + "0" * 32, "identity": "x"})
    odd = [
        service.put(row)
        for row in ("text", 7, None, {"sid": "nonsense"}, {"identity": "no sid"}, b"{broken")
    ]
    assert set(service.bindings) == before | {good}
    assert set(service.raw_rows) == {good, *odd}
    assert len(service) == 17
    assert service.remove([odd[0]]) == [odd[0]]
    assert odd[0] not in service.raw_rows


def test_planted_row_replaces_the_one_of_its_sid():
    """If this failed, a listing would show two rows where the test meant one."""
    _, service = filled(10)
    sid = next(iter(service.bindings))
    service.put(service.bindings[sid] | {"identity": "other"})
    assert len(service.bindings) == 10
    assert service.bindings[sid]["identity"] == "other"


def test_a_key_plants_beside():
    """If this failed, one SID could not be shown in two rows."""
    _, service = filled(10)
    sid = next(iter(service.bindings))
    service.put({"sid": sid}, key="BSzz")
    assert len(service) == 11
    assert len(service.bindings) == 10
    with pytest.raises(ValueError, match="letters and digits"):
        service.put({}, key="a_b")


def test_rows_replaced_while_deleted_are_listed_once():
    """If this failed, a row planted anew and then brought back would be shown twice."""
    _, service = filled(10)
    (sid,) = service.delete(1)
    service.put({"sid": sid, "identity": "anew"})
    assert service.bring_back(5) == []
    assert service.sids().count(sid) == 1


def test_removed_odd_rows_do_not_come_back():
    """If this failed, a malformed row could return as if it were a binding."""
    _, service = filled(10)
    service.remove([service.put("text")])
    assert service.bring_back(5) == []
    assert len(service) == len(service.bindings) == 10


def test_reading_a_row_gives_a_copy():
    """If this failed, a test could alter the world without noticing."""
    _, service = filled(10)
    sid = next(iter(service.bindings))
    service.bindings[sid]["identity"] = "changed"
    assert service.bindings[sid]["identity"] != "changed"
    service.change(sid, identity="changed")
    assert service.bindings[sid]["identity"] == "changed"


def test_bindings_can_be_assigned_and_removed_like_a_dictionary():
    """If this failed, the mapping would promise more than it holds."""
    _, service = filled(10)
    sid = next(iter(service.bindings))
    row = service.bindings.pop(sid)
    with pytest.raises(KeyError):
        service.bindings[sid]
    with pytest.raises(KeyError):
        del service.bindings[sid]
    service.bindings[sid] = row
    assert service.bindings[sid] == row


def test_removed_service_is_gone():
    """If this failed, a deleted service could not be played."""
    world, service = filled(3)
    world.remove_service(service.sid)
    assert world.services == {}


def test_large_worlds_keep_numbers_and_not_rows():
    """If this failed, a world of a million bindings would not fit beside the program under test."""
    _, service = filled(100_000)
    assert len(service.bindings) == 100_000
    assert not service._texts
    assert all(isinstance(content, int) for content in service._contents.values())


@pytest.mark.parametrize(("services", "bindings"), [(1, 10), (4, 1_000), (7, 3)])
def test_demo_spreads_bindings_unevenly(services, bindings):
    """If this failed, the demo would show another number of bindings than asked for."""
    world = build_demo(services, bindings, seed=3)
    sizes = [len(service) for service in world.services.values()]
    assert (len(sizes), sum(sizes)) == (services, bindings)
    assert sizes == sorted(sizes, reverse=True)
