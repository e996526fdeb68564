"""What is posted about a run, and what the configuration takes for a place to post to."""

import json
from typing import Any

import pydantic
import pytest

from etl.config import Hooks
from etl.telemetry import hooks

TOTALS = {"inserted": 1204, "updated": 0, "deleted": 3, "restored": 0, "rejected": 0}
RUN: dict[str, Any] = {
    "run_id": 7,
    "mode": "sync",
    "status": "succeeded",
    "totals": TOTALS,
    "services": [],
}


def entry(status: str, message: str | None) -> dict[str, Any]:
    error = None if message is None else {"message": message}
    return {"account": "main", "chat_service_sid": "IS1", "status": status, "error": error}


def test_json_is_the_run_s_own_object() -> None:
    """Whoever reads `--json` reads hooks with the same program."""
    run = RUN | {"services": [entry("failed", "ünreadable \udc80")]}
    assert json.loads(hooks.body(run, 3, "json"))["totals"] == TOTALS


def test_a_chat_is_told_in_a_line() -> None:
    """A chat shows text and nothing else; that much has to say whether to get up."""
    text = json.loads(hooks.body(RUN, 0, "slack"))
    assert text == {
        "text": "*bindings-etl* sync run 7: *succeeded* (exit code 0), 1,204 inserted, 3 deleted"
    }


def test_a_chat_is_told_what_failed_and_not_for_ever() -> None:
    """With a thousand services down at once, the first ones tell why; what is told is no mark-up of its own."""
    run = RUN | {
        "status": "failed",
        "services": [
            entry("skipped", "passed over"),
            *(entry("failed", f"<!channel> & {number}") for number in range(50)),
        ],
    }
    lines = hooks.summary(run, 4).splitlines()
    assert lines[1] == "• IS1: failed: &lt;!channel&gt; &amp; 0"
    assert (len(lines), lines[-1]) == (12, "• … and 40 more")


def test_a_run_that_could_not_begin_says_why() -> None:
    """Its object has no services; the reason stands beside them."""
    run = RUN | {"run_id": None, "status": "failed", "error": {"message": "it is down"}}
    lines = hooks.summary(run | {"totals": dict.fromkeys(TOTALS, 0)}, 7).splitlines()
    assert lines == [
        "*bindings-etl* sync run: *failed* (exit code 7), no changes",
        "• it is down",
    ]


@pytest.mark.parametrize(
    ("given", "places"),
    [
        (None, []),
        ("", []),
        ([], []),
        ("https://hc.example/abc", ["https://hc.example/abc"]),
        (
            ["https://a.example", "http://127.0.0.1:9/x"],
            ["https://a.example", "http://127.0.0.1:9/x"],
        ),
        (["", "https://u:p@a.example:8443/x?y=z"], ["https://u:p@a.example:8443/x?y=z"]),
    ],
)
def test_a_url_a_list_or_none(given: Any, places: list[str]) -> None:
    """`on_failure: ${HOOK:-}` has to mean no hook where the variable is not set."""
    found = Hooks(on_failure=given).on_failure
    assert [url.get_secret_value() for url in found] == places


@pytest.mark.parametrize(
    "given",
    [
        "http://hooks.example/secret",
        "http://127.0.0.1.evil.example/secret",
        "ftp://hooks.example/secret",
        "hooks.example/secret",
        "https:///secret",
        "https://hooks.example/secret secret",
        "https://hooks.example:0/secret",
        "https://hooks.example:99999/secret",
        "https://[::1/secret",
        5,
        {"url": "https://hooks.example/secret"},
        [["https://hooks.example/secret"]],
    ],
)
def test_what_is_no_place_to_post_to_is_said_without_repeating_it(given: Any) -> None:
    """The URL is a secret also where it is wrong; and it goes over no open wire."""
    with pytest.raises(pydantic.ValidationError) as raised:
        Hooks(on_failure=given)
    assert "secret" not in str(raised.value)
    assert {error["loc"] for error in raised.value.errors()} == {("on_failure",)}
