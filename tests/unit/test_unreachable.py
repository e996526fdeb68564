"""Why no usable answer came, by class and errno."""

import errno
import socket
import ssl

import httpx
import pytest

from etl import errors
from etl.twilio.unreachable import unreachable

ORIGIN = "https://conversations.twilio.com"


def told(error: Exception, cause: Exception | None = None, *, proxied: bool = False) -> str:
    error.__cause__ = cause
    found = unreachable(error, ORIGIN, through_proxy=proxied, request_id=None)
    assert isinstance(found, errors.Unavailable)
    assert found.transient
    return str(found)


@pytest.mark.parametrize(
    ("error", "cause", "begin"),
    [
        (httpx.ConnectError(""), socket.gaierror(socket.EAI_NONAME, "x"), "the host name of"),
        (httpx.ConnectError(""), socket.gaierror(socket.EAI_AGAIN, "x"), "the host name of"),
        (UnicodeError("label too long"), None, "the host name of"),
        (httpx.ConnectError(""), ConnectionRefusedError(errno.ECONNREFUSED, "x"), f"{ORIGIN} refused"),
        (httpx.ConnectTimeout(""), TimeoutError("x"), f"{ORIGIN} did not take"),
        (httpx.ConnectError(""), ssl.SSLEOFError(8, "x"), "no TLS with"),
        (httpx.ConnectError(""), OSError(errno.EHOSTUNREACH, "x"), f"no connection to {ORIGIN} (EHOSTUNREACH)"),
        (httpx.ConnectError(""), OSError(errno.EMFILE, "x"), f"no connection to {ORIGIN} (EMFILE)"),
        (httpx.ReadTimeout(""), TimeoutError("x"), f"{ORIGIN} took the connection"),
        (httpx.ProxyError("x"), None, "the proxy did not let"),
        (httpx.ReadError(""), ConnectionResetError(errno.ECONNRESET, "x"), f"the answer of {ORIGIN}"),
        (httpx.DecodingError("x"), None, f"the answer of {ORIGIN}"),
    ],
)  # fmt: skip
def test_each_reason_has_a_sentence(error: Exception, cause: Exception | None, begin: str) -> None:
    """One sentence for DNS, firewall and TLS alike sends the operator to three wrong places."""
    assert told(error, cause).startswith(begin)


def test_the_texts_of_others_are_not_repeated() -> None:
    """A system's or a proxy's text may quote what it was sent."""
    secret = OSError(errno.ENETUNREACH, "planted")
    assert "planted" not in told(httpx.ConnectError("planted"), secret)
    assert "planted" not in told(httpx.ProxyError("planted"))


def test_behind_a_proxy_it_is_the_proxy_that_cannot_be_reached() -> None:
    """Whoever looks at base_url while the proxy is down looks in the wrong place."""
    message = told(httpx.ConnectError(""), ConnectionRefusedError(), proxied=True)
    assert message.startswith("the proxy refused")
    assert ORIGIN not in message


def test_a_certificate_that_proves_nothing_does_not_pass() -> None:
    """Asking again would send nothing new, and hide the reason behind retries."""
    error = httpx.ConnectError("")
    error.__cause__ = ssl.SSLCertVerificationError(1, "x")
    found = unreachable(error, ORIGIN, through_proxy=False, request_id="RQ1")
    assert isinstance(found, errors.NotTheApi)
    assert not found.transient
