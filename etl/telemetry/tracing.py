"""The spans of a run: run → scan → page, batch, publish (docs/alerts.md).

A span tells how long something took, of which account and service, and under which request id of
Twilio's; never an identity or an endpoint. When nobody asked for spans, nothing is loaded.
"""

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from etl.errors import EtlError

T = TypeVar("T")
Attributes = Mapping[str, Any]

_PREFIX = "OTEL_EXPORTER_OTLP_"


class Trace:
    """A span that nobody records. Those that are recorded look the same."""

    def child(self, name: str, **attributes: Any) -> "Trace":
        """Begin a span below this one, to be ended, or entered and left."""
        return self

    def follow(
        self, name: str, steps: Iterator[T], told_of: Callable[[T], Attributes]
    ) -> Iterator[T]:
        """Return `steps`, the making of each of which is a span below this one."""
        return steps

    def note(self, **attributes: Any) -> None:
        """Say more about the span; what is None is left out."""

    def end(self, failure: str | None = None) -> None:
        """End the span; `failure` is a sentence that may be shown to anybody."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.note(**error_attributes(error))
        self.end(None if error is None else error_text(error))


OFF = Trace()


def is_wanted(environment: Mapping[str, str], kind: str) -> bool:
    """Return whether the standard variables ask for `traces` or `metrics` over OTLP.

    A variable of another kind alone, such as `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT` for traces, asks
    for nothing.
    """
    others = {f"{_PREFIX}{other}_" for other in ("TRACES", "METRICS", "LOGS")}
    others.remove(f"{_PREFIX}{kind.upper()}_")
    is_asked_for = any(
        value and name.startswith(_PREFIX) and not name.startswith(tuple(others))
        for name, value in environment.items()
    )
    is_disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    chosen = environment.get(f"OTEL_{kind.upper()}_EXPORTER") or "otlp"
    return is_asked_for and not is_disabled and "otlp" in chosen.split(",")


def error_text(error: BaseException) -> str:
    """Return an error's message; of a foreign one only the class: its text may quote a row."""
    return str(error) if isinstance(error, EtlError) else type(error).__name__


def error_attributes(error: BaseException) -> Attributes:
    """Return the span attributes of an error."""
    return {
        "error.type": type(error).__name__,
        "twilio.request_id": getattr(error, "request_id", None),
    }
