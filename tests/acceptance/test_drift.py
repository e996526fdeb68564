"""Nothing drifts in silence (docs/promises.md §13): what nobody knows is loaded, told once, and listed."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.test_changed_fields import events
from tests.acceptance.trial import Result, Trial

MakeTrial = Callable[..., Trial]


def sync(trial: Trial, *arguments: str) -> Result:
    return trial.sync("--log-format", "json", *arguments)


def told(result: Result) -> list[tuple[str, str, str]]:
    """What the events said, in order."""
    return sorted(
        (event["chat_service_sid"], event["kind"], event["name"])
        for event in events(result, "drift.seen")
    )


def listed(trial: Trial) -> dict[tuple[str, str, str], int]:
    """What `status` lists: how many rows have it."""
    lines: list[dict[str, Any]] = trial.run("status", "--json").json["drift"]
    assert all(line["first_seen_at"].endswith("Z") for line in lines)
    return {(one["chat_service_sid"], one["kind"], one["name"]): one["rows"] for one in lines}


def drift_everywhere(trial: Trial) -> dict[tuple[str, str, str], int]:
    """The first service with all that can be new, and what should be told of it."""
    service = trial.services[0]
    sids = service.sids()
    for sid in sids[:3]:
        service.change(sid, firmware={"major": 1}, binding_type="WebPush")
    for sid in sids[2:7]:
        service.change(sid, message_types=["new_message", "twilio.sync.event"])
    for sid in sids[5:9]:
        service.change(sid, date_created="Thu, 04 May 2023 09:42:00 +0000")
    service.change(sids[8], date_updated="2023-05-04T09:42:00.125+02:00")
    counted = {
        ("field", "firmware"): 3,
        ("binding_type", "webpush"): 3,
        ("message_type", "twilio.sync.event"): 5,
        ("time_form", "Aaa, 00 Aaa 0000 00:00:00 +0000"): 4,
        ("time_form", "0000-00-00T00:00:00.000+00:00"): 1,
    }
    return {(service.sid, kind, name): number for (kind, name), number in counted.items()}


def test_what_is_known_today_is_no_drift(trial: Trial) -> None:
    """Whoever is told of drift that is none stops listening."""
    for service in trial.services:
        sids = service.sids()
        service.change(sids[0], binding_type="TWILSOCK", message_types=["Added_To_Channel "])
        service.change(sids[1], binding_type="gcm", message_types=["invited_to_channel"])
        service.change(sids[2], message_types=None, date_created=None, credential_sid=None)
        service.change(sids[3], message_types=["twilio.channel.removed_from_channel", ""])
    assert told(sync(trial)) == []
    assert listed(trial) == {}


@pytest.mark.parametrize("first_load", [True, False])
def test_what_nobody_knows_is_loaded_told_once_and_listed(trial: Trial, first_load: bool) -> None:
    """A field, a type or a form of time that is new would else be noticed by chance, years later."""
    if not first_load:
        sync(trial)
    expected = drift_everywhere(trial)
    assert told(sync(trial)) == sorted(expected)
    assert listed(trial) == expected
    assert told(sync(trial)) == told(sync(trial, "--fresh")) == []
    assert listed(trial) == expected


def test_the_rows_that_have_it_are_counted_whatever_becomes_of_them(trial: Trial) -> None:
    """A count that only grows would call a thing wide-spread that is long gone."""
    expected = drift_everywhere(trial)
    service = trial.services[0]
    sids = service.sids()
    sync(trial)
    since = trial.query("SELECT name, first_seen_at FROM schema_drift ORDER BY name")
    service.change(sids[0], binding_type="apn")
    service.change(sids[20], firmware=None)
    service.remove(sids[2:4])
    sync(trial)
    for kind, name, number in (
        ("field", "firmware", 3),
        ("binding_type", "webpush", 1),
        ("message_type", "twilio.sync.event", 3),
    ):
        expected[service.sid, kind, name] = number
    assert listed(trial) == expected
    trial.run("erase", "--identity", service.bindings[sids[1]]["identity"])
    assert listed(trial)[service.sid, "binding_type", "webpush"] == 0
    assert trial.query("SELECT name, first_seen_at FROM schema_drift ORDER BY name") == since


def test_each_service_and_each_part_of_it_tells_its_own(trial: Trial) -> None:
    """Parts are read side by side, and what two of them meet at once is told once."""
    trial.account["partition_by_type"] = True
    for service in trial.services:
        for sid in service.sids():
            service.change(sid, firmware=1)
    expected = {(one.sid, "field", "firmware"): len(one.bindings) for one in trial.services}
    assert told(sync(trial)) == sorted(expected)
    assert listed(trial) == expected


def test_a_dry_run_writes_no_drift(trial: Trial) -> None:
    """It writes nothing at all; the run after it tells."""
    expected = drift_everywhere(trial)
    sync(trial, "--dry-run")
    assert listed(trial) == {}
    assert told(sync(trial)) == sorted(expected)


def test_names_without_end_fill_nothing(make_trial: MakeTrial) -> None:
    """A server that makes up a name for each row must not fill the table, the log or the memory."""
    trial = make_trial((130,))
    service = trial.services[0]
    for number, sid in enumerate(service.sids()):
        service.change(sid, **{f"field_{number}": number}, message_types=[f"type-{number}"])
    service.change(service.sids()[0], **{"x" * 300: 1, "\x1b[2J": 1})
    result = sync(trial)
    assert len(told(result)) == len(listed(trial)) == 100
    assert trial.stored() == trial.expected()
    assert "\x1b" not in trial.run("status").out + trial.run("status", "--json").out + result.err


def test_no_value_is_among_what_is_told(trial: Trial) -> None:
    """The value of a field nobody knows may be a person's name."""
    service = trial.services[0]
    sid = service.sids()[0]
    service.change(sid, owner={"name": "Ada Lovelace"}, date_created="2019-12-24 18:30:11+01:00")
    result = sync(trial)
    page = trial.folder / "report.html"
    trial.run("report", "--out", str(page))
    shown = result.err + trial.run("status").out + page.read_text(encoding="utf-8")
    lines = str(trial.query("SELECT kind, name FROM schema_drift"))
    assert "owner" in shown
    assert "0000-00-00 00:00:00+00:00" in shown
    for secret in ("Ada", "Lovelace", "2019-12-24 18:30"):
        assert secret not in shown + lines


def test_a_reject_that_loads_at_last_tells_what_is_new(trial: Trial) -> None:
    """Rows come in through `rejects retry` as well."""
    service = trial.services[0]
    sid = service.sids()[0]
    row = service.bindings[sid]
    service.put(row | {"date_created": "never"})
    sync(trial)
    service.put(row | {"firmware": 1})
    result = trial.run("rejects", "retry", "--json", "--log-format", "json")
    assert told(result) == [(service.sid, "field", "firmware")]
    assert listed(trial) == {(service.sid, "field", "firmware"): 1}


def test_names_that_privacy_hides_are_not_told(trial: Trial) -> None:
    """An app that names a field or a type after a person would write that person into the log."""
    trial.settings["privacy"] = {"identity": "hmac", "endpoint": "hmac", "key": "k" * 32}
    service = trial.services[0]
    sids = service.sids()
    for sid in sids[:2]:
        service.change(
            sid,
            identity="ada.lovelace",
            binding_type="web-ada.lovelace",
            message_types=["new_message", "typing", "for-ada.lovelace"],
            **{"of ada.lovelace": 1, "firmware": 1},
        )
    service.change(sids[2], binding_type="web", message_types=["typing"])
    result = sync(trial)
    names = {("field", "firmware"): 2, ("binding_type", "web"): 1, ("message_type", "typing"): 3}
    assert listed(trial) == {(service.sid, *name): rows for name, rows in names.items()}
    assert "lovelace" not in result.err + str(trial.query("SELECT * FROM schema_drift"))
