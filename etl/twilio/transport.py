"""HTTP to one origin, as a transport of httpx: tests plug `httpx.MockTransport` in instead.

`httpx.Client` is not on top of it: redirects, cookies and mounts are not wanted here, and would
cost 0.15 ms of CPU a request, which is a tenth of a repeat of 100,000 rows.
"""

import contextlib
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import httpcore
import httpx

from etl import errors
from etl.twilio.deadlines import DeadlineBackend

_KEPT_SECONDS = 30.0

_AS_HTTPX: dict[type[Exception], type[httpx.TransportError]] = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.TimeoutException: httpx.TimeoutException,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.NetworkError: httpx.NetworkError,
    httpcore.ConnectionNotAvailable: httpx.ConnectError,
    httpcore.ProxyError: httpx.ProxyError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
    httpcore.ProtocolError: httpx.ProtocolError,
    UnicodeError: httpx.ConnectError,  # a host name that cannot even be looked up
}
_LOWER_ERRORS = tuple(_AS_HTTPX)


class GetRequest(httpx.Request):
    """A GET of a link, which goes out byte by byte as it was given.

    httpx takes the URL of a request apart at once, which costs a sixth of a request's CPU; here
    only who asks for it pays. What is sent is httpx's extension `target`.
    """

    def __init__(self, origin: str, link: str, headers: httpx.Headers) -> None:
        self.method = "GET"
        self.headers = headers
        self.stream = httpx.ByteStream(b"")
        self.extensions = {"target": link.removeprefix(origin).encode("ascii")}
        self._link = link

    @property
    def url(self) -> httpx.URL:  # type: ignore[override]
        """Where the link leads."""
        return httpx.URL(self._link)


class HttpTransport(httpx.BaseTransport):
    """Sends requests without a body to one origin, whatever host their URL names.

    So nobody else gets the credentials.
    """

    def __init__(
        self,
        origin: str,
        proxy: httpcore.Proxy | None = None,
        backend: httpcore.NetworkBackend | None = None,
    ) -> None:
        url = httpx.URL(origin)
        self._parts = (url.raw_scheme, url.raw_host, url.port)
        certificates = _trusted_certificates() if url.scheme == "https" else None
        timed = DeadlineBackend(backend)
        self._connections: httpcore.ConnectionPool | _Connections
        if proxy:
            # The throttle bounds what is in flight.
            self._connections = httpcore.ConnectionPool(
                certificates, proxy=proxy, network_backend=timed, max_connections=None
            )
        else:
            self._connections = _Connections(_origin(url), certificates, timed)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`; the body is read from the response, which has to be closed.

        Raises:
            httpx.TransportError: there is no answer.
        """
        scheme, host, port = self._parts
        target = request.extensions.get("target") or request.url.raw_path
        sent = httpcore.Request(
            request.method,
            httpcore.URL(scheme=scheme, host=host, port=port, target=target),
            headers=request.headers.raw,
        )
        try:
            answer = self._connections.handle_request(sent)
        except _LOWER_ERRORS as error:
            raise _as_httpx(error) from error
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer.stream))

    def close(self) -> None:
        """Close all connections, those in use when they come back."""
        self._connections.close()


class _Connections:
    """Kept-alive connections to one origin, in place of httpcore's pool.

    Its queue is not needed, since the throttle bounds what is in flight, and costs 0.1 ms of CPU a
    request with 4 in flight, 0.2 ms with 16: 6 and 12 % of a repeat of 100,000 rows.
    """

    def __init__(
        self,
        origin: httpcore.Origin,
        certificates: ssl.SSLContext | None,
        backend: httpcore.NetworkBackend,
    ) -> None:
        self._origin = origin
        self._certificates = certificates
        self._backend = backend
        self._idle: list[httpcore.HTTPConnection] = []
        self._closed = False

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        kept = self._take()
        if kept is not None:
            # It may end as it is used; nothing was answered then, so that is no failed try.
            with contextlib.suppress(
                httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError
            ):
                return self._send(kept, request)
        return self._send(self._connect(), request)

    def close(self) -> None:
        self._closed = True
        while (connection := self._pop()) is not None:
            connection.close()

    def _send(
        self, connection: httpcore.HTTPConnection, request: httpcore.Request
    ) -> httpcore.Response:
        try:
            answer = connection.handle_request(request)
        except BaseException:
            connection.close()
            raise
        answer.stream = _Lent(answer.stream, lambda: self._give_back(connection))
        return answer

    def _take(self) -> httpcore.HTTPConnection | None:
        while (connection := self._pop()) is not None:
            if not connection.has_expired():
                return connection
            connection.close()
        return None

    def _pop(self) -> httpcore.HTTPConnection | None:
        with contextlib.suppress(IndexError):  # another thread may be faster
            return self._idle.pop()
        return None

    def _connect(self) -> httpcore.HTTPConnection:
        return httpcore.HTTPConnection(
            self._origin,
            self._certificates,
            keepalive_expiry=_KEPT_SECONDS,
            network_backend=self._backend,
        )

    def _give_back(self, connection: httpcore.HTTPConnection) -> None:
        self._idle.append(connection) if connection.is_idle() else connection.close()
        if self._closed:
            self.close()


class _Lent:
    """A body whose connection is given back when it is closed."""

    def __init__(self, stream: Any, give_back: Callable[[], None]) -> None:
        self._stream = stream
        self._give_back = give_back

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        self._stream.close()
        self._give_back()


class _Body(httpx.SyncByteStream):
    """A body whose errors are httpx's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except _LOWER_ERRORS as error:
            raise _as_httpx(error) from error

    def close(self) -> None:
        self._stream.close()


def _as_httpx(error: Exception) -> httpx.TransportError:
    kind = next(kind for kind in type(error).__mro__ if kind in _AS_HTTPX)
    return _AS_HTTPX[kind](str(error))


def _origin(url: httpx.URL) -> httpcore.Origin:
    port = url.port or (443 if url.scheme == "https" else 80)
    return httpcore.Origin(url.raw_scheme, url.raw_host, port)


def _trusted_certificates() -> ssl.SSLContext:
    """Return a TLS context; SSL_CERT_FILE and SSL_CERT_DIR count, as everywhere in httpx."""
    try:
        return httpx.create_ssl_context()
    except OSError:
        raise errors.ConfigurationError(
            "the certificates that the environment variable SSL_CERT_FILE or SSL_CERT_DIR names "
            "cannot be read; correct or unset it"
        ) from None
