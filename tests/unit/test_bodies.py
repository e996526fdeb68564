"""Bodies of answers: whole or refused, however they are packed, and never larger than there is room for (docs/promises.md §7, §9)."""

import gzip
import tracemalloc
import zlib
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import MalformedPage, NotTheApi
from etl.twilio.bodies import LARGEST_BODY_BYTES, read_body

BODY = b'{"bindings": [{"sid": "BS1"}, {"sid": "BS2"}], "meta": {"key": "bindings", "next_page_url": null}}'
PACKED = gzip.compress(BODY, mtime=0)  # the hour of the run stays out of the names of tests


class Arriving(httpx.SyncByteStream):
    """A body as it comes from a socket, piece by piece."""

    def __init__(self, sent: bytes, piece: int) -> None:
        self._sent, self._piece = sent, piece

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._sent), self._piece):
            yield self._sent[start : start + self._piece]


def read(
    sent: bytes,
    encoding: str | None = None,
    *,
    status: int = 200,
    piece: int = 65536,
    length: bool = True,
) -> bytes:
    headers = {"content-length": str(len(sent))} if length else {}
    if encoding is not None:
        headers["content-encoding"] = encoding
    response = httpx.Response(status, headers=headers, stream=Arriving(sent, piece))
    return read_body(response)


@pytest.mark.parametrize("encoding", [None, "", "identity", "Identity"])
def test_a_plain_body_comes_through(encoding: str | None) -> None:
    """Most proxies take the packing away."""
    assert read(BODY, encoding) == BODY
    assert read(b"", encoding) == b""


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", " x-gzip "])
@pytest.mark.parametrize("piece", [1, 7, 65536])
def test_a_packed_body_is_unpacked(encoding: str, piece: int) -> None:
    """Pieces end anywhere, also within the head of the packing."""
    assert read(PACKED, encoding, piece=piece) == BODY
    assert read(b"", encoding) == b""


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4), st.integers(1, 50))
def test_members_are_joined(parts: list[bytes], piece: int) -> None:
    """A proxy may pack in several members; read to the end of the first only, a page would lose its other rows."""
    assert read(b"".join(map(gzip.compress, parts)), "gzip", piece=piece) == b"".join(parts)


@given(st.integers(1, len(PACKED) - 1), st.booleans())
def test_a_packed_body_that_is_cut_is_not_taken_for_whole(length: int, with_length: bool) -> None:
    """Its length may be right all the same: a proxy that lost half of an answer counts what it has."""
    with pytest.raises(httpx.DecodingError):
        read(PACKED[:length], "gzip", length=with_length)


@pytest.mark.parametrize(
    "sent", [BODY, PACKED[:-8] + b"00000000", PACKED + b"more", zlib.compress(BODY)]
)
def test_a_damaged_body_is_told_as_such(sent: bytes) -> None:
    """Whatever a proxy makes of a body, it may well come right the next time."""
    with pytest.raises(httpx.DecodingError):
        read(sent, "gzip")


@pytest.mark.parametrize(
    "encoding", ["gzip, gzip", "gzip,identity", "br", "deflate", "zstd", "rot13"]
)
def test_an_encoding_that_was_not_asked_for_is_refused(encoding: str) -> None:
    """Three kilobytes packed twice become four gigabytes."""
    with pytest.raises(NotTheApi, match="encoded"):
        read(gzip.compress(PACKED), encoding)
    assert read(b"\xff", encoding, status=503) == b""


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_what_is_too_large_is_refused_before_it_is_held(encoding: str | None) -> None:
    """A job may have little more memory than a batch needs; an answer must not be able to end it."""
    size = 4 * LARGEST_BODY_BYTES
    sent = gzip.compress(bytes(size), 1) if encoding else b" " * (LARGEST_BODY_BYTES + 1)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedPage, match="64 MB"):
            read(sent, encoding, piece=2**16 if encoding is None else len(sent))
        assert tracemalloc.get_traced_memory()[1] < 2.5 * LARGEST_BODY_BYTES
    finally:
        tracemalloc.stop()


def test_the_largest_body_is_still_read() -> None:
    """The limit itself is not too large."""
    assert len(read(gzip.compress(bytes(LARGEST_BODY_BYTES), 1), "gzip")) == LARGEST_BODY_BYTES


@given(st.integers(1, len(BODY) - 1))
def test_a_body_that_ends_with_its_connection_has_to_be_whole(length: int) -> None:
    """Without a length nobody but the JSON can tell that it was cut, and it may come whole the next time."""
    assert read(BODY, length=False) == BODY
    with pytest.raises(httpx.RemoteProtocolError):
        read(BODY[:length], length=False)


@pytest.mark.parametrize("sent", [b"", b"<html>", b"[]", b"{} ", b'{"a": "\\ud800"}'])
def test_what_is_no_json_object_is_not_cut(sent: bytes) -> None:
    """A captive portal's page is told as such, without asking for it six times; a bad row is one bad row."""
    assert read(sent, length=False) == sent
    assert read(BODY[:5], length=False, status=500) == BODY[:5]
