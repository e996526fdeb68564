"""This process's services, and its share of each account's concurrency (docs/promises.md §12)."""

from collections.abc import Iterable, Mapping, Sequence

from etl.config import Account
from etl.domain.shard import Shard, Spread


class Division:
    """The work of a run among its shards; without `--shard` all of it is here."""

    def __init__(self, shard: Shard | None, accounts: Sequence[Account]) -> None:
        """`accounts` are all of the file, whatever was chosen of them."""
        self._shard = shard
        self._spreads = {account.name: _spread(account, accounts) for account in accounts}
        self._agreed: dict[str, Mapping[str, int]] = {}

    def own(self, accounts: Iterable[Account]) -> list[Account]:
        """Return the accounts that this process asks, each with its share of the concurrency."""
        shares = [(account, self.share(account)) for account in accounts]
        return [
            account.model_copy(update={"concurrency": share}) for account, share in shares if share
        ]

    def share(self, account: Account) -> int:
        """Return how many requests to this account this process may have in flight."""
        if self._shard is None:
            return account.concurrency
        return self._spreads[account.name].share(self._shard)

    def takes(self, account: str, chat_service_sid: str) -> bool:
        """Return whether this process reads a service; `account` may have left the file."""
        spread = self._spreads.get(account) or Spread(account, 1, 1)
        agreed = self._agreed.get(spread.key)
        return self._shard is None or spread.takes(self._shard, chat_service_sid, agreed)

    def spread_of(self, account: str) -> Spread:
        """Return how an account of the file is spread over the shards."""
        return self._spreads[account]

    def agree(self, account: str, places: Mapping[str, int]) -> None:
        """Use these places of services, by SID, which all processes of a run group know."""
        self._agreed[self._spreads[account].key] = places


def _spread(account: Account, accounts: Iterable[Account]) -> Spread:
    """Return how an account is spread; those that may find the same services are spread alike."""
    if account.services != "all":
        return Spread(account.name, account.concurrency, account.concurrency)
    alike = [
        one.concurrency
        for one in accounts
        if one.services == "all" and one.account_sid == account.account_sid
    ]
    return Spread(account.account_sid, account.concurrency, min(alike))
