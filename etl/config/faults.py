"""What is wrong with a setting, in our own words: its form, its line, what was meant."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

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


_ONE_OF_ALL = "literal['all']"
_UNIONS = (_ONE_OF_ALL, "constrained-list", "list[constrained-str]")


class Fault(NamedTuple):
    """One thing that is wrong in a file, e.g. at `accounts[0].name`."""

    path: str
    message: str


def join(path: str, step: object) -> str:
    """Return a longer path: `accounts` + 0 → `accounts[0]`, which + `name` → `accounts[0].name`."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    return f"{path}.{step}" if path else str(step)


def line_note(path: str, lines: Mapping[str, int]) -> str:
    """Return ` (line 7)`, of what is at `path` or, where it is missing, of what should hold it."""
    while path and path not in lines:
        path = re.sub(r"(^|\.)[^.\[]*$|\[\d+\]$", "", path)
    return f" (line {lines[path]})" if path else ""


def validation_faults(invalid: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """Return what pydantic found wrong with a value for `model`, each fault once."""
    faults: dict[Fault, None] = {}
    for error in invalid.errors(include_url=False, include_input=False):
        path = ""
        for step in error["loc"]:
            if step not in _UNIONS:
                path = join(path, step)
        faults[Fault(path, _message(error, model))] = None
    # Of a value that may be a word or a list, only the branch that got further is heard.
    return [
        fault
        for fault in faults
        if not any(other.path.startswith(f"{fault.path}[") for other in faults)
    ]


def sentence(kind: str, context: Mapping[str, Any], message: str) -> str:
    """Return what a validation error of this kind means; the value itself is never repeated."""
    if kind == "string_pattern_mismatch":
        return _FORMS.get(context["pattern"], "is not of the form that it must have")
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(**context)
    return message.removeprefix("Value error, ")


def _message(error: "ErrorDetails", model: type[BaseModel]) -> str:
    kind, steps = error["type"], error["loc"]
    if kind == "extra_forbidden":
        return _unknown_key(str(steps[-1]), _keys_at(steps[:-1], model))
    if _ONE_OF_ALL in steps or (kind == "list_type" and steps[-1] in _UNIONS):
        return "must be all, or a list of service SIDs"
    return sentence(kind, error.get("ctx", {}), error["msg"])


def _unknown_key(key: str, known: Iterable[str]) -> str:
    for near in difflib.get_close_matches(key, list(known), 1):
        return f"this key is not known; did you mean `{near}`?"
    return "this key is not known; remove it or correct its spelling"


def _keys_at(steps: tuple[int | str, ...], section: type[BaseModel]) -> list[str]:
    """Return the keys that a section may have, found from the whole file's model."""
    for step in steps:
        if isinstance(step, str):
            kind = section.model_fields[step].annotation
            section = next(
                one
                for one in (kind, *get_args(kind))
                if isinstance(one, type) and issubclass(one, BaseModel)
            )
    return [field.alias or name for name, field in section.model_fields.items()]
