"""The API's responses, and the typed error of one that is no 200 (docs/api.md §3.1, §3.2)."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httpx
import msgspec

from etl import errors


class ApiResponse(msgspec.Struct, frozen=True):
    """What came back for one request, its body read and unpacked."""

    status: int
    body: bytes
    headers: httpx.Headers

    @property
    def request_id(self) -> str | None:
        """The id of `request_id_in`."""
        return request_id_in(self.headers)

    @property
    def transient(self) -> bool:
        """Whether the same request may well succeed later (docs/promises.md §7)."""
        return self.status in (408, 429) or self.status >= 500


def request_id_in(headers: httpx.Headers) -> str | None:
    """Return the RQ… id that Twilio's support asks for (docs/api.md §3.6), if it looks like one."""
    value = headers.get("twilio-request-id")
    return value if value and _is_request_id(value) else None


_is_number = re.compile(r"[0-9]{1,9}").fullmatch
_is_seconds = re.compile(r"-?[0-9]{1,9}(\.[0-9]{0,9})?").fullmatch
_is_request_id = re.compile(r"[A-Za-z0-9]{1,64}").fullmatch


class _Cause(NamedTuple):
    kind: type[errors.SourceError]
    sentence: str


_BY_CODE: Mapping[int, _Cause] = {
    20003: _Cause(
        errors.CredentialsRefused,
        "the API refuses the credentials: check key and secret, that they belong to this region "
        "(a key works in one region only), and that account and key are active",
    ),
    20005: _Cause(
        errors.CredentialsRefused,
        "the account is not active or suspended: see its state in the Twilio Console",
    ),
    20006: _Cause(
        errors.PermissionMissing,
        "access is denied: the key may not read this service; "
        "use a key of the account that owns it",
    ),
    70051: _Cause(
        errors.PermissionMissing,
        "the key lacks a permission: "
        "give a restricted key the rights of Conversations to list services, and to list and "
        "fetch bindings",
    ),
    20404: _Cause(
        errors.ServiceNotFound,
        "the API knows no such service: "
        "it was deleted, the SID is of another product, or the key is of another account",
    ),
    20429: _Cause(
        errors.Throttled,
        "the account has too many requests in flight: "
        "lower `concurrency`, or run when there is less traffic",
    ),
    20007: _Cause(errors.PageSizeRefused, "the API refuses the page size: lower `page_size`"),
    21481: _Cause(errors.PageTokenRefused, "the API no longer takes the page token of a link"),
    70002: _Cause(
        errors.PageTokenRefused,
        "the API asks for a page token that its own link did not have; report it to Twilio",
    ),
}

_BY_STATUS: Mapping[int, _Cause] = {
    401: _BY_CODE[20003],
    403: _BY_CODE[20006],
    404: _BY_CODE[20404],
    407: _Cause(
        errors.NotTheApi,
        "the proxy asks for credentials: put them into the proxy's environment variable",
    ),
    408: _Cause(errors.Unavailable, "the API gave up waiting for the request: try again later"),
    429: _BY_CODE[20429],
    500: _Cause(
        errors.Unavailable,
        "the API has a fault of its own: "
        "try again later; if it lasts, give Twilio's support the request id",
    ),
    502: _Cause(
        errors.Unavailable, "a gateway before the API got no answer from it: try again later"
    ),
    503: _Cause(errors.Unavailable, "the API is temporarily unavailable: try again later"),
    504: _Cause(
        errors.Unavailable, "a gateway before the API waited too long for it: try again later"
    ),
}

_REDIRECT = _Cause(
    errors.NotTheApi,
    "the answer is a redirect, which this API never gives and which is not followed; "
    "check base_url",
)
_NO_CONTENT = _Cause(
    errors.NotTheApi,
    "the answer is a success without a page, which this API never gives; "
    "check base_url and any proxy between",
)
_NOT_THE_API = _Cause(
    errors.NotTheApi, "the answer is not the API's own: check base_url and any proxy between"
)
_REFUSED = _Cause(
    errors.RequestRefused,
    "the API does not take the request: check the configuration, or report it with the request id",
)


def error_for(response: ApiResponse) -> errors.SourceError:
    """Return the error that a response other than 200 stands for."""
    code = twilio_code(response.body)
    cause = _find_cause(response, code)
    sentence = f"HTTP {response.status}{f', code {code}' if code else ''}: {cause.sentence}"
    error = cause.kind(
        sentence, status=response.status, twilio_code=code, request_id=response.request_id
    )
    error.wordless = not response.body.strip()
    return error


def _find_cause(response: ApiResponse, code: int | None) -> _Cause:
    if 300 <= response.status < 400:
        return _REDIRECT
    if response.status < 300:
        return _NO_CONTENT
    if response.status == 404 and not _may_be_the_api(response.body):
        return _NOT_THE_API
    if response.status == 400 and code == 20001 and _may_mean_page_size(response.body):
        return _BY_CODE[20007]
    known = _BY_CODE.get(code or 0) or _BY_STATUS.get(response.status)
    return known or (_BY_STATUS[500] if response.status >= 500 else _REFUSED)


def twilio_code(body: bytes) -> int | None:
    """Return the error code, in any of the four shapes of error bodies (docs/api.md §3.1)."""
    document = _decode_object(body) or {}
    nested = document.get("errors")
    if (
        "code" not in document
        and isinstance(nested, list)
        and nested
        and isinstance(nested[0], dict)
    ):
        document = nested[0]
    return _parse_code(document.get("code"))


def _may_be_the_api(body: bytes) -> bool:
    """Return whether the API can have said so; a page for people is a proxy's (§3.1)."""
    return not body.strip() or _decode_object(body) is not None


def _parse_code(value: Any) -> int | None:
    return int(value) if isinstance(value, int | str) and _is_number(str(value)) else None


def retry_after(response: ApiResponse, now: datetime) -> float | None:
    """Return the seconds that the server asks to wait (docs/api.md §3.3), never negative, or None.

    A date counts from the response's own `Date`, since the two clocks may differ; from `now` where
    it has none.
    """
    value = response.headers.get("retry-after", "").strip()
    if _is_seconds(value):
        return max(0.0, float(value))
    moment = _parse_date(value)
    if moment is None:
        return None
    return max(
        0.0, (moment - (_parse_date(response.headers.get("date", "")) or now)).total_seconds()
    )


def _parse_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _may_mean_page_size(body: bytes) -> bool:
    """Return whether 20001, which any bad parameter gets, names no other one (docs/api.md §2.5)."""
    message = str((_decode_object(body) or {}).get("message", "")).lower().replace(" ", "")
    return not any(other in message for other in ("pagetoken", "bindingtype", "identity"))


def _decode_object(body: bytes) -> dict[str, Any] | None:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
