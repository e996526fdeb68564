"""What the spans of scans and pages tell."""

from etl.domain.scope import Scope
from etl.domain.status import ScanStatus
from etl.sync.context import Context
from etl.sync.outcome import ScanOutcome, sentence
from etl.telemetry.tracing import Attributes, Trace, error_attributes
from etl.twilio.paging import FetchedPage


def begin_scan(context: Context, scope: Scope) -> Trace:
    """Return the span of one scan, a child of the run's."""
    return context.trace.child(
        "scan", account=scope.account, chat_service_sid=scope.chat_service_sid
    )


def end_scan(trace: Trace, outcome: ScanOutcome) -> None:
    """End the span with the scan's result; a skipped or interrupted scan is no failure."""
    trace.note(status=outcome.status, complete=outcome.complete, rows=outcome.counters.fetched)
    if outcome.error is not None:
        trace.note(**error_attributes(outcome.error))
    is_well = outcome.error is None or outcome.status in (ScanStatus.PUBLISHED, ScanStatus.SKIPPED)
    trace.end(None if is_well else sentence(outcome.error))


def of_page(fetched: FetchedPage) -> Attributes:
    """Return the span attributes of a page."""
    return {"twilio.request_id": fetched.request_id, "rows": len(fetched.page.rows)}
