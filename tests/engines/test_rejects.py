"""The quarantine tried again, on every engine: its whole SQL in one transaction."""

from collections.abc import Callable

from tests.acceptance.scenario import Scenario


def test_retry_publishes_updates_restores_and_closes(
    warehouse_url: str, scenario_on: Callable[..., Scenario]
) -> None:
    """Rows that are staged and published in one transaction meet limits that a scan, with its many, never meets."""
    scenario = scenario_on(warehouse_url, (12,))
    (service,) = scenario.world.services.values()
    new, changed, returned, gone, still_bad = service.sids()[:5]
    service.change(new, date_updated="never")
    scenario.sync()
    service.remove([returned])
    scenario.sync()
    service.bring_back(1)
    for sid in (changed, returned, gone, still_bad):
        service.change(sid, date_updated="never")
    scenario.sync()
    for sid in (new, changed, returned):
        service.change(sid, date_updated="2024-02-03T04:05:06Z")
    service.remove([gone])
    totals = scenario.run("rejects", "retry", "--json").totals
    assert {name: totals[name] for name in ("inserted", "updated", "restored", "rejected")} == {
        "inserted": 1, "updated": 1, "restored": 1, "rejected": 1,
    }  # fmt: skip
    assert [one["sid"] for one in scenario.run("rejects", "list", "--json").json["rejects"]] == [
        still_bad
    ]
    assert (
        scenario.query("SELECT * FROM scan_staged")
        == scenario.query("SELECT * FROM scan_seen")
        == []
    )
    assert {
        sid: row["date_updated"]
        for sid, row in scenario.stored().items()
        if sid in (new, changed, returned)
    } == dict.fromkeys((new, changed, returned), "2024-02-03 04:05:06.000000")
    assert scenario.run("rejects", "discard", "--json").json == {"discarded": 1}
    assert scenario.run("rejects", "retry").out == "no open rejects\n"
