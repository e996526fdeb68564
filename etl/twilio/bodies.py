"""The body of an answer: whole, decompressed, and never larger than a page of this API can be.

httpx inflates a chunk before anyone can count it, layer upon layer, and takes a compressed body
that was cut for a whole one.
"""

import zlib
from collections.abc import Iterable

import httpx

from etl import errors
from etl.domain.slices import slice_object
from etl.twilio.responses import request_id_in

LARGEST_BODY_BYTES = 64 * 2**20

_GZIP = ("gzip", "x-gzip")
_PLAIN = ("", "identity")


def read_body(response: httpx.Response) -> bytes:
    """Return the whole body; an error in an encoding that was not asked for has none.

    Raises:
        MalformedPage: too large.
        NotTheApi: an encoding that was not asked for.
        httpx.TransportError, httpx.DecodingError: cut short or damaged on the way.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding in _PLAIN:
        body = _read_plain(response)
        _refuse_cut(body, response)
        return body
    if encoding in _GZIP:
        return _read_gzip(response)
    if response.status_code != 200:
        return b""
    raise errors.NotTheApi(
        "the answer is encoded in a way that was not asked for; "
        "check base_url and any proxy between",
        status=response.status_code,
        request_id=request_id_in(response.headers),
    )


def _read_plain(response: httpx.Response) -> bytes:
    chunks: list[bytes] = []
    left = LARGEST_BODY_BYTES
    for chunk in _arriving(response):
        left -= len(chunk)
        if left < 0:
            raise _too_large(response)
        chunks.append(chunk)
    return b"".join(chunks)


def _read_gzip(response: httpx.Response) -> bytes:
    """Return the inflated body, up to the limit; members may follow each other (RFC 1952 §2.2)."""
    chunks: list[bytes] = []
    left = LARGEST_BODY_BYTES
    member = None
    for arrived in _arriving(response):
        packed = arrived
        while packed:
            if member is None or member.eof:
                member = zlib.decompressobj(16 + zlib.MAX_WBITS)
            chunk = _inflate(member, packed, left + 1)
            left -= len(chunk)
            if left < 0:
                raise _too_large(response)
            chunks.append(chunk)
            packed = member.unused_data
    if member and not member.eof:
        raise httpx.DecodingError("the compressed body is cut short")
    return b"".join(chunks)


def _arriving(response: httpx.Response) -> Iterable[bytes]:
    """Return what is sent, piece by piece; `iter_raw` refuses a response made in a test."""
    assert isinstance(response.stream, httpx.SyncByteStream)  # noqa: S101 - nothing here is async
    return response.stream


def _inflate(member: "zlib._Decompress", packed: bytes, most: int) -> bytes:
    try:
        return member.decompress(packed, most)
    except zlib.error:
        raise httpx.DecodingError("the compressed body is damaged") from None


def _refuse_cut(body: bytes, response: httpx.Response) -> None:
    """Raise when a body without a length ends before its JSON does."""
    if (
        response.status_code != 200
        or "content-length" in response.headers
        or "transfer-encoding" in response.headers
    ):
        return
    if body.lstrip().startswith(b"{"):
        try:
            slice_object(body)
        except ValueError:
            raise httpx.RemoteProtocolError("the body is cut short") from None


def _too_large(response: httpx.Response) -> errors.MalformedPage:
    return errors.MalformedPage(
        f"the answer is larger than {LARGEST_BODY_BYTES // 2**20} MB, which no page of this API is",
        status=response.status_code,
        request_id=request_id_in(response.headers),
    )
