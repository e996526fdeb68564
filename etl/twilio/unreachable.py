"""Why no usable answer came, told by class and errno: texts of the system are in any language."""

import errno
import socket
import ssl
from collections.abc import Iterator

import httpx

from etl import errors

HTTPX_ERRORS = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict)
"""All errors of httpx."""

# The others may pass: the network's, the server's, and what came damaged.
_LASTING = (
    httpx.LocalProtocolError,
    httpx.UnsupportedProtocol,
    httpx.TooManyRedirects,
    httpx.HTTPStatusError,
    httpx.InvalidURL,
    httpx.StreamError,
    httpx.CookieConflict,
)


def unreachable(
    cause: Exception, origin: str, *, through_proxy: bool, request_id: str | None
) -> errors.SourceError:
    """Return the typed error for an exchange with `origin` that ended in an error of httpx."""
    chain = list(_chain(cause))
    if _find(chain, ssl.SSLCertVerificationError):
        return errors.NotTheApi(
            f"the certificate of {origin} cannot be trusted: check base_url, "
            "or name your own authority in SSL_CERT_FILE"
        )
    if isinstance(cause, _LASTING):
        return errors.RequestRefused(
            f"the request to {origin} cannot be made as it is ({type(cause).__name__}): report it",
            request_id=request_id,
        )
    peer = ("the proxy", "HTTPS_PROXY") if through_proxy else (origin, "base_url")
    sentence = _no_connection(chain, *peer) or _no_answer(chain, origin)
    error = errors.Unavailable(sentence, request_id=request_id)
    error.transient = True
    return error


def _no_connection(chain: list[BaseException], peer: str, setting: str) -> str | None:
    if _find(chain, socket.gaierror, UnicodeError):
        return (
            f"the host name of {peer} was not found: "
            f"check {setting} and the name server of this machine"
        )
    if _find(chain, ssl.SSLError):
        return (
            f"no TLS with {peer}: something else seems to answer there; "
            f"check {setting}, its port, and any proxy between"
        )
    if _find(chain, ConnectionRefusedError):
        return (
            f"{peer} refused the connection: nothing listens there, or a firewall forbids it; "
            f"check {setting} and its port"
        )
    if _find(chain, httpx.ConnectTimeout):
        return (
            f"{peer} did not take the connection in time: "
            f"check {setting} and the firewalls between, or raise retry.timeout_seconds"
        )
    if _find(chain, httpx.ConnectError):
        return (
            f"no connection to {peer} ({_errno_name(chain)}): "
            f"check {setting} and this machine's network"
        )
    return None


def _no_answer(chain: list[BaseException], origin: str) -> str:
    if _find(chain, httpx.TimeoutException):
        return (
            f"{origin} took the connection and did not answer in time: "
            "try again later, or raise retry.timeout_seconds"
        )
    if _find(chain, httpx.ProxyError):
        return (
            "the proxy did not let the request through: "
            "check HTTPS_PROXY, above all the user and password in it"
        )
    return (
        f"the answer of {origin} broke off or was not HTTP ({type(chain[0]).__name__}): "
        "try again later; if it lasts, check base_url and any proxy between"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _find(chain: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(error, kinds) for error in chain)


def _errno_name(chain: list[BaseException]) -> str:
    numbers = (error.errno or 0 for error in chain if isinstance(error, OSError))
    return next((errno.errorcode[n] for n in numbers if n in errno.errorcode), "no reason given")
