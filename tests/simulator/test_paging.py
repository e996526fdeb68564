"""Pages, tokens and filters, while the store stands still and while it moves."""

from urllib.parse import parse_qs, urlsplit

import pytest


def sids(rows):
    """Name rows by SID."""
    return [row["sid"] for row in rows]


ORDERS = ["sid", "created", "updated", "updated-desc"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("style", ["position", "row", "offset", "opaque"])
@pytest.mark.parametrize("size", [1, 7, 30, 31, 100])
def test_every_row_is_shown_once(stand, size, style, order):
    """If this failed, complete scans would miss or repeat rows without any change to the store."""
    here = stand(30, order=order, page_tokens=style)
    rows = here.rows(PageSize=size)
    assert len(rows) == 30
    assert {row["sid"]: row for row in rows} == dict(here.service.bindings)


def test_order_by_update(stand):
    """If this failed, rows that move during a scan could not be played."""
    rows = stand(60, order="updated").rows(PageSize=9)
    assert [row["date_updated"] for row in rows] == sorted(row["date_updated"] for row in rows)


def test_order_by_update_may_be_turned_round(stand):
    """If this failed, rows that move to the head while they are read could not be played."""
    rows = stand(60, order="updated-desc").rows(PageSize=9)
    assert [row["date_updated"] for row in rows] == sorted(
        (row["date_updated"] for row in rows), reverse=True
    )


def test_order_by_creation(stand):
    """If this failed, an order that updates do not change, and that is not by SID, could not be played."""
    rows = stand(60, order="created").rows(PageSize=9)
    assert [row["date_created"] for row in rows] == sorted(row["date_created"] for row in rows)
    assert sids(rows) != sorted(sids(rows))


def test_meta_follows_the_page(stand):
    """If this failed, `meta` would not be what the API gives."""
    here = stand(5)
    pages = list(here.pages(PageSize=2))
    first = f"{here.client.base_url}{here.path}?PageSize=2&Page=0"
    assert [page["meta"]["page"] for page in pages] == [0, 1, 2]
    assert {page["meta"]["page_size"] for page in pages} == {2}
    assert {page["meta"]["first_page_url"] for page in pages} == {first}
    assert pages[0]["meta"]["url"] == first
    assert [page["meta"]["url"] for page in pages[1:]] == [
        page["meta"]["next_page_url"] for page in pages[:2]
    ]
    assert pages[0]["meta"]["previous_page_url"] is None
    assert [page["meta"]["key"] for page in pages] == ["bindings"] * 3


def test_full_last_page_has_no_next(stand):
    """If this failed, the plain listing would end in an empty page."""
    assert [len(page["bindings"]) for page in stand(6).pages(PageSize=3)] == [3, 3]


@pytest.mark.parametrize("order", ["sid", "updated-desc"])
@pytest.mark.parametrize("style", ["position", "offset", "opaque"])
def test_previous_links_lead_back(stand, style, order):
    """If this failed, previous_page_url would be for show."""
    here = stand(10, page_tokens=style, order=order)
    pages = list(here.pages(PageSize=3))
    for page, before in zip(pages[1:], pages, strict=False):
        back = here.client.get(page["meta"]["previous_page_url"]).json()
        assert back["bindings"] == before["bindings"]
        assert back["meta"]["page"] == before["meta"]["page"]


def test_tokens_hold_what_breaks_careless_clients(stand):
    """If this failed, clients that take links apart would pass unseen."""
    link = stand(5).page(PageSize=2)["meta"]["next_page_url"]
    token = link.partition("PageToken=")[2]
    assert all(sign in token for sign in "._:=")
    assert token.startswith("PTactive_")


def damaged(token):
    """Damage a token in the ways that clients did."""
    return [
        token.rstrip("="),
        token.replace(".", "", 1),
        token[:-9] + "AAAAAA==",
        "PT",
        "",
        token.lower(),
        "15",
    ]


def test_damaged_tokens_are_refused(stand):
    """If this failed, a client that damages tokens would go on as if nothing were wrong."""
    here = stand(5)
    token = here.page(PageSize=2)["meta"]["next_page_url"].partition("PageToken=")[2]
    for wrong in damaged(token):
        answer = here.get(PageSize=2, Page=1, PageToken=wrong)
        assert (answer.status_code, answer.json()["code"]) == (400, 21481)


def test_damaged_tokens_may_give_an_empty_page(stand):
    """If this failed, the silent truncation seen at the API could not be played."""
    here = stand(5, bad_token="empty")
    token = here.page(PageSize=2)["meta"]["next_page_url"].partition("PageToken=")[2]
    for wrong in damaged(token):
        page = here.page(PageSize=2, Page=1, PageToken=wrong)
        assert page["bindings"] == []
        assert page["meta"]["next_page_url"] is None
    assert len(here.rows(PageSize=2)) == 5


@pytest.mark.parametrize("style", ["position", "row", "offset", "opaque"])
def test_tokens_belong_to_their_service(stand, style):
    """If this failed, mixing up two services' links would go unseen."""
    here = stand(5, page_tokens=style)
    other = here.world.add_service(5)
    link = here.page(PageSize=2)["meta"]["next_page_url"].replace(here.service.sid, other.sid)
    assert here.client.get(link).status_code == 400


def test_damaged_tokens_may_not_be_found(stand):
    """If this failed, a refusal that looks like a service that is gone could not be played."""
    here = stand(5, bad_token="not-found")
    answer = here.get(PageSize=2, Page=1, PageToken="PTactive_x")
    assert (answer.status_code, answer.json()["code"]) == (404, 20404)


def test_opaque_tokens_may_grow_old(stand):
    """If this failed, links that are kept too long could not be played without a clock."""
    here = stand(10, page_tokens="opaque", page_tokens_good_for=3)
    first = here.page(PageSize=2)
    for _ in range(2):
        here.page(PageSize=2)
    assert here.follow(first)["bindings"]
    assert here.client.get(first["meta"]["next_page_url"]).status_code == 400
    here.simulator.page_tokens.good_for = None
    assert here.follow(first)["bindings"]
    here.simulator.page_tokens.forget()
    assert here.client.get(first["meta"]["next_page_url"]).status_code == 400


def test_tokens_that_count_rows_skip_what_moves_up(stand):
    """If this failed, the oldest fault of paging by number could not be played."""
    here = stand(10, page_tokens="offset")
    page = here.page(PageSize=4)
    expected = here.service.sids()[5:9]
    here.service.remove(sids(page["bindings"])[:1])
    assert sids(here.follow(page)["bindings"]) == expected


def test_tokens_that_name_a_row_follow_it(stand):
    """If this failed, a listing that leaps when its anchor moves, or breaks when it goes, could not be played."""
    here = stand(10, page_tokens="row", order="updated")
    page = here.page(PageSize=4)
    anchor = sids(page["bindings"])[-1]
    here.service.change(anchor, date_updated="2026-01-01T00:00:00Z")
    assert here.follow(page)["bindings"] == []
    here.service.remove([anchor])
    assert here.client.get(page["meta"]["next_page_url"]).status_code == 400


@pytest.mark.parametrize(
    "query",
    [
        {"PageSize": "0"},
        {"PageSize": "x"},
        {"PageSize": "-1"},
        {"PageSize": "1.5"},
        {"PageSize": ""},
        {"Page": "x"},
        {"Page": "1"},
        {"Page": "9" * 5000},
    ],
)
def test_bad_parameters_are_refused(stand, query):
    """If this failed, a client's wrong parameters would be answered with a guess."""
    answer = stand().get(**query)
    assert (answer.status_code, answer.json()["code"]) == (400, 20001)


def test_default_page_size_is_fifty(stand):
    """If this failed, a client that sends no PageSize would see other pages than at the API."""
    page = stand(120).page()
    assert (page["meta"]["page_size"], len(page["bindings"])) == (50, 50)


def test_oversize_is_clamped(stand):
    """If this failed, a client that trusts its own page size would not be found out."""
    here = stand(120)
    page = here.page(PageSize=1000)
    assert (page["meta"]["page_size"], len(page["bindings"])) == (100, 100)
    assert "PageSize=100&" in page["meta"]["url"]
    assert len(here.rows(PageSize=1000)) == 120


@pytest.mark.parametrize(("oversize", "code"), [("refuse", 20007), ("refuse20001", 20001)])
def test_oversize_may_be_refused(stand, oversize, code):
    """If this failed, the other documented outcome could not be played."""
    here = stand(120, oversize=oversize)
    answer = here.get(PageSize=101)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert len(here.rows(PageSize=100)) == 120


def test_maximum_can_be_set(stand):
    """If this failed, only one of the two documented maxima could be played."""
    assert len(stand(1_100, max_page_size=1000).page(PageSize=1000)["bindings"]) == 1000
    assert len(stand(60, max_page_size=20).page()["bindings"]) == 20


def test_filters_choose_and_are_carried(stand):
    """If this failed, filtered scans would lose their filter behind the first page."""
    here = stand(200)
    rows = here.rows(PageSize=5, BindingType=["apn", "gcm"])
    expected = [
        row for row in here.service.bindings.values() if row["binding_type"] in {"apn", "gcm"}
    ]
    assert rows == expected
    link = here.page(PageSize=5, BindingType=["apn", "gcm"])["meta"]["next_page_url"]
    assert parse_qs(urlsplit(link).query)["BindingType"] == ["apn", "gcm"]


@pytest.mark.parametrize("order", ["sid", "updated"])
def test_each_identity_can_be_asked_for(stand, order):
    """If this failed, identities with signs that need escaping could not be found."""
    here = stand(60, order=order)
    by_identity: dict[str, list[str]] = {}
    for row in here.service.bindings.values():
        by_identity.setdefault(row["identity"], []).append(row["sid"])
    for identity, expected in by_identity.items():
        assert sorted(sids(here.rows(Identity=identity, PageSize=1))) == expected


def test_filters_join(stand):
    """If this failed, both filters together would show rows that only one admits."""
    here = stand(200)
    people = list({row["identity"] for row in here.service.bindings.values()})[:20]
    rows = here.rows(Identity=people, BindingType="fcm", PageSize=3)
    assert all(row["identity"] in people and row["binding_type"] == "fcm" for row in rows)
    assert rows


def test_filters_see_changes(stand):
    """If this failed, a filtered listing would show the store as it once was."""
    here = stand(40)
    query = {"BindingType": "apn", "PageSize": 100}
    before = sids(here.rows(**query))
    here.service.change(before[0], binding_type="fcm")
    here.service.remove([before[1]])
    added = here.service.grow(40)
    new = [sid for sid in added if here.service.bindings[sid]["binding_type"] == "apn"]
    assert sids(here.rows(**query)) == sorted(before[2:] + new)


@pytest.mark.parametrize("order", ["sid", "updated"])
def test_removing_shown_rows_skips_nothing(stand, order):
    """If this failed, paging would work by number and not by key: deletions would hide rows."""
    here = stand(20, order=order)
    page = here.page(PageSize=5)
    here.service.remove(sids(page["bindings"]))
    seen = sids(page["bindings"])
    while page["meta"]["next_page_url"]:
        page = here.follow(page)
        seen += sids(page["bindings"])
    assert len(seen) == len(set(seen)) == 20


def test_rows_added_behind_the_page_are_shown(stand):
    """If this failed, the listing would be a snapshot and not the living store."""
    here = stand(20)
    page = here.page(PageSize=10)
    last = page["bindings"][-1]["sid"]
    added = here.service.grow(20)
    seen = []
    while page["meta"]["next_page_url"]:
        page = here.follow(page)
        seen += sids(page["bindings"])
    assert set(added) & set(seen) == {sid for sid in added if sid > last}


def test_touched_rows_move_when_ordered_by_update(stand):
    """If this failed, the danger that a row moves between pages could not be played."""
    here = stand(20, order="updated")
    page = here.page(PageSize=10)
    moved = page["bindings"][3]["sid"]
    here.service.change(moved, date_updated="2026-01-01T00:00:00Z")
    seen = sids(page["bindings"])
    while page["meta"]["next_page_url"]:
        page = here.follow(page)
        seen += sids(page["bindings"])
    assert seen.count(moved) == 2
    assert seen[-1] == moved


def test_services_are_paged_too(stand):
    """If this failed, discovery of more services than one page holds could not be tested."""
    here = stand(0)
    for _ in range(6):
        here.world.add_service(1)
    page = here.client.get("/v1/Services", params={"PageSize": 3}).json()
    pages = [page]
    while page["meta"]["next_page_url"]:
        page = here.follow(page)
        pages.append(page)
    assert [len(page["services"]) for page in pages] == [3, 3, 1]
    listed = [service["sid"] for page in pages for service in page["services"]]
    assert listed == sorted(here.world.services)
    back = here.client.get(pages[2]["meta"]["previous_page_url"]).json()
    assert back["services"] == pages[1]["services"]


def test_links_name_the_host_that_was_asked(stand):
    """If this failed, a client behind a proxy would be led around it."""
    answer = stand(5).client
    here = answer.get("/v1/Services", headers={"host": "example.test:81"}).json()
    assert here["meta"]["url"].startswith("http://example.test:81/v1/Services?")


def test_the_list_of_services_may_be_cut_at_a_size_of_its_own(stand):
    """If this failed, a client that takes one list's page size for all lists would pass unseen."""
    here = stand(5, max_services_page_size=2)
    for _ in range(2):
        here.world.add_service(0)
    page = here.client.get("/v1/Services", params={"PageSize": 100}).json()
    assert (len(page["services"]), page["meta"]["page_size"]) == (2, 2)
    assert here.page(PageSize=100)["meta"]["page_size"] == 100
