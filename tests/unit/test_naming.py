"""Whether a raw row names a person: in every spelling that JSON, URLs and broken bytes allow."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etl.domain.naming import find_name

NAME = "josé"
FORMS = {NAME, "5e884898da28"}
HALF = r"\ud83d"


@pytest.mark.parametrize(
    "payload",
    [
        '{"identity": "josé"}',
        r'{"identity": "jos\u00e9"}',
        r'{"identity": "jos\u00e9", "endpoint": "\ud83d"}',
        r'{"identity": "\u006a\u006F\u0073\u00E9", "endpoint": "\udc00\ud83d"}',
        '{"identity": "josé", "identity": "another"}',
        '{"identity": {"value": ["josé"]}}',
        '{"identity": {"josé": 1}}',
        '{"identity": "5e884898da28"}',
        '{"user": "josé"}',
        '{"endpoint": "josé"}',
        '{"url": "https://host/v1/Users/jos%C3%A9/Bindings"}',
        '{"url": "https:\\/\\/host\\/B?Identity=jos%c3%a9&x=1"}',
        '{"links": {"user": "https://host/Users/jos%C3%A9"}}',
        '["josé"]',
        r'"jos\u00e9"',
        '{"identity": "josé", "endpoint": "',
        r'{"identity": "jos\u00e9", "endpoint": ',
        r'{"identity": "jos\xe9", "endpoint": "\xff"}',
        '{"url": "https://host/B?Identity=jos%C3%A9", "endpoint": "\\xff"}',
        "{'identity': 'josé'}",
        "[" * 100_000 + '"josé"',
        '{"identity": "josé", "endpoint": "a\tb"}',
    ],
)
def test_a_row_that_names_the_person_is_found(payload: str) -> None:
    """A spelling that is passed over leaves the person in the quarantine after an erasure."""
    assert find_name(payload, FORMS).anywhere


@pytest.mark.parametrize(
    "payload",
    [
        '{"identity": "jos"}',
        '{"identity": "josé "}',
        '{"identity": "JOSÉ"}',
        '{"identity": "https://host/josé"}',
        r'{"identity": "jos\u00e9e", "endpoint": "\ud83d"}',
        '{"identity": "joséphine", "endpoint": "',
        '{"binding_type": "josé", "message_types": ["josé"]}',
        '{"url": "https://host/v1/Users/jos%C3%A9phine"}',
        "{}",
        "",
    ],
)
def test_another_person_s_row_is_let_alone(payload: str) -> None:
    """A likeness would cost another person's line of the quarantine."""
    assert not find_name(payload, FORMS).anywhere


@pytest.mark.parametrize(
    ("payload", "owned"),
    [
        (r'{"identity": "jos\u00e9"}', True),
        (r'{"identity": "josé", "endpoint": "\ud83d"}', True),
        ('{"user": "josé"}', False),
        ('["josé"]', False),
        ('{"identity": "josé", ', False),
    ],
)
def test_only_the_field_identity_tells_whose_a_binding_is(payload: str, owned: bool) -> None:
    """What else quotes a name must not cost another person a published binding."""
    assert find_name(payload, FORMS).as_identity is owned


def test_numbers_are_compared_as_they_are_spelled() -> None:
    """A malformed row may hold its identity as a number; read as one, `1.10` would be `1.1`."""
    assert find_name('{"identity": 1.10}', {"1.10"}).as_identity
    assert not find_name('{"identity": 1.10}', {"1.1"}).anywhere


@given(st.text(min_size=1), st.booleans(), st.booleans())
@example(name="😀", ascii_only=True, broken=True)
def test_no_spelling_of_a_name_hides_it(name: str, ascii_only: bool, broken: bool) -> None:
    """Any name of any script is found, escaped or not, beside half a character, in half a row."""
    spelled = json.dumps(name, ensure_ascii=ascii_only)
    payload = f'{{"identity": {spelled}, "endpoint": "{HALF}"' + ("" if broken else "}")
    assert find_name(payload, {name}).anywhere
