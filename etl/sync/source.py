"""Where a scan's rows come from: the listing of one scope, followed page by page at the API."""

from collections.abc import Iterator

import msgspec

from etl import errors
from etl.domain.counters import Counters
from etl.domain.scope import Scope
from etl.stopping import Stop
from etl.sync import spans
from etl.sync.prefetch import Prefetcher
from etl.telemetry.tracing import Trace
from etl.twilio.client import Client
from etl.twilio.conversations import list_bindings
from etl.twilio.paging import FetchedPage

# What the API says of a link that leads nowhere any more, by whatever status and code. Should the
# service itself be gone or refused, the first page will say so.
_LEADS_NOWHERE = (errors.RequestRefused, errors.ServiceNotFound, errors.ForeignLink)


class StaleLink(errors.PageTokenRefused):
    """A stored link is no longer good."""


class Source(msgspec.Struct, frozen=True):
    """The listing of one scope."""

    client: Client
    scope: Scope
    counters: Counters
    stop: Stop
    may_skip_type: bool = False
    """A type that the server does not know (any more) is left out: nobody asked for it by name."""

    @property
    def most_chains(self) -> int:
        """By how many chains its listing may be read; more than may be in flight are no use."""
        account = self.client.account
        return min(account.chains_per_service, account.concurrency)

    def prefetch(self, link: str | None, trace: Trace) -> Prefetcher:
        """Return the batches of the listing from its first page, or from a stored link, on."""
        return Prefetcher(lambda: self.follow(link, trace), self.counters, self.stop)

    def follow(self, link: str | None, trace: Trace) -> Iterator[FetchedPage]:
        """Return the pages of the listing from its first one, or from a stored link, on."""
        followed = self.read_from_start() if link is None else self.resume(link)
        return trace.follow("page", followed, spans.of_page)

    def read_from_start(self) -> Iterator[FetchedPage]:
        """Yield the pages from the first one.

        Raises:
            TypeUnknown: (`may_skip_type`) the server does not know the scope's one binding type,
                while it takes another one. Whatever else it refuses, and later on, is a failure.
            SourceError: the listing cannot be read to its end.
            Interrupted: the run is to stop.
        """
        pages = list_bindings(self.client, self.scope, self.counters)
        try:
            first = next(pages)
        except errors.RequestRefused as error:
            if self.may_skip_type and self._takes_another_type():
                raise errors.TypeUnknown(
                    f"{error}; it takes other binding types, so it does not know this one any "
                    "more, and it is left out",
                    status=error.status,
                    twilio_code=error.twilio_code,
                    request_id=error.request_id,
                ) from error
            raise
        yield first
        yield from pages

    def resume(self, link: str) -> Iterator[FetchedPage]:
        """Yield the pages from a stored link on.

        Raises:
            StaleLink: the first of them is refused, or empty: a damaged token need not raise an
                error (docs/api.md §2.4).
            SourceError: the listing cannot be read to its end.
            Interrupted: the run is to stop.
        """
        pages = list_bindings(self.client, self.scope, self.counters, link)
        try:
            first = next(pages)
        except _LEADS_NOWHERE as error:
            raise StaleLink(f"the stored link is no longer good: {error}") from error
        if not first.page.rows:
            raise StaleLink("the page at the stored link is empty, so its token is no longer good")
        yield first
        yield from pages

    def _takes_another_type(self) -> bool:
        """Return whether it is the type that is refused, and not everything."""
        whole = Scope(self.scope.account, self.scope.chat_service_sid)
        return any(
            self._is_taken(part)
            for part in whole.partitions()
            if part.binding_types != self.scope.binding_types
        )

    def _is_taken(self, scope: Scope) -> bool:
        try:
            next(list_bindings(self.client, scope, self.counters))
        except errors.SourceError:
            return False
        return True
