"""The metrics of a run (docs/alerts.md), as Prometheus text and as a file."""

import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

_CHANGES = ("inserted", "updated", "unchanged", "deleted", "restored", "rejected")

Labels = tuple[tuple[str, str], ...]
Document = Mapping[str, Any]
"""The object of a run, as `--json` prints it."""


class Metric(msgspec.Struct, frozen=True):
    """One gauge and its values, by labels."""

    name: str
    help: str
    values: Mapping[Labels, float]


def figures(run: Document, exit_code: int, freshness: Iterable[Document]) -> list[Metric]:
    """Return every metric of a run; `freshness` are lines of `service_freshness`, if known."""
    lines = list(freshness)
    return [*_of_run(run, exit_code), *_of_freshness(lines), *_of_services(run, lines)]


def render(metrics: Iterable[Metric]) -> str:
    """Return the figures in the text format of Prometheus."""
    lines = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} gauge"]
        lines += [f"{metric.name}{_braced(at)} {value!r}" for at, value in metric.values.items()]
    return "\n".join([*lines, ""])


def write(path: Path, text: str) -> None:
    """Put `text` in the place of the file at `path`, whole or not at all.

    A collector looks for names that end in .prom, so the temporary file's name does not.

    Raises:
        OSError: it cannot be written.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        # Not `tempfile`, whose files only their owner may read: collectors run as somebody else.
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _of_run(run: Document, exit_code: int) -> list[Metric]:
    started_at, finished_at = (
        datetime.fromisoformat(run[name]).timestamp() for name in ("started_at", "finished_at")
    )
    of_run = {
        "timestamp_seconds": (finished_at, "When the last run ended."),
        "duration_seconds": (round(finished_at - started_at, 3), "How long the last run took."),
        "exit_code": (exit_code, "Exit code of the last run."),
        "requests": (run["totals"]["requests"], "Requests that the last run sent to the API."),
        "retries": (run["totals"]["retries"], "Requests that the last run sent again."),
    }
    return [
        Metric(f"bindings_etl_run_{name}", help_text, {(): value})
        for name, (value, help_text) in of_run.items()
    ]


def _of_freshness(lines: Sequence[Document]) -> list[Metric]:
    of_service: dict[str, tuple[Callable[[Document], float], str]] = {
        "last_complete_timestamp_seconds": (
            _last_complete,
            "End of the last scan that read the whole service; 0 when there was none.",
        ),
        "active": (lambda line: line["active"], "Bindings that exist."),
        "rejected_open": (lambda line: line["rejected_open"], "Rows in quarantine."),
    }
    return [
        Metric(
            f"bindings_etl_service_{name}",
            help_text,
            {_labels(line): value_of(line) for line in lines},
        )
        for name, (value_of, help_text) in of_service.items()
    ]


def _last_complete(line: Document) -> float:
    """Return a Unix time; 0 where there was none, so that an alert on the age catches that too."""
    moment: datetime | None = line["last_complete_at"]
    return moment.timestamp() if moment else 0


def _of_services(run: Document, lines: Sequence[Document]) -> list[Metric]:
    """Return each service's metrics; a service read in parts has several entries in `run`."""
    rows: dict[Labels, int] = {}
    up: dict[Labels, int] = {}
    for entry in run["services"]:
        if entry["chat_service_sid"] is None:  # the account itself could not be read
            continue
        for change in _CHANGES:
            labels = (*_labels(entry), ("change", change))
            rows[labels] = rows.get(labels, 0) + entry[change]
        if entry["status"] != "skipped":
            is_up = int(entry["status"] == "published")
            up[_labels(entry)] = min(is_up, up.get(_labels(entry), 1))
    up = {_labels(line): 0 for line in lines} | up
    return [
        Metric("bindings_etl_service_rows", "Rows of the last run, by what became of them.", rows),
        Metric("bindings_etl_service_up", "1: the last run published the service; 0: not.", up),
    ]


def _labels(line: Document) -> Labels:
    return (("account", line["account"]), ("chat_service_sid", line["chat_service_sid"]))


def _braced(labels: Labels) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
