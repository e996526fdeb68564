"""docs/recipes.md: every query gives the answer that plain Python gives of the same world."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

import sqlalchemy as sa

from etl.domain.scope import Scope
from etl.warehouse.connection import Warehouse
from etl.warehouse.tables import bindings
from tests.engines.filling import fill
from tests.engines.scan_harness import OTHER_SERVICE, SERVICE, ScanHarness, Sent, day, sent

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
ANN = "ann@example.com"
TYPES = ("new_message", "added_to_conversation", "removed_from_conversation")
SETS = [list(TYPES)] * 6 + [["new_message"], [], None]
DAYS = 12
SHARED_CREDENTIAL = "CR" + "1" * 32
Line = tuple[Any, ...]


def recipes() -> Iterator[tuple[str, dict[str, str]]]:
    """Each title with its query by engine; `""` is for those that are not named."""
    for section in PAGE.split("\n### ")[1:]:
        found = re.findall(r"(?:<!-- ([a-z, ]+) -->\n)?```sql\n(.*?)\n```", section, re.DOTALL)
        queries = {name: sql for names, sql in found for name in names.split(", ")}
        yield section.splitlines()[0], queries


RECIPES = dict(recipes())


@dataclass
class History:
    """One service: what was listed on each day, and what became of it."""

    account: str
    sid: str
    days: list[dict[str, Sent]] = field(default_factory=list)

    @property
    def active(self) -> list[Sent]:
        return list(self.days[-1].values())

    @property
    def rows(self) -> dict[str, Sent]:
        """The last image of every binding that ever was."""
        return {sid: row for listed in self.days for sid, row in listed.items()}

    def first_seen(self, sid: str) -> datetime:
        return next(day(n) for n, listed in enumerate(self.days, 1) if sid in listed)

    def changes(self) -> Iterator[tuple[datetime, str, str, Sent]]:
        """When, what, which binding, and its row before (of a new one, of today)."""
        ever: set[str] = set()
        before: dict[str, Sent] = {}
        for number, listed in enumerate(self.days, 1):
            for sid, row in listed.items():
                if sid not in ever:
                    what = "first_loaded" if number == 1 else "inserted"
                    yield day(number), what, sid, self.rows[sid]
                elif sid not in before:
                    yield day(number), "restored", sid, self.rows[sid]
                elif row != before[sid]:
                    yield day(number), "updated", sid, before[sid]
            for sid in before.keys() - listed.keys():
                yield day(number), "deleted", sid, before[sid]
            before = listed
            ever |= listed.keys()


@dataclass
class World:
    """Two services, and the lines that runs would have written about them."""

    histories: list[History]
    lines: dict[str, list[dict[str, Any]]]
    users: list[Line]

    @property
    def active(self) -> list[Sent]:
        return [row for one in self.histories for row in one.active]

    @property
    def gone(self) -> list[tuple[History, Sent]]:
        """Bindings that are deleted, each with its last row."""
        return [
            (one, row)
            for one in self.histories
            for sid, row in one.rows.items()
            if sid not in one.days[-1]
        ]

    def changes(self) -> Iterator[tuple[datetime, str, str, Sent]]:
        for one in self.histories:
            yield from one.changes()

    def people(self) -> dict[tuple[str, str], Counter[str]]:
        """Devices by type of each identity of each service."""
        found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for row in self.active:
            found[row["chat_service_sid"], row["identity"]][row["binding_type"]] += 1
        return found

    def account_of(self, service: str) -> str:
        return next(one.account for one in self.histories if one.sid == service)


def own_credential(kind: str) -> str:
    return f"CR{len(kind) + ord(kind[0]):032x}"


LISTED_CREDENTIALS = [
    (SHARED_CREDENTIAL, "apn", "False"),
    (own_credential("fcm"), "fcm", "True"),
    (own_credential("gcm"), "gcm", "False"),
]


def make_row(rng: Random, service: str, number: int) -> Sent:
    kind = rng.choice(("apn", "apn", "fcm", "fcm", "gcm", "twilsock"))
    stale = timedelta(days=rng.choice((0, 1, 31, 91, 271, 366)), hours=12)
    updated = (datetime.now(UTC) - stale).replace(microsecond=0)
    return sent(
        number,
        chat_service_sid=service,
        binding_type=kind,
        identity=rng.choice((ANN, "ben", "Ben", "kim", f"person-{number}")),
        endpoint=f"endpoint-{rng.choice((number, number, 7))}",
        credential_sid=rng.choice((None, SHARED_CREDENTIAL, own_credential(kind))),
        message_types=rng.choice(SETS),
        date_created=f"2025-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T09:42:00Z",
        date_updated=updated.isoformat(),
    )


def live(rng: Random, account: str, service: str, first: int, number: int) -> History:
    """Devices come, change, go and come back over some days."""
    history = History(account, service)
    listed = {}
    for place in range(first, first + number):
        row = make_row(rng, service, place)
        listed[row["sid"]] = row
    gone: dict[str, Sent] = {}
    for turn in range(DAYS):
        if turn:
            listed = dict(listed)
            for sid in rng.sample(sorted(listed), 3):
                gone[sid] = listed.pop(sid)
            for sid in rng.sample(sorted(gone), rng.randint(0, 2)):
                listed[sid] = gone.pop(sid)
            for sid in rng.sample(sorted(listed), 2):
                listed[sid] = listed[sid] | {"endpoint": f"anew-{turn}-{sid}"}
            row = make_row(rng, service, first + number + turn)
            listed[row["sid"]] = row
        history.days.append(listed)
    return history


def make_world() -> World:
    rng = Random(11)
    histories = [
        live(rng, "main", SERVICE, 100, 40),
        live(rng, "second", OTHER_SERVICE, 1_000, 25),
    ]
    ended = {one.sid: day(DAYS) + timedelta(hours=number) for number, one in enumerate(histories)}
    services = [
        {
            "chat_service_sid": one.sid, "account": one.account, "friendly_name": f"Shop {one.account}", "state": "active",
            "first_seen_at": day(1), "last_seen_at": day(DAYS), "last_complete_at": ended[one.sid], "active": len(one.active),
            "deletes_held": number,
        }
        for number, one in enumerate(histories)
    ]  # fmt: skip
    never = {
        **services[0],
        "chat_service_sid": "IS" + "3" * 32,
        "last_complete_at": None,
        "active": 0,
    }
    scans = [
        {
            "run_id": number, "account": one.account, "chat_service_sid": one.sid, "scope": "service", "status": "failed",
            "complete": False, "resumed": False, "fetched": 40 + number, "started_at": day(number), "finished_at": day(number),
            "error": "HTTP 500", "twilio_request_id": f"RQ{number}",
        }
        for number in range(1, DAYS + 1) for one in histories
    ]  # fmt: skip
    rejects = [
        {
            "fingerprint": f"f{number}", "run_id": 1, "account": "main", "chat_service_sid": SERVICE, "payload": "{}",
            "reason": "sid is missing" if number % 3 else "sid is malformed", "first_seen_at": day(number),
            "last_seen_at": day(number), "resolved_at": day(9) if number == 5 else None,
        }
        for number in range(1, 8)
    ]  # fmt: skip
    drift = [
        {
            "chat_service_sid": SERVICE, "kind": kind, "name": name, "account": "main", "first_seen_at": day(place),
            "row_count": place,
        }
        for place, (kind, name) in enumerate((("field", "tags"), ("binding_type", "webpush")), 1)
    ]  # fmt: skip
    lines: dict[str, list[dict[str, Any]]] = {"services": [*services, never], "sync_scans": scans, "rejected_bindings": rejects, "schema_drift": drift}  # fmt: skip
    users = [
        (SERVICE, ANN),
        (SERVICE, "ann@EXAMPLE.com"),
        (OTHER_SERVICE, "nobody"),
        (SERVICE, "kim"),
    ]
    return World(histories, lines, [*users, *((s, who) for s, who in only_connected(histories))])


def only_connected(histories: list[History]) -> list[tuple[str, str]]:
    """Identities that have a web socket and nothing else."""
    kinds: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in histories:
        for row in one.active:
            kinds[one.sid, row["identity"]].add(row["binding_type"])
    found = [who for who, types in kinds.items() if types == {"twilsock"}]
    assert found, "the world has to show this case"
    return found


# --- the answers, from the world alone ---


def freshness(world: World) -> Iterable[Line]:
    opened = Counter(
        one["chat_service_sid"]
        for one in world.lines["rejected_bindings"]
        if not one["resolved_at"]
    )
    for one in world.lines["services"]:
        sid = one["chat_service_sid"]
        yield (
            one["account"], sid, one["friendly_name"], one["state"], one["last_complete_at"], one["active"], opened[sid],
            one["deletes_held"],
        )  # fmt: skip


def last_readings(world: World) -> Iterable[Line]:
    for one in world.lines["sync_scans"][-20:]:
        yield (
            one["run_id"], one["account"], one["chat_service_sid"], "service", "failed", 0, one["fetched"], 0, 0, 0, 0,
            one["error"], one["twilio_request_id"],
        )  # fmt: skip


def rejected(world: World) -> Iterable[Line]:
    lines = [one for one in world.lines["rejected_bindings"] if not one["resolved_at"]]
    for reason in {one["reason"] for one in lines}:
        of_it = [one["first_seen_at"] for one in lines if one["reason"] == reason]
        yield SERVICE, reason, len(of_it), min(of_it)


def drifted(world: World) -> Iterable[Line]:
    for one in world.lines["schema_drift"]:
        yield SERVICE, one["kind"], one["name"], one["first_seen_at"], one["row_count"]


def reached(world: World) -> Iterable[Line]:
    for one in world.histories:
        users = [kinds for (service, _), kinds in world.people().items() if service == one.sid]
        having = [sum(1 for kinds in users if kinds[kind]) for kind in ("apn", "fcm", "gcm")]
        yield (
            one.account,
            one.sid,
            len(users),
            *having,
            sum(1 for k in users if set(k) == {"twilsock"}),
        )


def by_type(world: World) -> Iterable[Line]:
    for one in world.histories:
        for kind, number in Counter(row["binding_type"] for row in one.active).items():
            yield one.account, one.sid, kind, number


def by_account(world: World) -> Iterable[Line]:
    for one in world.histories:
        yield one.account, len(one.active), 1, len({row["identity"] for row in one.active})


def devices(world: World) -> Iterable[Line]:
    return Counter(kinds.total() for kinds in world.people().values()).items()


def several(world: World) -> Iterable[Line]:
    found = [
        (service, who, kinds["apn"], kinds["fcm"], kinds["gcm"])
        for (service, who), kinds in world.people().items()
        if max(kinds["apn"], kinds["fcm"], kinds["gcm"]) > 1
    ]
    assert 1 < len(found) <= 20
    return found


def without_push(world: World) -> Iterable[Line]:
    people = world.people()
    return [user for user in world.users if not {"apn", "fcm", "gcm"} & people.get(user, {}).keys()]


def per(world: World, key: Callable[[datetime], date]) -> dict[date, Counter[str]]:
    found: dict[date, Counter[str]] = defaultdict(Counter)
    for at, what, _, _ in world.changes():
        found[key(at)][what] += 1
    return dict(sorted(found.items()))


def monday(at: datetime) -> date:
    return (at - timedelta(days=at.weekday())).date()


def gained_and_lost(world: World) -> Iterable[Line]:
    for at, n in per(world, datetime.date).items():
        if at >= date(2026, 1, 3):
            net = n["inserted"] + n["restored"] - n["deleted"]
            yield at, n["inserted"], n["restored"], n["deleted"], net, n["updated"]


def churn(world: World) -> Iterable[Line]:
    for week, n in per(world, monday).items():
        start = sum(
            len(listed)
            for one in world.histories
            for number, listed in enumerate(one.days, 1)
            if day(number).date() == week - timedelta(days=1)
        )
        yield week, n["inserted"] + n["restored"], n["deleted"], start


def growth(world: World) -> Iterable[Line]:
    for number in range(1, DAYS + 1):
        yield day(number).date(), sum(len(one.days[number - 1]) for one in world.histories)


def lifetimes(world: World) -> Iterable[Line]:
    spans: dict[str, list[float]] = defaultdict(list)
    for one, row in world.gone:
        last = max(n for n, listed in enumerate(one.days, 1) if row["sid"] in listed)
        lived = day(last + 1) - one.first_seen(row["sid"])
        spans[row["binding_type"]].append(lived / timedelta(days=1))
    for kind, days in spans.items():
        yield kind, len(days), sum(days) / len(days)


def as_of(world: World, at: str) -> list[Sent]:
    number = (datetime.fromisoformat(at).replace(tzinfo=UTC) - day(0)).days
    return [row for one in world.histories for row in one.days[number - 1].values()]


def ann_as_of(world: World) -> Iterable[Line]:
    for row in as_of(world, "2026-01-09"):
        if row["identity"] == ANN:
            yield row["sid"], row["chat_service_sid"], row["binding_type"], row["credential_sid"], moment(row["date_updated"])  # fmt: skip


def split_as_of(world: World) -> Iterable[Line]:
    rows = as_of(world, "2026-01-09")
    for (service, kind), number in Counter((r["chat_service_sid"], r["binding_type"]) for r in rows).items():  # fmt: skip
        yield service, kind, number


def between(world: World) -> Iterable[Line]:
    for at, what, sid, _ in world.changes():
        if "2026-01-05" <= at.isoformat() < "2026-01-08":
            yield sid, at, what


def ann_lost(world: World) -> Iterable[Line]:
    for one in world.histories:
        for at, what, sid, row in one.changes():
            if what == "deleted" and row["identity"] == ANN:
                yield sid, row["binding_type"], one.first_seen(sid), at


def where_stored(world: World) -> Iterable[Line]:
    current = sum(1 for row in world.active if row["identity"] == ANN)
    deleted = sum(1 for _, row in world.gone if row["identity"] == ANN)
    past = {"updated", "deleted", "restored"}
    yield "current", current
    yield "deleted", deleted
    yield (
        "past",
        sum(1 for _, what, _, row in world.changes() if what in past and row["identity"] == ANN),
    )


def stale(world: World) -> Iterable[Line]:
    ages: dict[str, list[float]] = defaultdict(list)
    for row in world.active:
        age = datetime.now(UTC) - moment(row["date_updated"])
        ages[row["binding_type"]].append(age / timedelta(days=1))
    for kind, days in ages.items():
        yield kind, len(days), *(sum(1 for one in days if one >= limit) for limit in (30, 90, 270, 365)), 0  # fmt: skip


def shared(world: World) -> Iterable[Line]:
    by_endpoint: dict[str, list[Sent]] = defaultdict(list)
    for row in world.active:
        by_endpoint[row["endpoint"]].append(row)
    for rows in by_endpoint.values():
        people = {row["identity"] for row in rows}
        if len(people) > 1:
            places = {row["chat_service_sid"] for row in rows}
            group = min(row["sid"] for row in rows)
            for row in rows:
                yield group, row["sid"], row["chat_service_sid"], row["binding_type"], len(rows), len(people), len(places)  # fmt: skip


def missing_types(world: World) -> Iterable[Line]:
    for one in world.histories:
        for name in TYPES:
            lacking = sum(1 for row in one.active if name not in (row["message_types"] or []))
            yield one.sid, name, len(one.active), lacking


def unusual_sets(world: World) -> Iterable[Line]:
    for one in world.histories:
        sets = Counter(
            json.dumps(row["message_types"] and sorted(row["message_types"])) for row in one.active
        )
        most = max(sets.values())
        for types, number in sets.items():
            if number < most:
                yield one.sid, json.loads(types), number


def credentials(world: World) -> Iterable[Line]:
    def key(row: Sent) -> tuple[str, str]:
        return str(row["credential_sid"]), row["binding_type"]

    for (credential, kind), rows in groupby(sorted(world.active, key=key), key):
        of_it = list(rows)
        yield (
            None if credential == "None" else credential, kind, len(of_it), len({row["chat_service_sid"] for row in of_it}),
            max(moment(row["date_updated"]) for row in of_it),
        )  # fmt: skip


def mixed_credentials(world: World) -> Iterable[Line]:
    for credential in {row["credential_sid"] for row in world.active} - {None}:
        kinds = [row["binding_type"] for row in world.active if row["credential_sid"] == credential]
        if len(set(kinds)) > 1:
            yield credential, len(set(kinds)), len(kinds)


def wrong_credentials(world: World) -> Iterable[Line]:
    listed = {sid: (kind, sandbox) for sid, kind, sandbox in LISTED_CREDENTIALS}
    used = Counter((row["credential_sid"], row["binding_type"]) for row in world.active)
    reasons = set()
    for (credential, kind), number in used.items():
        its, sandbox = listed.get(credential, (None, None))
        if credential and (its != kind or sandbox == "True"):
            reasons.add((its is None, its == kind))
            yield credential, kind, its, sandbox, number
    assert len(reasons) == 3, "the world has to show each of them"


def types_ever(world: World) -> Iterable[Line]:
    rows = [row for one in world.histories for row in one.rows.values()]
    for kind in {row["binding_type"] for row in rows}:
        of_it = [row for row in rows if row["binding_type"] == kind]
        yield (
            kind, len(of_it), sum(1 for row in world.active if row["binding_type"] == kind),
            min(moment(row["date_created"]) for row in of_it), max(moment(row["date_updated"]) for row in of_it),
        )  # fmt: skip


ANSWERS: dict[str, Callable[[World], Iterable[Line]]] = {
    "How old and how complete is the data?": freshness,
    "What did the last readings do?": last_readings,
    "Which rows could not be loaded, and why?": rejected,
    "What does the API send that nobody knew of?": drifted,
    "How many users does each platform reach?": reached,
    "How many bindings are there, by service and type?": by_type,
    "How many bindings and users has each account?": by_account,
    "How many devices do users have?": devices,
    "Which users have several devices of one type?": several,
    "Which users have no push at all?": without_push,
    "How many were gained and lost each day?": gained_and_lost,
    "How large is the churn each week?": churn,
    "How has the number of bindings grown?": growth,
    "How long does a binding live?": lifetimes,
    "Which devices had one identity on a past date?": ann_as_of,
    "How were the types split on a past date?": split_as_of,
    "What changed between two dates?": between,
    "When did one identity lose its devices?": ann_lost,
    "Where is one identity stored?": where_stored,
    "Which devices are stale?": stale,
    "Which devices belong to several identities?": shared,
    "Which message types are missing?": missing_types,
    "Which sets of message types are not the usual one?": unusual_sets,
    "Which credentials are in use, and by which type?": credentials,
    "Which credentials have bindings of several types?": mixed_credentials,
    "Which bindings hang on a credential that is gone, of another type, or for development?": wrong_credentials,
    "When was each binding type first and last heard of?": types_ever,
}


# --- asking ---


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def plain(value: Any) -> str:
    """A value of Python or of any engine in one form."""
    if isinstance(value, datetime):
        at = value.astimezone(UTC) if value.tzinfo else value
        return at.strftime("%Y-%m-%d %H:%M:%S.%f")
    if isinstance(value, bool | int | float | Decimal):
        return f"{float(value):.4f}"
    if isinstance(value, list) or (isinstance(value, str) and value.startswith("[")):
        return str(json.loads(value) if isinstance(value, str) else value)
    return str(value)


def in_one_form(lines: Iterable[Any]) -> list[list[str]]:
    return sorted([plain(value) for value in line] for line in lines)


def publish(warehouse: Warehouse, world: World) -> None:
    for one in world.histories:
        harness = ScanHarness(warehouse, Scope(one.account, one.sid))
        for listed in one.days:
            harness.scan(list(listed.values()))
    fill(warehouse, **world.lines)

    def make(conn: sa.Connection, name: str, columns: dict[str, str], lines: list[Line]) -> None:
        """Of the warehouse's own types: names are compared byte by byte there."""
        like = (sa.Column(ours, bindings.c[theirs].type) for ours, theirs in columns.items())
        table = sa.Table(name, sa.MetaData(), *like)
        table.create(conn)
        for line in lines:
            conn.execute(sa.insert(table).values(dict(zip(columns, line, strict=True))))

    users = {"chat_service_sid": "chat_service_sid", "identity": "identity"}
    credentials = {
        "sid": "credential_sid",
        "credential_type": "binding_type",
        "sandbox": "binding_type",
    }
    warehouse.transact(lambda conn: make(conn, "app_users", users, world.users))
    warehouse.transact(lambda conn: make(conn, "app_credentials", credentials, LISTED_CREDENTIALS))


UTC_SESSIONS = dict(re.findall(r"^\| (\w+) \| `(SET [^`]+)` \|$", PAGE, re.MULTILINE))


def test_every_recipe_answers_right(warehouse: Warehouse) -> None:
    """An analyst who copies a query gets an error, or a number that is not so and that nobody doubts."""
    world = make_world()
    publish(warehouse, world)
    sessions = {name.lower(): setting for name, setting in UTC_SESSIONS.items()}

    def ask(conn: sa.Connection) -> dict[str, list[list[str]]]:
        # A lake is asked as DuckDB is.
        engine = {"ducklake": "duckdb"}.get(conn.dialect.name, conn.dialect.name)
        if setting := sessions.get(engine):
            conn.exec_driver_sql(setting)
        return {
            title: in_one_form(conn.exec_driver_sql(queries.get(engine) or queries[""]))
            for title, queries in RECIPES.items()
        }

    answers = warehouse.read(ask)
    for title, answer in answers.items():
        assert answer == in_one_form(ANSWERS[title](world)), title
        assert answer, f"the world shows nothing of: {title}"


def test_every_recipe_is_checked() -> None:
    """A recipe without an answer of its own would only be known to run."""
    assert RECIPES.keys() == ANSWERS.keys()
