"""What is wrong with a setting, in our own words: the form of its value, its line, what was meant."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

_DIGITS = "followed by 32 hexadecimal digits"
_FORMS = {
    r"^AC[0-9a-fA-F]{32}$": f"must be an account SID: it starts with AC, {_DIGITS}",
    r"^IS[0-9a-fA-F]{32}$": f"must be a service SID: it starts with IS, {_DIGITS}",
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": (
        "must start with a letter or a digit, and hold only letters, digits, '.', '_' and '-'"
    ),
    r"^[a-z0-9-]+$": "must hold only lower-case letters, digits and '-'",
}
_SENTENCES = {
    "missing": "this key is missing",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "string_type": "must be text; put it in quotes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number that has an end",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "literal_error": "must be {expected}",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than_equal": "must be {le:g} or less",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must not be empty",
}


def sentence(kind: str, context: Mapping[str, Any], message: str) -> str:
    """Return what a validation error of this kind means; the value itself is never repeated."""
    if kind == "string_pattern_mismatch":
        return _FORMS.get(context["pattern"], "is not of the form that it must have")
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(**context)
    return message.removeprefix("Value error, ")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return what to say of a key that does not exist."""
    for near in difflib.get_close_matches(key, list(known), 1):
        return f"this key is not known; did you mean `{near}`?"
    return "this key is not known; remove it or correct its spelling"


def place(path: str, lines: Mapping[str, int]) -> str:
    """Return ` (line 7)`, of what is at `path` or, where it is missing, of what should hold it."""
    while path and path not in lines:
        path = re.sub(r"(^|\.)[^.\[]*$|\[\d+\]$", "", path)
    return f" (line {lines[path]})" if path else ""
