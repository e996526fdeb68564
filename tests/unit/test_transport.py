"""What the transport sends, and that its errors are httpx's; the sockets are httpcore's mocks."""

import inspect
from typing import Any

import httpcore
import httpx
import pytest

from etl.twilio.transport import GetRequest, HttpTransport

ORIGIN = "http://127.0.0.1:8000"
LINK = f"{ORIGIN}/v1/Services?PageSize=50&PageToken=PT%zz=~:a.b_c"
HEADERS = httpx.Headers({"Host": "127.0.0.1:8000", "Authorization": "Basic eA=="})
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTwilio-Request-Id: RQ1\r\n\r\n{}"

LOWER_ERRORS = sorted(
    (
        kind
        for _, kind in inspect.getmembers(httpcore, inspect.isclass)
        if issubclass(kind, Exception)
    ),
    key=lambda kind: kind.__name__,
)


class Wire(httpcore.MockBackend):
    """Sockets that give `answers`, one to each connection, and keep what was written."""

    def __init__(self, *answers: list[bytes], error: Exception | None = None) -> None:
        super().__init__([])
        self.written: list[bytes] = []
        self.connections = self.closed = 0
        self._answers = list(answers)
        self._error = error

    def connect_tcp(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        self.connections += 1
        return _Socket(self, self._answers.pop(0), self._error)


class _Socket(httpcore.MockStream):
    def __init__(self, wire: Wire, answer: list[bytes], error: Exception | None) -> None:
        super().__init__(answer)
        self._wire = wire
        self._error = error

    def close(self) -> None:
        self._wire.closed += 1
        super().close()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._buffer and self._error:
            raise self._error
        return super().read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._wire.written.append(buffer)
        super().write(buffer, timeout)


def get(transport: HttpTransport, link: str = LINK) -> httpx.Response:
    return transport.handle_request(GetRequest(ORIGIN, link, HEADERS))


def read(stream: Any) -> bytes:
    return b"".join(stream)


def test_a_link_goes_out_byte_by_byte() -> None:
    """A damaged token brings an empty page (docs/api.md §2.4): all behind it would be deleted."""
    wire = Wire([PAGE])
    response = get(HttpTransport(ORIGIN, backend=wire))
    assert (response.status_code, response.headers["twilio-request-id"]) == (200, "RQ1")
    assert read(response.stream) == b"{}"
    head = b"".join(wire.written).split(b"\r\n")
    assert head[0] == b"GET /v1/Services?PageSize=50&PageToken=PT%zz=~:a.b_c HTTP/1.1"
    assert b"Host: 127.0.0.1:8000" in head


def test_it_serves_a_client_of_httpx() -> None:
    """A transport that only our own client can use would be no seam of httpx's."""
    wire = Wire([PAGE])
    with httpx.Client(transport=HttpTransport(ORIGIN, backend=wire)) as client:
        response = client.get(f"{ORIGIN}/v1/Services?a=b")
    assert response.json() == {}
    assert wire.written[0].startswith(b"GET /v1/Services?a=b HTTP/1.1\r\n")


def test_the_url_of_a_request_is_there_for_who_asks() -> None:
    """A function in place of the network has to see what was asked for."""
    assert str(GetRequest(ORIGIN, LINK, HEADERS).url) == LINK


def test_a_connection_is_used_again() -> None:
    """A handshake per page would double the time of a listing."""
    wire = Wire([PAGE, PAGE])
    transport = HttpTransport(ORIGIN, backend=wire)
    for _ in range(2):
        response = get(transport)
        read(response.stream)
        response.close()
    assert wire.connections == 1


def test_a_connection_that_comes_back_late_is_closed() -> None:
    """When a reading breaks off, its other chains have requests in flight; a worker that lives on would keep the sockets."""
    wire = Wire([PAGE])
    transport = HttpTransport(ORIGIN, backend=wire)
    response = get(transport)
    transport.close()
    read(response.stream)
    assert wire.closed == 0
    response.close()
    assert wire.closed == 1


@pytest.mark.parametrize("kind", LOWER_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_httpcore_is_one_of_httpx(kind: type[Exception]) -> None:
    """An error that is not mapped would end a run as a fault of the program."""
    transport = HttpTransport(ORIGIN, backend=Wire([], error=kind("x")))
    with pytest.raises(httpx.TransportError) as raised:
        get(transport)
    assert isinstance(raised.value.__cause__, kind)
    assert type(raised.value).__name__ in (kind.__name__, "ConnectError")


@pytest.mark.parametrize("kind", LOWER_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_in_mid_body_is_one_of_httpx(kind: type[Exception]) -> None:
    """A body breaks off as often as a connection does."""
    transport = HttpTransport(ORIGIN, backend=Wire([PAGE[:-1]], error=kind("x")))
    response = get(transport)
    with pytest.raises(httpx.TransportError):
        read(response.stream)


class SubclassError(httpcore.ReadTimeout):
    """One that a later httpcore may have."""


def test_a_new_subclass_is_mapped_as_its_parent() -> None:
    """A new release of httpcore must not turn a passing fault into a fault of the program."""
    with pytest.raises(httpx.ReadTimeout):
        get(HttpTransport(ORIGIN, backend=Wire([], error=SubclassError("x"))))
