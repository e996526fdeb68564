"""`bindings-etl`, also as `python -m etl`."""

import gc
import os
import sys


def main() -> None:
    """Hand the arguments to the command line; nothing else is loaded before it is known what is wanted."""
    # The collector looks for rings of references whenever 700 objects have come up, and starting up makes very many that stay:
    # a tenth of a short run went into that (measured). It still comes round, only not so often.
    gc.set_threshold(50_000, 20, 50)
    from etl.cli.app import run

    code = run(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a thread may still hang on a socket after a stop, and taking the interpreter down costs 0.1 s a run.
    os._exit(code)


if __name__ == "__main__":
    main()
