"""`bindings-etl`, also as `python -m etl`."""

import gc
import io
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # Until a command listens, there is nothing to finish: Python's own answer to SIGINT will do.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _open_closed_streams()
        _take_any_text()
        # The garbage collector runs after every 700 new objects, and starting up makes 140,000
        # that stay: a tenth of a short run went into that (measured). Now it runs more rarely.
        gc.set_threshold(250_000, 20, 50)
        # pydantic looks through every installed package for plugins, which takes another tenth;
        # and none should see a configuration, with its secrets.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        sys.meta_path.insert(0, _WithoutPandas)
        from etl.cli.app import run

        code = run(sys.argv[1:])
    except (KeyboardInterrupt, _Terminated) as told:
        code = _tell_interruption(143 if isinstance(told, _Terminated) else 130)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    # Not sys.exit: a thread may still hang on a socket after a stop, and taking the interpreter
    # down costs 0.1 s a run.
    os._exit(code)


class _WithoutPandas:
    """Lets nobody find pandas, which nothing here uses.

    DuckDB and Snowflake's driver load it wherever it is installed, and DuckDB looks for it anew at
    each statement with parameters.
    """

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        """See `importlib.abc.MetaPathFinder`."""
        if name == "pandas":
            raise ModuleNotFoundError(name=name)


class _Terminated(BaseException):
    """SIGTERM came before a command listened; no `except Exception` may take it for a fault."""


def _terminate(_number: int, _frame: object) -> None:
    if "--json" not in sys.argv:
        os._exit(143)
    raise _Terminated


def _tell_interruption(code: int) -> int:
    """Print the object that whoever asked for `--json` waits for; a second signal ends at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: os._exit(code))
    if "--json" in sys.argv:
        with suppress(Exception):
            from etl.cli.app import tell_interruption

            tell_interruption(sys.argv[1:], "SIGTERM" if code == 143 else "SIGINT")
    return code


def _take_any_text() -> None:
    """Let stdout and stderr write characters that they cannot encode as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open_closed_streams() -> None:
    """Open streams that the caller closed (`>&-`) on /dev/null.

    Their numbers would otherwise go to the next files opened: the warehouse, perhaps.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - stays open
            setattr(sys, name, stream)


if __name__ == "__main__":
    main()
