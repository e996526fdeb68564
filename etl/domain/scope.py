"""What a scan was asked for, what counts as having read it, and what it may delete.

Everything that decides about deletes reads it from here.
"""

import hashlib
from datetime import datetime
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

# The types that `partition_by_type` reads, one chain each (docs/api.md §1.3).
KNOWN_TYPES = ("apn", "fcm", "gcm", "twilsock")

WHOLE_SERVICE = "service"


class Scope(msgspec.Struct, frozen=True):
    """One service, or the part of it that binding types, identities or dates narrow it to.

    Dates are a span of `date_updated`, in UTC.
    """

    account: str
    chat_service_sid: str
    binding_types: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    @property
    def named(self) -> dict[str, str]:
        """Return what names it in the events of the log."""
        return {
            "account": self.account,
            "chat_service_sid": self.chat_service_sid,
            "scope": self.label,
        }

    @property
    def dated(self) -> bool:
        """Whether it is narrowed by time; the API cannot do that, so it is done here."""
        return self.since is not None or self.until is not None

    @property
    def undated(self) -> "Scope":
        """The same scope without dates: what the API can filter by."""
        return replace(self, since=None, until=None)

    @property
    def may_delete(self) -> bool:
        """Whether its scan may delete; a dated one skips rows, and proves nothing absent."""
        return not self.dated

    @property
    def label(self) -> str:
        """A stable name such as `service` or `type:apn identity:#1f3a…`; identities as a hash."""
        parts = []
        if self.binding_types:
            parts.append("type:" + ",".join(sorted(map(quote, self.binding_types))))
        if self.identities:
            digest = hashlib.sha256("\x00".join(sorted(self.identities)).encode()).hexdigest()[:12]
            parts.append(f"identity:#{digest}")
        if self.since:
            parts.append(f"since:{_format(self.since, 'T')}Z")
        if self.until:
            parts.append(f"until:{_format(self.until, 'T')}Z")
        return " ".join(parts) or WHOLE_SERVICE

    @property
    def query(self) -> list[tuple[str, str]]:
        """The filters as the API takes them: repeated keys (docs/api.md §1.4)."""
        types = [("BindingType", kind) for kind in self.binding_types]
        return types + [("Identity", identity) for identity in self.identities]

    def holds(self, date_updated: str | None) -> bool:
        """Return whether a row of this time (UTC text) was asked for; one without never is."""
        if not self.dated:
            return True
        if date_updated is None:
            return False
        return (self.since is None or date_updated >= _format(self.since)) and (
            self.until is None or date_updated < _format(self.until)
        )

    def partitions(self) -> list["Scope"]:
        """Return one scope per known type, or per type that was asked for."""
        return [
            Scope(
                self.account,
                self.chat_service_sid,
                (kind,),
                self.identities,
                self.since,
                self.until,
            )
            for kind in self.binding_types or KNOWN_TYPES
        ]


def types_in(label: str) -> frozenset[str]:
    """Return the binding types that a scope of this label is confined to; none when it is not."""
    first = label.split(" ", 1)[0]
    return (
        frozenset(first.removeprefix("type:").split(","))
        if first.startswith("type:")
        else frozenset()
    )


def overlap(one: str, other: str) -> bool:
    """Return whether two scopes of one service, by label, may hold the same binding.

    Only disjoint types keep them apart.
    """
    mine, theirs = types_in(one), types_in(other)
    return not (mine and theirs and mine.isdisjoint(theirs))


def _format(moment: datetime, between: str = " ") -> str:
    """Return UTC in the form of the warehouse.

    `strftime` would write the year 300 with three digits, which sort after 2023.
    """
    return moment.replace(tzinfo=None).isoformat(sep=between, timespec="microseconds")
