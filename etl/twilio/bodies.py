"""The body of an answer: whole, decompressed, and never larger than a page of this API can be.

httpx inflates a chunk before anyone can count it, layer upon layer, and takes a compressed body that was cut for a whole one.
"""

import zlib

import httpx

from etl import errors
from etl.domain.slices import slice_object
from etl.twilio.failures import Answer

LARGEST_BODY_BYTES = 64 * 2**20

_GZIP = ("gzip", "x-gzip")
_PLAIN = ("", "identity")


def read_body(response: httpx.Response, head: Answer) -> bytes:
    """Everything that came for `head`. An error whose encoding is not known has no body: its status says enough.

    Raises:
        MalformedPage: too large.
        NotTheApi: an encoding that was not asked for.
        httpx.TransportError, httpx.DecodingError: cut short or damaged on the way.
    """
    encoding = head.headers.get("content-encoding", "").strip().lower()
    if encoding in _PLAIN:
        body = _read_plain(response, head)
        _refuse_cut(body, head)
        return body
    if encoding in _GZIP:
        return _read_gzip(response, head)
    if head.status != 200:
        return b""
    raise errors.NotTheApi(
        "the answer is encoded in a way that was not asked for; check base_url and any proxy between",
        status=head.status,
        request_id=head.request_id,
    )


def _read_plain(response: httpx.Response, head: Answer) -> bytes:
    chunks: list[bytes] = []
    left = LARGEST_BODY_BYTES
    for chunk in response.iter_raw():
        left -= len(chunk)
        if left < 0:
            raise _too_large(head)
        chunks.append(chunk)
    return b"".join(chunks)


def _read_gzip(response: httpx.Response, head: Answer) -> bytes:
    """Inflate no more than there is room for; one member may follow another (RFC 1952 §2.2)."""
    chunks: list[bytes] = []
    left = LARGEST_BODY_BYTES
    member = None
    for arrived in response.iter_raw():
        packed = arrived
        while packed:
            if member is None or member.eof:
                member = zlib.decompressobj(16 + zlib.MAX_WBITS)
            chunk = _inflate(member, packed, left + 1)
            left -= len(chunk)
            if left < 0:
                raise _too_large(head)
            chunks.append(chunk)
            packed = member.unused_data
    if member and not member.eof:
        raise httpx.DecodingError("the compressed body is cut short")
    return b"".join(chunks)


def _inflate(member: "zlib._Decompress", packed: bytes, most: int) -> bytes:
    try:
        return member.decompress(packed, most)
    except zlib.error:
        raise httpx.DecodingError("the compressed body is damaged") from None


def _refuse_cut(body: bytes, head: Answer) -> None:
    """Where the end of the connection is the end of the body, only the JSON itself tells whether it is whole."""
    if (
        head.status != 200
        or "content-length" in head.headers
        or "transfer-encoding" in head.headers
    ):
        return
    if body.lstrip().startswith(b"{"):
        try:
            slice_object(body)
        except ValueError:
            raise httpx.RemoteProtocolError("the body is cut short") from None


def _too_large(head: Answer) -> errors.MalformedPage:
    return errors.MalformedPage(
        f"the answer is larger than {LARGEST_BODY_BYTES // 2**20} MB, which no page of this API is",
        status=head.status,
        request_id=head.request_id,
    )
