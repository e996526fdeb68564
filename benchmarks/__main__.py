"""``python -m benchmarks``: measure, then print and write the figures."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, Case, shrink
from benchmarks.contestants import CONTESTANTS, OURS
from benchmarks.machine import Stamp, take_stamp
from benchmarks.output.picture import draw
from benchmarks.output.report import put_between_markers, render_markdown, render_terminal
from benchmarks.postgres import start_postgres
from benchmarks.process import Command, run
from benchmarks.runner import Bench
from benchmarks.samples import Samples
from benchmarks.targets import MAIN, judge
from benchmarks.venvs import HERE, WORK

STARTS = 7


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures whole runs side by side."
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the rows, one round, no 1 M case"
    )
    parser.add_argument("--only", metavar="NAMES", help=f"of {','.join(CONTESTANTS)}")
    parser.add_argument("--cases", metavar="NAMES", help=f"of {','.join(CASES)}")
    parser.add_argument("--no-million", action="store_true", help="leave out the 1 M case")
    parser.add_argument("--rounds", type=int, help="default 3, with --quick 1")
    parser.add_argument(
        "--json",
        type=Path,
        default=WORK / "results.json",
        help="where the raw figures go, case by case",
    )
    parser.add_argument(
        "--publish", action="store_true", help="write results.svg and the table in README.md"
    )
    parser.add_argument(
        "--render", type=Path, metavar="JSON", help="measure nothing, show these figures again"
    )
    parser.add_argument(
        "--merge", type=Path, metavar="JSON", help="take the other cases from earlier figures"
    )
    parser.add_argument(
        "--disk", type=Path, default=Path("/var/tmp"), help="where PostgreSQL keeps its data"
    )
    return parser.parse_args(argv)


def choose(names: str | None, known: dict[str, Any]) -> list[str]:
    wanted = names.split(",") if names else list(known)
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return wanted


def choose_cases(options: argparse.Namespace) -> list[Case]:
    names = choose(options.cases, CASES)
    if options.no_million or (options.quick and not options.cases):
        names = [name for name in names if name != "grow-1m"]
    return [shrink(CASES[name]) if options.quick else CASES[name] for name in names]


def prepare(names: Sequence[str]) -> list[str]:
    """Those that can take part; the others are named."""
    ready = []
    for name in names:
        try:
            CONTESTANTS[name].prepare()
            ready.append(name)
        except OSError as error:
            tell(f"{name} is left out: {error}")
    return ready


def measure(options: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measures case by case; what there is after each is handed to ``keep``, for a run that is ended early."""
    ready = prepare(choose(options.only, CONTESTANTS))
    work = WORK / "runs"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with start_postgres(options.disk) as postgres:
        document: dict[str, Any] = {
            "stamp": take_stamp(postgres.version(), ready, quick=options.quick).to_dict(),
            "startup_cpu": measure_startup(work) if "ours" in ready else [],
            "samples": [],
        }
        bench = Bench(postgres, work, options.rounds or (1 if options.quick else 3), tell)
        for case in choose_cases(options):
            if names := [name for name in case.contestants if name in ready]:
                document["samples"] += map(asdict, bench.measure(case, names))
                keep(document)
    return document


def measure_startup(work: Path) -> list[float]:
    """CPU seconds of the shortest thing the command can do."""
    command, log = Command([OURS, "--version"], work), work / "logs" / "version.log"
    return [run([command], log).cpu for _ in range(STARTS)]


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(document: dict[str, Any], *, publish: bool) -> bool:
    """Prints the tables and draws the picture; says whether every result was right."""
    samples, stamp = Samples.from_dicts(document["samples"]), Stamp(**document["stamp"])
    targets = judge(samples, document["startup_cpu"])
    print(render_terminal(samples, targets, stamp))
    folders = [WORK, HERE] if publish else [WORK]
    for folder in folders if MAIN in samples.cases() else ():
        (folder / "results.svg").write_text(draw(samples, MAIN, stamp))
    if publish:
        put_between_markers(HERE / "README.md", render_markdown(samples, targets, stamp))
    return not samples.problems()


def merge(document: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Adds the cases that were not run this time."""
    cases = {sample["case"] for sample in document["samples"]}
    kept = [sample for sample in earlier["samples"] if sample["case"] not in cases]
    libraries = earlier["stamp"]["libraries"] | document["stamp"]["libraries"]
    return {
        "stamp": document["stamp"] | {"libraries": libraries},
        "startup_cpu": document["startup_cpu"] or earlier["startup_cpu"],
        "samples": kept + document["samples"],
    }


def obtain(options: argparse.Namespace) -> dict[str, Any]:
    """The figures asked for: earlier ones, new ones, or both."""
    if options.render:
        return dict(json.loads(options.render.read_text()))
    earlier = json.loads(options.merge.read_text()) if options.merge else None

    def complete(document: dict[str, Any]) -> dict[str, Any]:
        return merge(document, earlier) if earlier else document

    def keep(document: dict[str, Any]) -> None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(complete(document), indent=1))

    return complete(measure(options, keep))


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if options.publish and options.quick:
        raise SystemExit("a quick run is for looking, not for publishing")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    return 0 if show(obtain(options), publish=options.publish) else 1


if __name__ == "__main__":
    sys.exit(main())
