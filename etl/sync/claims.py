"""Which account reads a service that several can read, and keys that open the wrong account."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from etl.config import Account
from etl.domain.service import Service
from etl.errors import ConfigurationError


def group_by_owner(accounts: Sequence[Account]) -> list[list[Account]]:
    """Return the accounts grouped by account SID: those of a group may list the same services."""
    ordered = sorted(accounts, key=lambda account: account.account_sid)
    return [list(group) for _, group in groupby(ordered, key=lambda account: account.account_sid)]


def require_own_key(
    account: Account, found: Iterable[Service], accounts: Iterable[Account]
) -> None:
    """Refuse a key that opens another configured account, such as a line that was copied.

    Raises:
        ConfigurationError: with the names of both accounts.
    """
    opened = {service.account_sid for service in found} - {account.account_sid, None}
    for other in accounts:
        if other.account_sid in opened:
            raise ConfigurationError(
                f"the key of account {account.name} opens {other.account_sid}, which is account "
                f"{other.name} of the configuration: give account {account.name} a key of "
                f"{account.account_sid}"
            )


class Claims:
    """Who reads what: a list wins over `all`, then whoever has read it before, then the order."""

    def __init__(self, accounts: Sequence[Account], readers: Mapping[str, str]) -> None:
        """`accounts` are all of the file; `readers` are the accounts that services belong to."""
        self._accounts = accounts
        self._readers = readers
        self.listed = {
            sid: account.name
            for account in accounts
            if account.services != "all"
            for sid in account.services
        }
        """The accounts that name a service, by its SID."""

    def reader_of(self, sid: str, found: Mapping[str, Iterable[str]]) -> str:
        """Return the account that reads a service; `found` are the services each account lists.

        At least one of them has found it.
        """
        if sid in self.listed:
            return self.listed[sid]
        finders = [
            account.name
            for account in self._accounts
            if account.services == "all" and sid in found.get(account.name, ())
        ]
        before = self._readers.get(sid)
        return before if before and self._still_reads(before, finders, found) else finders[0]

    def _still_reads(
        self, name: str, finders: Sequence[str], found: Mapping[str, Iterable[str]]
    ) -> bool:
        """Return whether the last reader keeps a service, also when it could not be asked now."""
        sids = {account.account_sid for account in self._accounts if account.name in finders}
        may_read = any(
            account.name == name and account.services == "all" and account.account_sid in sids
            for account in self._accounts
        )
        return name in finders or (may_read and name not in found)


def note_on_reader(reader: str) -> str:
    """Return the note on a service that another account reads."""
    return f"account {reader} reads this service; a service belongs to one account"
