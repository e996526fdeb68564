"""`${NAME}`, `${NAME:-default}` and `${file:PATH}` inside the strings of a configuration."""

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etl.config.faults import Fault, join

_PLACEHOLDER = re.compile(r"\$\{([^}]*)(\}?)")
_LARGEST_VALUE_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Unresolved(Exception):
    """A placeholder that cannot be filled; the message says why and what to do."""


def interpolate(
    node: Any, environment: Mapping[str, str], faults: list[Fault], path: str = ""
) -> Any:
    """Return `node` with every placeholder in it filled; those that cannot be join `faults`.

    What a placeholder brings in is taken as it is: it is not searched for placeholders again.
    """
    if isinstance(node, dict):
        return {
            key: interpolate(value, environment, faults, join(path, key))
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [
            interpolate(value, environment, faults, join(path, index))
            for index, value in enumerate(node)
        ]
    if isinstance(node, str) and "${" in node:
        return _fill(node, environment, faults, path)
    return node


def _fill(text: str, environment: Mapping[str, str], faults: list[Fault], path: str) -> str:
    def fill(match: re.Match[str]) -> str:
        try:
            return _resolve(match[1], match[2], environment)
        except Unresolved as reason:
            faults.append(Fault(path, str(reason)))
            return match[0]

    return _PLACEHOLDER.sub(fill, text)


def _resolve(inside: str, end: str, environment: Mapping[str, str]) -> str:
    if end and inside.startswith("file:"):
        return _read(Path(inside.removeprefix("file:")))
    name, has_default, default = inside.partition(":-")
    if not end or not _NAME.fullmatch(name):
        # Not repeated here: it may be part of a secret.
        raise Unresolved(
            "what begins with ${ is not a placeholder; "
            "write ${NAME}, ${NAME:-default} or ${file:PATH}"
        )
    if "${" in default:
        raise Unresolved(
            f"the default of ${{{name}:-…}} holds another placeholder, which is not filled; "
            "give plain text"
        )
    if name in environment:
        return _readable(name, environment[name]) or default
    if has_default:
        return default
    raise Unresolved(
        f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
    )


def _readable(name: str, value: str) -> str:
    """Return `value`; neither the API nor a database takes the surrogates of odd bytes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unresolved(
            f"the environment variable {name} is not UTF-8 text; set it anew"
        ) from None
    return value


def _read(path: Path) -> str:
    try:
        return read_whole(path, _LARGEST_VALUE_BYTES).decode().rstrip("\r\n")
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or "not a path, or not UTF-8 text"
        raise Unresolved(
            f"the file {path} cannot be read ({reason}); mount it, or correct the path"
        ) from cause


def read_whole(path: Path, most: int) -> bytes:
    """Return all of a regular file or a pipe; a device may never end.

    Raises:
        OSError: it cannot be read.
        Unresolved: it is something else, or larger than `most`.
    """
    kind = path.stat().st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISFIFO(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "neither a regular file nor a pipe"
        raise Unresolved(f"{path} is {what}; name a file that holds what is asked for and no more")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Unresolved(
            f"{path} is larger than {most // 2**20} MiB, which is too much; name another file"
        )
    return content
