"""The password that a command prints, for logins that live minutes.

What it prints goes to the driver and nowhere else.
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from etl import errors

_LONGEST_SECONDS = 10.0
_LARGEST_BYTES = 64 * 1024  # tokens of cloud providers have up to some thousand

_TRY = "run it by hand to see why"


def ask(command: Sequence[str], seconds: float = _LONGEST_SECONDS) -> str:
    """Return what `command` prints, without the end of its line.

    Raises:
        ConfigurationError: there is no such program.
        PasswordUnknown: it failed, printed nothing, or took too long.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - the configuration's own command, without a shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as cause:
        why = getattr(cause, "strerror", None) or "not a name of a program"
        raise errors.ConfigurationError(
            f"warehouse.password_command: its program cannot be started ({why}); give its whole "
            "path"
        ) from None
    try:
        printed = _read(process, time.monotonic() + seconds)
    except BaseException:
        _kill(process)
        raise
    finally:
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    if process.returncode:
        raise errors.PasswordUnknown(
            f"warehouse.password_command failed (exit {process.returncode}); {_TRY}"
        )
    return _password_in(printed)


def _read(process: "subprocess.Popen[bytes]", until: float) -> bytes:
    """Return what the command prints; what it left running may not delay the answer."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    printed = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0, until - time.monotonic())):
            piece = os.read(process.stdout.fileno(), _LARGEST_BYTES)
            printed += piece
            if len(printed) > _LARGEST_BYTES:
                raise errors.PasswordUnknown(
                    "warehouse.password_command prints more than a password; let it print "
                    "nothing else"
                )
            if not piece:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0, until - time.monotonic()))
                    return printed
                break
    raise errors.PasswordUnknown(
        f"warehouse.password_command did not end within {_LONGEST_SECONDS:.0f} seconds; {_TRY}"
    )


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the command's process group: a shell's children would live on."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _password_in(printed: bytes) -> str:
    try:
        password = printed.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        password = ""
    if not password or not password.isprintable():
        raise errors.PasswordUnknown(
            f"warehouse.password_command printed no password; it has to print one line; {_TRY}"
        )
    return password
