"""The seeded data behind the API: an account, its services, their bindings, and changes to them.

No HTTP here. Everything follows from the seed. A row is kept as the serial number from which it can
be computed, or, once changed or planted, as its JSON text; so large worlds stay small, and nobody
who was given a row can change it here.
"""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from itertools import count
from random import Random
from typing import Any, NamedTuple
from zlib import crc32

from etl.simulator.devices import HOME, Mint, binding_type, identity, stamp
from etl.simulator.views import Choice, View

Binding = dict[str, Any]

SID = re.compile(r"BS[0-9a-fA-F]{32}")
WHOLE_SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
NEVER = "1970-01-01T00:00:00Z"
CLOCK_STARTS = 2_100 * 86_400
KEPT_TEXTS = 100_000
KEPT_VIEWS = 32
SUBRESOURCES = {
    "conversations": "Conversations",
    "users": "Users",
    "roles": "Roles",
    "bindings": "Bindings",
    "configuration": "Configuration",
    "participant_conversations": "ParticipantConversations",
    "conversation_with_participants": "ConversationWithParticipants",
}


class Row(NamedTuple):
    """One row as a listing shows it."""

    key: str
    position: str
    text: bytes


class World:
    """One account: its credentials and its services."""

    def __init__(self, seed: int = 0, account_sid: str | None = None) -> None:
        """Derive everything from the seed; the same seed and account give the same world."""
        rng = Random(f"{seed}:{account_sid}")
        self.seed = seed
        self.account_sid = account_sid or f"AC{_hex(rng)}"
        self.auth_token = _hex(rng)
        self.api_key = f"SK{_hex(rng)}"
        self.api_secret = _hex(rng)
        self.credentials = {kind: f"CR{_hex(rng)}" for kind in ("apn", "fcm", "gcm")}
        app = Random(f"{seed}:{account_sid}:oauth")
        self.client_id = f"OQ{_hex(app)}"
        self.client_secret = _hex(app)
        self.services: dict[str, Service] = {}
        self._rng = rng
        self._clock = count(CLOCK_STARTS)

    def add_service(self, bindings: int = 0, friendly_name: str | None = None) -> "Service":
        """Add a service that holds so many generated bindings."""
        sid = f"IS{_hex(self._rng)}"
        mint = Mint(self._rng.randbytes(16), self.account_sid, sid, self.credentials)
        name = friendly_name or f"Service {len(self.services) + 1}"
        service = Service(mint, name, Random(sid), self.now)
        service.grow(bindings)
        self.services = {**self.services, sid: service}
        return service

    def remove_service(self, sid: str) -> None:
        """Delete a service with all its bindings."""
        self.services = {known: service for known, service in self.services.items() if known != sid}

    def now(self) -> str:
        """Tell the world's own time; each question moves it on by a second."""
        return stamp(next(self._clock))

    def opens_to(self, user: str, password: str) -> bool:
        """Tell whether this pair for HTTP Basic is one of the account's (docs/api.md §4.1)."""
        pairs = {(self.account_sid, self.auth_token), (self.api_key, self.api_secret)}
        return (user, password) in pairs


class Service:
    """One service and its live bindings."""

    def __init__(self, mint: Mint, friendly_name: str, rng: Random, now: Callable[[], str]) -> None:
        """Start empty; `World.add_service` is the way to make one."""
        self.sid = mint.service_sid
        self.account_sid = mint.account_sid
        self.friendly_name = friendly_name
        self.date_created = "2016-10-21T11:37:03Z"
        self._mint = mint
        self._rng = rng
        self._now = now
        self._lock = threading.RLock()
        self._serials = count()
        self._contents: dict[str, int | bytes] = {}
        self._deleted: dict[str, int | bytes] = {}
        self._planted: dict[str, Any] = {}
        self._odd: set[str] = set()
        self._all = View()
        self._views: OrderedDict[Choice, View] = OrderedDict({Choice(): self._all})
        self._texts: dict[str, bytes] = {}

    def __len__(self) -> int:
        """Count every row that a complete listing shows, malformed ones too."""
        return len(self._contents)

    @property
    def bindings(self) -> "Bindings":
        """The live bindings by SID, ordered by SID, without planted rows that are no bindings."""
        return Bindings(self)

    @property
    def raw_rows(self) -> dict[str, Any]:
        """Every planted row that is still listed, by the key under which it was planted."""
        with self._lock:
            return dict(self._planted)

    def sids(self) -> list[str]:
        """List the SIDs of the live bindings, in order."""
        with self._lock:
            return [key for key in self._all.places if key not in self._odd]

    def resource(self) -> dict[str, Any]:
        """Describe the service itself (docs/api.md §1.5)."""
        url = f"{HOME}/v1/Services/{self.sid}"
        return {
            "sid": self.sid,
            "account_sid": self.account_sid,
            "friendly_name": self.friendly_name,
            "date_created": self.date_created,
            "date_updated": self.date_created,
            "url": url,
            "links": {name: f"{url}/{path}" for name, path in SUBRESOURCES.items()},
        }

    # What tests and demos do to it between runs.

    def grow(self, number: int) -> list[str]:
        """Add so many generated bindings and return their SIDs."""
        with self._lock:
            fresh = {
                self._mint.sid(serial): serial
                for serial, _ in zip(self._serials, range(number), strict=False)
            }
            self._enter(fresh)
            return list(fresh)

    def touch(self, number: int) -> list[str]:
        """Change the content of so many bindings: a new endpoint and a newer date_updated."""
        with self._lock:
            chosen = self._sample(number)
            return self._rewrite({sid: self._touched(sid) for sid in chosen})

    def shuffle_message_types(self, number: int) -> list[str]:
        """Reorder the message types, which are a set (docs/api.md §6.2), of so many bindings."""
        with self._lock:
            pool = self.bindings
            wide = (
                sid
                for sid in self._sample(4 * number + 64)
                if len(pool[sid].get("message_types") or ()) > 1
            )
            return self._rewrite(
                {sid: self._reordered(sid) for sid, _ in zip(wide, range(number), strict=False)}
            )

    def delete(self, number: int) -> list[str]:
        """Remove so many bindings and return their SIDs."""
        return self.remove(self._sample(number))

    def remove(self, sids: Iterable[str]) -> list[str]:
        """Remove these rows, by SID or planted key, and return those that were there."""
        with self._lock:
            odd = set(self._odd)
            gone = self._leave(sids)
            self._deleted.update({sid: content for sid, content in gone.items() if sid not in odd})
            return list(gone)

    def bring_back(self, number: int) -> list[str]:
        """Return so many removed bindings with the same SID, the longest absent first."""
        with self._lock:
            back = [sid for sid, _ in zip(self._deleted, range(number), strict=False)]
            self._enter({sid: self._deleted.pop(sid) for sid in back})
            return back

    def change(self, sid: str, **fields: Any) -> None:
        """Set fields of one binding; `date_updated` moves only if it is among them."""
        with self._lock:
            self._rewrite({sid: self.bindings[sid] | fields})

    def put(self, row: Any, *, key: str | None = None) -> str:
        """Plant any row, well formed or not: an object, another JSON value, or bytes to send.

        It replaces the row with the same SID, unless it has a key of its own (letters and digits).
        Returns the key.
        """
        if key is not None and not (key.isascii() and key.isalnum()):
            raise ValueError(f"a key is letters and digits, not {key!r}")
        sid = row.get("sid") if isinstance(row, Mapping) else None
        named = isinstance(sid, str) and SID.fullmatch(sid)
        with self._lock:
            place = key or (str(sid) if named else f"BS{_hex(self._rng)}")
            self._leave([place])
            self._deleted.pop(place, None)
            self._enter({place: row if isinstance(row, bytes) else json.dumps(row).encode()})
            self._planted[place] = row
            if not named or place != sid:
                self._odd.add(place)
            return place

    # What the API asks of it.

    def text(self, sid: str) -> bytes | None:
        """Give one binding as JSON, or nothing when there is none."""
        with self._lock:
            return self._text(sid) if sid in self._contents and sid not in self._odd else None

    def rows_after(self, choice: Choice, position: str | None, number: int) -> list[Row]:
        """Give the rows that follow a position (none: from the start) as the store stands now."""
        with self._lock:
            return self._rows(choice, self._view(choice).after(_place(choice, position), number))

    def rows_before(self, choice: Choice, position: str, number: int) -> list[Row]:
        """Give the rows that end just before a position."""
        with self._lock:
            return self._rows(choice, self._view(choice).before(_place(choice, position), number))

    def rows_at(self, choice: Choice, offset: int, number: int) -> list[Row]:
        """Give the rows behind so many others."""
        with self._lock:
            return self._rows(choice, self._view(choice).at(offset, number))

    def find(self, choice: Choice, key: str) -> str | None:
        """Tell the position at which a row stands now, if it is there."""
        with self._lock:
            return self._position(choice, key) if key in self._contents else None

    def _rows(self, choice: Choice, places: list[str]) -> list[Row]:
        keys = places if choice.order == "sid" else [place.rpartition("_")[2] for place in places]
        ends = {keys[0], *keys[-2:]} if keys else set()
        return [
            Row(key, self._position(choice, key) if key in ends else "", self._text(key))
            for key in keys
        ]

    def _text(self, key: str) -> bytes:
        content = self._contents[key]
        if isinstance(content, bytes):
            return content
        text = self._texts.get(key)
        if text is None:
            text = self._mint.text(content)
            if len(self._texts) < KEPT_TEXTS:
                self._texts[key] = text
        return text

    def _position(self, choice: Choice, key: str) -> str:
        """Name the place in the listing as tokens do: milliseconds, SID (docs/api.md §2.4)."""
        content = self._contents[key]
        created = choice.order == "created"
        if isinstance(content, bytes):
            date = _date(content, "date_created" if created else "date_updated")
        else:
            date = (self._mint.date_created if created else self._mint.date_updated)(content)
        return f"{date[:-1]}.{crc32(key.encode()) % 1000:03}Z_{key}"

    def _view(self, choice: Choice) -> View:
        view = self._views.get(choice)
        if view is None:
            view = self._views[choice] = View(
                self._places(choice, self._contents), descending=choice.order == "updated-desc"
            )
            self._forget_old_views()
        elif choice != Choice():
            self._views.move_to_end(choice)
        return view

    def _forget_old_views(self) -> None:
        while len(self._views) > KEPT_VIEWS:
            oldest = next(choice for choice in self._views if choice != Choice())
            del self._views[oldest]

    def _places(self, choice: Choice, keys: Iterable[str]) -> list[str]:
        if choice.types or choice.identities:
            keys = [key for key in keys if choice.admits(*self._traits(key))]
        if choice.order == "sid":
            return list(keys)
        return [self._position(choice, key) for key in keys]

    def _traits(self, key: str) -> tuple[object, object]:
        content = self._contents[key]
        if isinstance(content, int):
            return binding_type(content), identity(content)
        row = _object(content)
        kind, name = row.get("binding_type"), row.get("identity")
        return str(kind), str(name)

    def _enter(self, contents: Mapping[str, int | bytes]) -> None:
        self._contents.update(contents)
        for choice, view in self._views.items():
            view.add(self._places(choice, contents))

    def _leave(self, keys: Iterable[str]) -> dict[str, int | bytes]:
        known = [key for key in dict.fromkeys(keys) if key in self._contents]
        for choice, view in self._views.items():
            view.remove(self._places(choice, known))
        for key in known:
            self._planted.pop(key, None)
            self._texts.pop(key, None)
            self._odd.discard(key)
        return {key: self._contents.pop(key) for key in known}

    def _rewrite(self, rows: Mapping[str, Binding]) -> list[str]:
        self._leave(rows)
        self._enter({sid: json.dumps(row).encode() for sid, row in rows.items()})
        return list(rows)

    def _sample(self, number: int) -> list[str]:
        with self._lock:
            pool = self._all.places
            if self._planted:
                pool = [key for key in pool if key not in self._planted]
            return self._rng.sample(pool, min(number, len(pool)))

    def _touched(self, sid: str) -> Binding:
        return self.bindings[sid] | {
            "endpoint": self._rng.randbytes(32).hex(),
            "date_updated": self._now(),
        }

    def _reordered(self, sid: str) -> Binding:
        row = self.bindings[sid]
        turn = self._rng.randrange(1, len(row["message_types"]))
        return row | {"message_types": row["message_types"][turn:] + row["message_types"][:turn]}


class Bindings(MutableMapping[str, Binding]):
    """The live bindings of a service, by SID; a row that is read is a copy."""

    def __init__(self, service: Service) -> None:
        """Look at a service."""
        self._service = service

    def __getitem__(self, sid: str) -> Binding:
        """Return one binding as the API sends it."""
        text = self._service.text(sid)
        if text is None:
            raise KeyError(sid)
        return _object(text)

    def __setitem__(self, sid: str, row: Binding) -> None:
        """Replace or add one binding."""
        self._service.put(row | {"sid": sid})

    def __delitem__(self, sid: str) -> None:
        """Remove one binding."""
        if not self._service.remove([sid]):
            raise KeyError(sid)

    def __iter__(self) -> Iterator[str]:
        """Go through the SIDs in order, as they stand at this moment."""
        return iter(self._service.sids())

    def __len__(self) -> int:
        """Count the bindings."""
        return len(self._service.sids())


def build_demo(services: int, bindings: int, seed: int = 0) -> World:
    """Return a world of so many bindings in all; each service holds fewer than the one before."""
    world = World(seed)
    total = sum(1 / rank for rank in range(1, services + 1))
    shares = [int(bindings / rank / total) for rank in range(1, services + 1)]
    for rank, share in enumerate(shares):
        world.add_service(share + (bindings - sum(shares) if rank == 0 else 0), f"Demo {rank + 1}")
    return world


def _place(choice: Choice, position: str | None) -> str:
    if position is None:
        return ""
    return position.rpartition("_")[2] if choice.order == "sid" else position


def _object(text: bytes) -> Binding:
    try:
        row = json.loads(text)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _date(text: bytes, field: str) -> str:
    date = _object(text).get(field)
    return date if isinstance(date, str) and WHOLE_SECONDS.fullmatch(date) else NEVER


def _hex(rng: Random) -> str:
    return rng.randbytes(16).hex()
