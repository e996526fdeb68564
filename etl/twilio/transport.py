"""HTTP below httpx's client: one origin, one time limit for a whole exchange, one limit of size.

httpx's own limits hold for each read of the socket, so a server that sends one byte a second keeps
a request alive for ever (docs/api.md §3.5). httpcore, on which httpx stands, takes a network
backend; this one cuts every wait to what is left.
"""

import contextlib
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from etl import errors
from etl.config import is_loopback

_KEPT_SECONDS = 30.0

_local = threading.local()


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Everything that this thread sends and receives inside has to be done within `seconds`."""
    _local.until = time.monotonic() + seconds
    try:
        yield
    finally:
        _local.until = None


def _left(timeout: float | None, error: type[Exception]) -> float | None:
    until: float | None = getattr(_local, "until", None)
    if until is None:
        return timeout
    left = until - time.monotonic()
    if left <= 0:
        raise error("the time limit of the whole exchange was reached")
    return left if timeout is None else min(timeout, left)


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _TimedStream(
            self._inner.start_tls(
                ssl_context, server_hostname, _left(timeout, httpcore.ConnectTimeout)
            )
        )

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _TimedBackend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        limit = _left(timeout, httpcore.ConnectTimeout)
        return _TimedStream(
            self._inner.connect_tcp(host, port, limit, local_address, socket_options)
        )


class Transport:
    """GETs from one origin over kept-alive connections, through the proxy that the environment names for it, if any.

    Stands where httpx's client and transport would: what those add (redirects, cookies, mounts, a queue for connections) is not
    wanted here, since the throttle bounds what is in flight, and costs half of the CPU of a request (measured: 0.34 against
    0.18 ms, 100 rows a page). The answer is httpx's.
    """

    def __init__(self, origin: str, headers: httpx.Headers) -> None:
        url = httpx.URL(origin)
        self._origin = origin
        self._parts = (url.raw_scheme, url.raw_host, url.port)
        self._headers = [(b"Host", url.netloc), *headers.raw]
        self._ssl_context = _trusted_certificates() if url.scheme == "https" else None
        self._idle: list[httpcore.HTTPConnection] = []
        proxy = environment_proxy(origin)
        # The throttle bounds what is in flight.
        self._tunnel = proxy and httpcore.ConnectionPool(
            self._ssl_context, proxy=proxy, network_backend=_TimedBackend(), max_connections=None
        )

    @property
    def through_proxy(self) -> bool:
        """Whether a proxy stands between."""
        return self._tunnel is not None

    def get(self, url: str) -> httpx.Response:
        """Send one request to `url`, which begins with the origin; the body is read from the answer, which has to be closed."""
        scheme, host, port = self._parts
        target = url.removeprefix(self._origin).encode("ascii")
        request = httpcore.Request(
            "GET",
            httpcore.URL(scheme=scheme, host=host, port=port, target=target),
            headers=self._headers,
        )
        if self._tunnel:
            return _as_httpx(self._tunnel.handle_request(request), lambda: None)
        kept = self._take()
        if kept is not None:
            # It may end at the very moment in which it is used; nothing was answered then, so that is no failed try.
            with contextlib.suppress(
                httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError
            ):
                return self._send(kept, request)
        return self._send(self._connect(), request)

    def _send(
        self, connection: httpcore.HTTPConnection, request: httpcore.Request
    ) -> httpx.Response:
        try:
            answer = connection.handle_request(request)
        except BaseException:
            connection.close()
            raise
        return _as_httpx(answer, lambda: self._give_back(connection))

    def close(self) -> None:
        """Close all connections that are not in use."""
        while self._idle:
            self._idle.pop().close()
        if self._tunnel:
            self._tunnel.close()

    def _take(self) -> httpcore.HTTPConnection | None:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                connection = self._idle.pop()
                if not connection.has_expired():
                    return connection
                connection.close()
        return None

    def _connect(self) -> httpcore.HTTPConnection:
        scheme, host, port = self._parts
        origin = httpcore.Origin(scheme, host, port or (443 if scheme == b"https" else 80))
        return httpcore.HTTPConnection(
            origin,
            self._ssl_context,
            keepalive_expiry=_KEPT_SECONDS,
            network_backend=_TimedBackend(),
        )

    def _give_back(self, connection: httpcore.HTTPConnection) -> None:
        self._idle.append(connection) if connection.is_idle() else connection.close()


def _as_httpx(answer: httpcore.Response, done: Callable[[], None]) -> httpx.Response:
    return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer.stream, done))


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any, done: Callable[[], None]) -> None:
        self._stream = stream
        self._done = done

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._stream.close()
        self._done()


def environment_proxy(origin: str) -> httpcore.Proxy | None:
    """Return the proxy that HTTPS_PROXY or ALL_PROXY names, unless NO_PROXY exempts `origin`.

    Loopback and plain http, which is taken for loopback only, never go through one: it would read
    the credentials, and could not reach this machine anyway.

    Raises:
        ConfigurationError: what they name is no HTTP proxy.
    """
    place = urlsplit(origin)
    if place.scheme != "https" or is_loopback(place.hostname or ""):
        return None
    proxies = urllib.request.getproxies_environment()
    address = proxies.get("https") or proxies.get("all")
    is_exempt = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
    if not address or is_exempt(place.netloc, proxies):
        return None
    try:
        proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
    except (httpx.InvalidURL, ValueError):
        raise _not_a_proxy() from None
    if proxy.url.scheme not in ("http", "https") or not proxy.url.host:
        raise _not_a_proxy()
    url = httpcore.URL(
        scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/"
    )
    return httpcore.Proxy(url, auth=proxy.raw_auth)


def _not_a_proxy() -> errors.ConfigurationError:
    """The address itself is not told: it may hold a password."""
    return errors.ConfigurationError(
        "the environment variable HTTPS_PROXY (or ALL_PROXY) does not hold the http(s) URL of a "
        "proxy; correct or unset it"
    )


def _trusted_certificates() -> ssl.SSLContext:
    """SSL_CERT_FILE and SSL_CERT_DIR are honoured here, as everywhere in httpx."""
    try:
        return httpx.create_ssl_context()
    except OSError:
        raise errors.ConfigurationError(
            "the certificates that the environment variable SSL_CERT_FILE or SSL_CERT_DIR names cannot be read; "
            "correct or unset it"
        ) from None
