"""Every error that `bindings-etl` raises on purpose, and what each means to the caller.

    EtlError                      exit 1   a fault of the program itself when it comes out bare
    ├── ConfigurationError        exit 2   the file, an option or the environment is wrong
    ├── OutputLost                exit 1   the result could not be delivered; what was done stays
    ├── ClusterUnusable           exit 4   the cluster cannot be reached, or its workers died
    ├── ScratchUnusable           exit 1   the temporary folder does not hold what a dry run has met
    ├── SourceError               exit 3/4 the API could not be read
    │   ├── CredentialsRefused             401: wrong key, other region, suspended account
    │   ├── PermissionMissing              401/403: the key may not read this
    │   ├── ServiceNotFound                404: unknown or deleted service
    │   ├── RequestRefused                 other 4xx: the API does not take the request
    │   │   ├── PageSizeRefused            400 with 20007/20001: asked for too large a page
    │   │   ├── PageTokenRefused           400 with 21481/70002: the stored link is no longer good
    │   │   └── TypeUnknown                the server knows other binding types and not this one
    │   ├── Throttled                      429 until the retries ran out
    │   ├── Unavailable                    network, time-outs, 5xx until the retries ran out
    │   ├── NotTheApi                      something else answered (captive portal, proxy, redirect)
    │   ├── MalformedPage                  JSON, but not a page of this API
    │   ├── ForeignLink                    a next link leads away from the configured place
    │   └── RepeatedLink                   a listing goes on without anything new
    ├── WarehouseError            exit 7   the database could not be used
    │   ├── WarehouseUnreachable           no connection, or it was lost for good
    │   ├── WarehouseConflict              another transaction was in the way for too long
    │   ├── WarehouseOutdated              not at the newest revision
    │   ├── WarehouseRefused               full disk, read-only, missing privilege, failed statement
    │   ├── PasswordUnknown                the command that prints the password failed
    │   └── StageLost                      a crash of the database emptied what a scan had staged
    ├── RowsRejected              exit 3   most rows of a service were rejected for one reason
    ├── DeletesRefused            exit 5   too much would be deleted; all else is published
    ├── LeaseHeld                 exit 6   another live run works on the same
    ├── LeaseLost                          our lease expired and someone else took it
    └── Interrupted               exit 130/143/3   asked to stop

A message says what happened, where, and what to do. It never holds a secret, an identity or an
endpoint.
"""

from typing import ClassVar


class EtlError(Exception):
    """A fault of the program itself."""

    exit_code: ClassVar[int] = 1


class ConfigurationError(EtlError):
    """The configuration, an option or the environment is wrong."""

    exit_code = 2


class OutputLost(EtlError):
    """The result could not be written; a command that failed otherwise ends with its own code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.code = exit_code


class ClusterUnusable(EtlError):
    """The cluster that is to do the work cannot be reached, or its workers died."""

    exit_code = 4


class ScratchUnusable(EtlError):
    """The temporary folder cannot hold what a dry run has to remember."""


class SourceError(EtlError):
    """The API could not be read. Carries what Twilio's support asks for."""

    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        twilio_code: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.twilio_code = twilio_code
        self.request_id = request_id
        self.transient = False
        """Whether the same request may well succeed later."""
        self.wordless = False
        """Whether the answer had no body: whoever gave it did not say who it is."""
        self.retry_after: float | None = None
        """Seconds that the server asked to wait."""


class CredentialsRefused(SourceError):
    """The API does not know this key."""


class PermissionMissing(SourceError):
    """The key is known and may not read this."""


class ServiceNotFound(SourceError):
    """The API has no such service (any more)."""


class RequestRefused(SourceError):
    """The API does not take the request as it is."""


class PageSizeRefused(RequestRefused):
    """The API refuses the page size that was asked for."""


class PageTokenRefused(RequestRefused):
    """The API refuses the page token of a link."""


class TypeUnknown(RequestRefused):
    """The API does not know a binding type (any more), while it takes others."""


class Throttled(SourceError):
    """The account has too many requests in flight, for longer than the retries last."""


class Unavailable(SourceError):
    """The API gave no usable answer, for longer than the retries last."""


class NotTheApi(SourceError):
    """Something other than the API answered."""


class MalformedPage(SourceError):
    """The answer is JSON, but not a page of this API."""


class ForeignLink(SourceError):
    """A next link leads away from the configured origin or the service's path."""


class RepeatedLink(SourceError):
    """A next link or many pages in a row bring nothing new: the listing would never end."""


class WarehouseError(EtlError):
    """The warehouse could not be used."""

    exit_code = 7


class WarehouseUnreachable(WarehouseError):
    """No connection to the warehouse, or it was lost for good."""


class WarehouseConflict(WarehouseError):
    """Another transaction was in the way, for longer than the retries last."""


class WarehouseOutdated(WarehouseError):
    """The warehouse is not at the revision that this program needs."""


class WarehouseRefused(WarehouseError):
    """The warehouse took the connection and refused the work."""


class PasswordUnknown(WarehouseError):
    """The command that prints the warehouse's password did not."""


class StageLost(WarehouseError):
    """What a scan had read and not yet published is gone from the warehouse."""


class RowsRejected(EtlError):
    """So many rows were rejected for one reason that nothing of the scan is published."""

    exit_code = 3


class DeletesRefused(EtlError):
    """The guard, or an absent binding that is alive, forbids deletes; the rest is published."""

    exit_code = 5


class LeaseHeld(EtlError):
    """Another live run works on the same service."""

    exit_code = 6


class LeaseLost(EtlError):
    """This run's lease expired and another run took it."""

    exit_code = 6


class Interrupted(EtlError):
    """Asked to stop: what is committed is whole. By default it is the deadline that asks."""

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.code = exit_code or 3


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of a command that ends with this error; 1 when it is not one of ours."""
    if isinstance(error, OutputLost | Interrupted):
        return error.code
    return error.exit_code if isinstance(error, EtlError) else EtlError.exit_code
