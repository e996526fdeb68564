"""A folder that is there whole or not at all, and files that are measured as they are written."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etl.errors import ConfigurationError


class MeasuredFile:
    """A file for writing that knows its size and its SHA-256."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.bytes = 0
        self.closed = False
        self._hash = hashlib.sha256()
        self._file = path.open("xb")

    @property
    def sha256(self) -> str:
        """Of what was written so far, in hexadecimal digits."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> int:
        """Append bytes, and hash them."""
        self._hash.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self.bytes

    def flush(self) -> None:
        """Do nothing: `close` flushes."""

    def close(self) -> None:
        """Bring it onto the disk."""
        if self.closed:
            return
        self.closed = True
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())


def require_free(out: Path) -> None:
    """Make sure that an export may become `out`.

    Raises:
        ConfigurationError: something is there, and two exports in one folder would be mixed.
    """
    try:
        if out.is_dir():
            if any(out.iterdir()):
                what = (
                    "holds another export" if (out / "manifest.json").exists() else "is not empty"
                )
                raise ConfigurationError(
                    f"--out {out} {what}; name a folder that does not exist yet"
                )
        elif out.exists():
            raise ConfigurationError(
                f"--out {out} is no folder; name a folder that does not exist yet"
            )
        elif not out.parent.is_dir():
            raise ConfigurationError(f"--out {out}: make the folder {out.parent} first")
    except OSError as cause:
        raise _unwritable(out, cause) from cause


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` to write into; it is renamed to `out` when all went well.

    Raises:
        ConfigurationError: it cannot be written; nothing is left.
    """
    target = out.resolve()
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}.unfinished")
    try:
        unfinished.mkdir()
        yield unfinished
        _fsync_folder(unfinished)
        unfinished.rename(target)  # which takes the place of an empty folder, and of no other
        _fsync_folder(target.parent)
    except OSError as cause:
        raise _unwritable(out, cause) from cause
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unwritable(out: Path, cause: OSError) -> ConfigurationError:
    reason = cause.strerror or type(cause).__name__
    return ConfigurationError(f"--out {out} cannot be written: {reason}; nothing was exported")


def _fsync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
