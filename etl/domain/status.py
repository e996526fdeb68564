"""How a run, and each scan of it, stands or ended: the words of the ledger and of `--json`."""

from enum import StrEnum


class RunStatus(StrEnum):
    """Where a run stands."""

    RUNNING = "running"  # not ended, or killed a moment ago
    SUCCEEDED = "succeeded"  # everything asked for was done
    PARTIAL = "partial"  # some services failed or were locked, the others are published
    FAILED = "failed"  # nothing was published
    REFUSED = "refused"  # published, but the guard refused deletes
    INTERRUPTED = "interrupted"  # stopped, or killed; the next run goes on from there
    LOCKED = "locked"  # another live run holds what this one needs


class ScanStatus(StrEnum):
    """Where one scan stands."""

    RUNNING = "running"  # not ended, or killed a moment ago
    PUBLISHED = "published"  # what it read is the current truth
    PLANNED = "planned"  # what a dry run would publish
    FAILED = "failed"  # nothing of it was published
    REFUSED = "refused"  # published, but the guard refused its deletes
    INTERRUPTED = "interrupted"  # stopped; the next run goes on from there
    LOCKED = "locked"  # another live run works on the same rows
    SKIPPED = "skipped"  # left out on purpose; its note says why


DONE = frozenset({ScanStatus.PUBLISHED, ScanStatus.REFUSED, ScanStatus.PLANNED})
"""Scans that were read to their end and whose rows are published, or would be."""
