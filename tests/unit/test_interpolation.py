"""`${…}` inside the strings of a configuration (config.example.yaml)."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from etl.config.faults import Fault
from etl.config.interpolation import interpolate

ENVIRONMENT = {"NAME": "value", "EMPTY": "", "_x1": "lower", "NESTED": "${NAME}"}


def fill(node: Any) -> tuple[Any, list[Fault]]:
    faults: list[Fault] = []
    return interpolate(node, ENVIRONMENT, faults), faults


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${NAME}", "value"),
        ("${_x1}", "lower"),
        ("a ${NAME} b ${NAME}", "a value b value"),
        ("${NAME}${_x1}", "valuelower"),
        ("${EMPTY}", ""),
        ("${NAME:-default}", "value"),
        ("${EMPTY:-default}", "default"),
        ("${UNSET:-default}", "default"),
        ("${UNSET:-}", ""),
        ("${UNSET:-a:-b}", "a:-b"),
        ("${UNSET:-sqlite:///a b.db}", "sqlite:///a b.db"),
        ("${NESTED}", "${NAME}"),
        ("${UNSET:-$NAME}", "$NAME"),
        ("plain $NAME {NAME} $ {", "plain $NAME {NAME} $ {"),
        ("", ""),
    ],
)
def test_placeholders_are_filled(text: str, filled: str) -> None:
    """A documented form that is not filled would be sent to the API as a password."""
    assert fill(text) == (filled, [])


def test_every_string_is_filled_and_nothing_else() -> None:
    """Any string may hold a placeholder, however deep; numbers, switches and keys stay what they are."""
    document = {"a": [{"b": "${NAME}", "c": 5, "d": None}, True, "${UNSET:-x}"], "${NAME}": 1.5}
    assert fill(document) == (
        {"a": [{"b": "value", "c": 5, "d": None}, True, "x"], "${NAME}": 1.5},
        [],
    )


@pytest.mark.parametrize(
    ("content", "filled"),
    [
        (b"s3cret\n", "s3cret"),
        (b"s3cret", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b" two\nlines \n", " two\nlines "),
        (b"", ""),
    ],
)
def test_a_mounted_secret_loses_its_trailing_newline(
    content: bytes, filled: str, tmp_path: Path
) -> None:
    """Editors and `echo` add one; sent along, it is a listed cause of 401 (docs/api.md §4.1)."""
    secret = tmp_path / "a secret:-file"
    secret.write_bytes(content)
    assert fill(f"${{file:{secret}}}") == (filled, [])


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_a_fault(content: bytes | None, tmp_path: Path) -> None:
    """The operator has to learn which mount is missing."""
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    _, [(path, sentence)] = fill({"api_secret": f"${{file:{secret}}}"})
    assert path == "api_secret"
    assert str(secret) in sentence


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/urandom", "/dev/null", "/"])
def test_a_device_is_a_fault(path: str) -> None:
    """/dev/zero has no end, and was read until memory had one."""
    _, [(_, sentence)] = fill(f"${{file:{path}}}")
    assert path in sentence
    assert "name a file that holds what is asked for" in sentence


@pytest.mark.parametrize(("size", "faults"), [(2**20, 0), (2**20 + 1, 1)])
def test_a_file_that_is_no_secret_is_a_fault(size: int, faults: int, tmp_path: Path) -> None:
    """A dump named by mistake would be held in memory, and sent as a password."""
    path = tmp_path / "dump"
    path.write_bytes(b"x" * size)
    value, found = fill(f"${{file:{path}}}")
    assert len(found) == faults
    assert len(value) == size or "larger than 1 MiB" in found[0][1]


def test_a_pipe_may_hold_a_secret(tmp_path: Path) -> None:
    """`<(vault read …)` hands a secret over without a file."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("s3cret\n",))
    writer.start()
    assert fill(f"${{file:{path}}}") == ("s3cret", [])
    writer.join()


@pytest.mark.parametrize("text", ["${file:}", "${file:/}", "${file:a\x00b}"])
def test_a_path_that_is_no_file_is_a_fault(text: str) -> None:
    """Any path must end in a sentence and not in a traceback."""
    assert len(fill(text)[1]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "${}",
        "${NAME",
        "a ${",
        "${1NAME}",
        "${NA ME}",
        "${NAME-default}",
        "${NAME:default}",
        "${nam.e}",
        "${ NAME }",
        "${FILE:/x}",
        "${UNSET:-${NAME}}",
        "${NAME:-${UNSET}}",
        "${NAME:-${",
    ],
)
def test_what_is_no_placeholder_is_a_fault(text: str) -> None:
    """A slip of the pen would otherwise be used as the value, and sent as a password."""
    assert len(fill(text)[1]) == 1


def test_all_faults_are_found_with_their_paths() -> None:
    """One fault per run would make a morning of a new configuration."""
    _, faults = fill(
        {
            "accounts": [{"api_key": "${KEY_A}", "api_secret": "${KEY_B}${KEY_C}"}],
            "warehouse": {"url": "${file:/no/such/file}"},
        }
    )
    assert [path for path, _ in faults] == [
        "accounts[0].api_key",
        "accounts[0].api_secret",
        "accounts[0].api_secret",
        "warehouse.url",
    ]
    for name, (_, sentence) in zip(
        ["KEY_A", "KEY_B", "KEY_C", "/no/such/file"], faults, strict=True
    ):
        assert name in sentence


def test_a_fault_repeats_no_part_of_a_secret() -> None:
    """A password may hold `${`; the message goes to logs and screens."""
    _, faults = fill(
        [
            "pa${hunter!2}ss",
            "pa${hunter2",
            "${UNSET:x-hunter2}",
            "${NAME!hunter2}",
            "${NAME:-${hunter2}}",
        ]
    )
    assert len(faults) == 5
    assert "hunter" not in str(faults)
