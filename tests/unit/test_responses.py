"""From an answer that is no page to an error that says what to do (docs/api.md §3)."""

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import errors
from etl.twilio.responses import ApiResponse, error_for, retry_after, twilio_code

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
REQUEST_ID = "RQ" + "0a" * 16
NGINX = b"<html><head><title>502 Bad Gateway</title></head><body>hunter2</body></html>"


def answer(status: int, body: Any = None, **headers: str) -> ApiResponse:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    raw = [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, value in headers.items()
    ]
    return ApiResponse(status, content, httpx.Headers(raw))


def usual(code: int | None, status: int, message: str = "hunter2") -> dict[str, Any]:
    return {
        "code": code,
        "message": message,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
        "status": status,
    }


@pytest.mark.parametrize(
    "body",
    [
        usual(20404, 404),
        usual(20404, 404) | {"details": {"hunter2": True}},
        {
            "type": "https://…",
            "title": "Not found",
            "status": 404,
            "code": 20404,
            "detail": "hunter2",
            "errors": [{"detail": "x", "pointer": "#"}],
        },
        {
            "code": 20404,
            "message": "hunter2",
            "httpStatusCode": 404,
            "params": {},
            "userError": True,
        },
        {
            "errors": [
                {"code": 20404, "message": "hunter2", "infoUrl": "…", "context": {}},
                {"code": 1},
            ]
        },
        {"code": "20404"},
    ],
)
def test_the_code_is_found_in_every_shape(body: dict[str, Any]) -> None:
    """Twilio has four shapes of errors (docs/api.md §3.1); support asks for the code."""
    assert twilio_code(json.dumps(body).encode()) == 20404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"20404",
        NGINX,
        b"upstream connect error or disconnect/reset before headers",
        b"\xff\xfe",
        b"{",
        b"{}",
        b'{"code": null}',
        b'{"code": true}',
        b'{"code": 20404.5}',
        b'{"code": -1}',
        b'{"code": {}}',
        b'{"code": "E404"}',
        b'{"code": "%s"}' % (b"9" * 5000),
        b'{"code": %s}' % (b"9" * 4000),
        '{"code": "²"}'.encode(),
        b'{"errors": []}',
        b'{"errors": ["x"]}',
        b'{"errors": {"code": 1}}',
        b"[" * 100_000,
    ],
)
def test_where_there_is_no_code_none_is_found(body: bytes) -> None:
    """Whatever a proxy sends, the scan must end with a typed error and not with a fault of the program."""
    assert twilio_code(body) is None
    for status in (302, 400, 401, 404, 429, 500):
        assert error_for(answer(status, body)).status == status


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, 20003, errors.CredentialsRefused),
        (401, None, errors.CredentialsRefused),
        (401, 70051, errors.PermissionMissing),
        (403, 70051, errors.PermissionMissing),
        (403, 20006, errors.PermissionMissing),
        (403, 20005, errors.CredentialsRefused),
        (403, None, errors.PermissionMissing),
        (404, 20404, errors.ServiceNotFound),
        (404, None, errors.ServiceNotFound),
        (429, 20429, errors.Throttled),
        (429, None, errors.Throttled),
        (400, 20007, errors.PageSizeRefused),
        (400, 20001, errors.PageSizeRefused),
        (400, 21481, errors.PageTokenRefused),
        (400, 70002, errors.PageTokenRefused),
        (400, None, errors.RequestRefused),
        (400, 99999, errors.RequestRefused),
        (405, None, errors.RequestRefused),
        (422, None, errors.RequestRefused),
        (408, None, errors.Unavailable),
        (500, 20500, errors.Unavailable),
        (500, None, errors.Unavailable),
        (501, None, errors.Unavailable),
        (502, None, errors.Unavailable),
        (503, 20503, errors.Unavailable),
        (504, None, errors.Unavailable),
        (522, None, errors.Unavailable),
        (301, None, errors.NotTheApi),
        (302, None, errors.NotTheApi),
        (307, 20404, errors.NotTheApi),
        (407, None, errors.NotTheApi),
    ],
)
def test_status_and_code_say_what_happened(
    status: int, code: int | None, kind: type[errors.SourceError]
) -> None:
    """The kind decides what the scan does next, and the sentence what the operator does."""
    error = error_for(answer(status, usual(code, status), twilio_request_id=REQUEST_ID))
    assert type(error) is kind
    assert (error.status, error.twilio_code, error.request_id) == (status, code, REQUEST_ID)
    assert str(error).startswith(f"HTTP {status}")
    assert (f"code {code}" in str(error)) is (code is not None)


@pytest.mark.parametrize(
    "body",
    [NGINX, b"not found", b"[]", b'"x"'],
)
def test_a_404_that_is_not_the_api_s_own_proves_nothing(body: bytes) -> None:
    """A wrong base_url answers 404 as well; taken for the API's word it would prove that bindings are gone."""
    assert type(error_for(answer(404, body))) is errors.NotTheApi


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b'{"status": 404}', b'{"errors": [{"code": 20404}]}', b'{"detail": "Not Found"}'],
)
def test_a_404_in_json_or_without_a_word_is_the_api_s(body: bytes) -> None:
    """The API has several shapes of errors, an empty one among them: a service that is gone must be told as such."""
    error = error_for(answer(404, body))
    assert type(error) is errors.ServiceNotFound
    assert error.wordless == (not body.strip())


@pytest.mark.parametrize("status", [201, 202, 204, 206])
def test_a_success_without_a_page_is_told_as_such(status: int) -> None:
    """Nothing was refused, so nothing of the configuration's filters or sizes is to blame."""
    assert type(error_for(answer(status, b""))) is errors.NotTheApi


@pytest.mark.parametrize(
    "message",
    [
        "PageToken is required for paging.",
        "Invalid page token",
        "BindingType 'x' is invalid",
        "Parameter Identity is bad",
    ],
)
def test_20001_blames_the_page_size_only_where_it_may(message: str) -> None:
    """The code stands for any bad parameter; asking for ever smaller pages would hide which one."""
    assert type(error_for(answer(400, usual(20001, 400, message)))) is errors.RequestRefused


@pytest.mark.parametrize("status", [408, 429, *range(500, 512), 520, 522, 524, 529, 599])
def test_what_passes_is_tried_again(status: int) -> None:
    """429 and 5xx are retried (docs/promises.md §7), also those that a content network makes up."""
    assert answer(status).transient


@pytest.mark.parametrize(
    "status", [200, 204, 301, 302, 307, 400, 401, 403, 404, 405, 407, 410, 422]
)
def test_what_stays_is_not_tried_again(status: int) -> None:
    """A refusal stays one; retrying it only costs the customer's concurrency."""
    assert not answer(status).transient


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        ("0.5", 0.5),
        (" 3 ", 3),
        ("-5", 0),
        ("100000", 100_000),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 13:00:30 +0100", 30),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0),
        ("Monday, 23-Nov-26 12:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 12:00:30 -0000", 30),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(value: str, seconds: float) -> None:
    """Coming back too early keeps the account throttled (docs/api.md §3.3)."""
    assert retry_after(answer(429, retry_after=value), NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "1_0",
        "+7",
        "0x10",
        "9" * 400,
        "nan",
        "NaN",
        "inf",
        "Infinity",
        "1e999",
        "Mon, 99 Foo 2026",
        "2026-11-23T12:00:30Z",
        "Mon, 23 Nov " + "9" * 30 + " 12:00:30 GMT",
    ],
)
def test_a_retry_after_that_says_nothing_is_passed_over(value: str) -> None:
    """A wait without end, or an error in place of a wait, would stop the run."""
    assert retry_after(answer(429, retry_after=value), NOW) is None
    assert retry_after(answer(429), NOW) is None


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Mon, 23 Nov 2026 11:58:30 GMT", 120),
        ("Mon, 23 Nov 2026 12:05:00 GMT", 0),
        ("today", 30),
        ("", 30),
    ],
)
def test_a_date_counts_from_the_answer_s_own(date: str, seconds: float) -> None:
    """A machine whose clock is late would wait for nothing, one whose clock is early would give up."""
    assert (
        retry_after(answer(429, retry_after="Mon, 23 Nov 2026 12:00:30 GMT", date=date), NOW)
        == seconds
    )


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=40))
def test_any_retry_after_is_a_wait_or_nothing(value: str) -> None:
    """The header is the server's to write; only a bounded wait may come of it."""
    seconds = retry_after(answer(429, retry_after=value), NOW)
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize(
    "value", ["RQ 1", "<script>", "RQ" + "0" * 63, "", "RQ\tada@example.com", "RQé", "RQ²"]
)
def test_an_odd_request_id_is_not_repeated(value: str) -> None:
    """It is logged and stored; a proxy must not be able to write there."""
    assert error_for(answer(500, twilio_request_id=value)).request_id is None


@given(
    st.integers(300, 599), st.sampled_from([20001, 20003, 20404, 20429, 70051, None]), st.booleans()
)
def test_no_message_holds_text_of_the_body(status: int, code: int | None, as_html: bool) -> None:
    """A body may quote the request, and with it an identity (docs/promises.md §6)."""
    body = (
        NGINX
        if as_html
        else {
            **usual(code, status),
            "detail": "hunter2",
            "params": {"hunter2": "hunter2"},
            "title": "hunter2",
        }
    )
    error = error_for(answer(status, body))
    assert "hunter" not in f"{error} {error!r} {error.args}"
