"""The wish to stop, shared by all threads of a run."""

import time

from etl.errors import Interrupted

_LOOK_SECONDS = 0.1


class Stop:
    """Set once, by a signal or by the deadline; everything that waits looks at it.

    A plain flag and not an event: a signal's handler may interrupt the very thread that holds an
    event's lock.
    """

    def __init__(self, deadline_seconds: float | None = None, *, dry_run: bool = False) -> None:
        self._set = False
        self._deadline = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        self.reason = ""
        self.exit_code: int | None = None
        self.requested_at: float | None = None
        """When, by the monotonic clock."""
        self._aftermath = (
            "nothing was written"
            if dry_run
            else "what is committed is whole, the next run goes on from there"
        )

    def request(self, reason: str, exit_code: int | None = None) -> None:
        """Ask everything to finish what it has in hand. The first reason stands."""
        if not self._set:
            self.reason, self.exit_code = reason, exit_code
            self.requested_at = time.monotonic()
            self._set = True

    @property
    def requested(self) -> bool:
        """Whether to stop now."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self.request("run.deadline_seconds was reached")
        return self._set

    def check(self) -> None:
        """Raise `Interrupted` when it is time to stop."""
        if self.requested:
            raise self.interruption()

    def interruption(self, what: str = "stopped") -> Interrupted:
        """Return the error for work that ends here because of the stop."""
        return Interrupted(f"{what}: {self.reason}; {self._aftermath}", self.exit_code)

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until it is time to stop; then raise `Interrupted`."""
        until = time.monotonic() + seconds
        while not self.requested and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
        self.check()
