"""`bindings-etl`, also as `python -m etl`."""

import gc
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Hand the arguments to the command line; nothing else is loaded before it is known what is wanted."""
    # Until a command listens, there is nothing to finish. Python's own answer to SIGINT does for that.
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(143))
    try:
        _open_closed_streams()
        # The collector looks for rings of references whenever 700 objects have come up, and starting up makes very many that stay:
        # a tenth of a short run went into that (measured). It still comes round, only not so often.
        gc.set_threshold(50_000, 20, 50)
        from etl.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    # Not sys.exit: a thread may still hang on a socket after a stop, and taking the interpreter down costs 0.1 s a run.
    os._exit(code)


def _open_closed_streams() -> None:
    """A closed stream (`>&-`) is None to Python, and its number would go to the next file opened: the warehouse, perhaps."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process


if __name__ == "__main__":
    main()
