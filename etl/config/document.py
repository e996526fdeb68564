"""One YAML file as written: its content, the line of each path, and keys that stand twice."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from etl.config.faults import Fault, join
from etl.config.interpolation import Unresolved, read_whole
from etl.errors import ConfigurationError

_LARGEST_FILE_BYTES = 16 * 2**20
_MERGE = "tag:yaml.org,2002:merge"
_HOLDS_ITSELF = "what an alias (*) brings in holds itself"


class Document(NamedTuple):
    """A mapping from a YAML file."""

    content: dict[str, Any]
    """Without the keys that are null: a section whose lines are all commented out is one."""
    lines: dict[str, int]
    """Path → line, counted from 1."""
    faults: list[Fault]
    """Keys that stand twice, of which YAML takes the last without a word."""


def read_document(path: Path, expected: str) -> Document:
    """Return the mapping that the file at `path` holds.

    Raises:
        ConfigurationError: it cannot be read, is not YAML, or is no mapping with what is expected.
    """
    try:
        loader = _Loader(read_whole(path, _LARGEST_FILE_BYTES).decode())
        content = loader.get_single_data()
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no configuration file {path}; `bindings-etl init` writes one, "
            "or name yours with --config or $BINDINGS_ETL_CONFIG"
        ) from None
    except Unresolved as unread:
        raise ConfigurationError(f"the configuration cannot be read: {unread}") from None
    except (OSError, UnicodeDecodeError) as cause:
        reason = getattr(cause, "strerror", None) or "not UTF-8"
        raise ConfigurationError(f"{path} cannot be read: {reason}") from cause
    except (yaml.YAMLError, ValueError, RecursionError) as cause:
        mark = getattr(cause, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError(f"{path} is not valid YAML{where}: {_reason(cause)}") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} must hold a mapping with {expected}")
    given = {key: value for key, value in content.items() if value is not None}
    return Document(given, loader.lines, loader.faults)


class _Loader(yaml.SafeLoader):
    """Notes lines and doubled keys while nodes are made, before `<<` merges others in."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lines: dict[str, int] = {}
        self.faults: list[Fault] = []
        self._path = ""
        self._parents: list[yaml.Node | None] = []
        self._keys: set[tuple[yaml.Node, str, str]] = set()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node: an item with its index, a value with its key's node, or a key."""
        outer = self._path
        if isinstance(index, int):
            self._path = join(outer, index)
        elif isinstance(index, yaml.ScalarNode) and parent is not None:
            self._path = join(outer, index.value)
            self._note_key(parent, index)
        self._parents.append(parent)
        node = super().compose_node(parent, index)
        if node is not None and node in self._parents:
            raise yaml.composer.ComposerError(None, None, _HOLDS_ITSELF, node.start_mark)
        self._parents.pop()
        if isinstance(index, int) and node is not None:
            self.lines[self._path] = node.start_mark.line + 1
        self._path = outer
        return node

    def _note_key(self, mapping: yaml.Node, key: yaml.ScalarNode) -> None:
        line = key.start_mark.line + 1
        self.lines.setdefault(self._path, line)
        known = (mapping, key.tag, key.value)
        if known in self._keys and key.tag != _MERGE:
            message = f"stands twice, again at line {line}; keep one"
            self.faults.append(Fault(self._path, message))
        self._keys.add(known)


def _reason(cause: Exception) -> str:
    """Return what is wrong, in the words of the scanner or parser; others repeat values."""
    said = getattr(cause, "problem", None) or ""
    if said == _HOLDS_ITSELF:
        return said
    if getattr(cause, "context", None) == "expected a single document in the stream":
        return "it holds more than one document; keep one, without a line of --- between"
    is_syntax = isinstance(cause, yaml.scanner.ScannerError | yaml.parser.ParserError)
    if is_syntax and "tag handle" not in said:
        return said
    return (
        "a value cannot be read; put it in quotes, above all when it begins with *, & or ! "
        "or looks like a date"
    )
