"""What the first answer of a listing decides: whether a stored link is still good, and whether the server knows the type at all."""

from collections.abc import Iterator

from etl import errors
from etl.domain.counters import Counters
from etl.domain.scope import Scope
from etl.twilio.client import Client
from etl.twilio.conversations import list_bindings
from etl.twilio.paging import Step

# What the API says of a link that leads nowhere any more, by whatever status and code. Should the service itself be gone or refused,
# the first page will say so.
_LEADS_NOWHERE = (errors.RequestRefused, errors.ServiceNotFound, errors.ForeignLink)


class StaleLink(errors.PageTokenRefused):
    """A stored link is no longer good."""


def read_scope(
    client: Client, scope: Scope, counters: Counters, *, may_skip: bool
) -> Iterator[Step]:
    """The pages of a scope from its first one.

    Raises:
        TypeUnknown: (`may_skip`) the server does not know the scope's one binding type, while it takes another one. Whatever else
            it refuses, and also later on, is a failure.
        SourceError: the listing cannot be read to its end.
        Interrupted: the run is to stop.
    """
    pages = list_bindings(client, scope, counters)
    try:
        first = next(pages)
    except errors.RequestRefused as error:
        if may_skip and _takes_another_type(client, scope, counters):
            raise errors.TypeUnknown(
                f"{error}; it takes other binding types, so it does not know this one any more, and it is left out",
                status=error.status,
                twilio_code=error.twilio_code,
                request_id=error.request_id,
            ) from error
        raise
    yield first
    yield from pages


def resume_scope(client: Client, scope: Scope, counters: Counters, link: str) -> Iterator[Step]:
    """The pages of a scope from a stored link on.

    Raises:
        StaleLink: the first of them is refused, or empty: a damaged token need not raise an error
            (docs/api.md §2.4).
        SourceError: the listing cannot be read to its end.
        Interrupted: the run is to stop.
    """
    pages = list_bindings(client, scope, counters, link)
    try:
        first = next(pages)
    except _LEADS_NOWHERE as error:
        raise StaleLink(f"the stored link is no longer good: {error}") from error
    if not first.page.rows:
        raise StaleLink("the page at the stored link is empty, so its token is no longer good")
    yield first
    yield from pages


def _takes_another_type(client: Client, scope: Scope, counters: Counters) -> bool:
    """Whether it is the type that is refused, and not everything."""
    others = [
        part
        for part in Scope(scope.account, scope.chat_service_sid).partitions()
        if part.binding_types != scope.binding_types
    ]
    return any(_is_taken(client, other, counters) for other in others)


def _is_taken(client: Client, scope: Scope, counters: Counters) -> bool:
    try:
        next(list_bindings(client, scope, counters))
    except errors.SourceError:
        return False
    return True
