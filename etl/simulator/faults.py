"""Faults by name, and when they strike."""

import difflib
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Self

from etl.simulator.effects import EFFECTS, Asked, Effect, Knobs, Route


@dataclass(slots=True)
class Fault:
    """One fault: by default it strikes every listing of bindings.

    `every` counts the requests that the other conditions let through; `times` is how often it
    strikes at most; `on` names the route; `when` is any further condition. `seconds` tunes how long
    the slow ones take, `target` is the other host of those that name one.
    """

    name: str
    every: int = 1
    only_pages: Collection[int] | None = None
    service: str | None = None
    account: str | None = None
    times: int | None = None
    on: Route = "bindings"
    when: Callable[[Asked], bool] | None = None
    seconds: float = 1.0
    target: str | None = None
    met: int = field(default=0, init=False)
    struck: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Refuse unknown names and impossible figures."""
        if self.name not in EFFECTS:
            near = difflib.get_close_matches(self.name, EFFECTS, 3)
            raise ValueError(
                f"unknown fault {self.name!r}" + (f", near to {', '.join(near)}" if near else "")
            )
        if self.every < 1:
            raise ValueError(f"a fault strikes every 1st, 2nd … request, not every {self.every}th")
        self.times = self.effect.times if self.times is None else self.times

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `NAME[:EVERY]`."""
        name, colon, every = text.partition(":")
        if colon and not every.isdecimal():
            raise ValueError(f"{text!r} is not NAME or NAME:EVERY with a whole number")
        return cls(name.strip(), int(every) if colon else 1)

    @property
    def effect(self) -> Effect:
        """Look up what it does."""
        return EFFECTS[self.name]

    @property
    def knobs(self) -> Knobs:
        """Collect what tunes its effect."""
        return Knobs(self.seconds, self.target)

    def concerns(self, asked: Asked) -> bool:
        """Tell whether a request is one that this fault counts."""
        return (
            asked.route == self.on
            and self.service in {None, asked.service_sid}
            and self.account in {None, asked.account_sid}
            and (self.only_pages is None or asked.page in self.only_pages)
            and self.effect.strikes(asked)
            and (self.when is None or self.when(asked))
        )

    def strike(self, asked: Asked) -> bool:
        """Count a request and tell whether the fault strikes it."""
        if (self.times is not None and self.struck >= self.times) or not self.concerns(asked):
            return False
        self.met += 1
        strikes = self.met % self.every == 0
        self.struck += strikes
        return strikes


class Faults:
    """The faults in force; may be changed while the server serves."""

    def __init__(self, faults: Collection[Fault | str] = ()) -> None:
        """Start with these."""
        self._lock = threading.Lock()
        self._active: list[Fault] = []
        for fault in faults:
            self.add(fault)

    def __len__(self) -> int:
        """Count the faults in force."""
        return len(self._active)

    def add(self, fault: Fault | str, **options: Any) -> Fault:
        """Add a fault, or one of this name with options; `NAME:EVERY` works too."""
        if isinstance(fault, str):
            read = Fault.parse(fault)
            fault = Fault(read.name, **({"every": read.every} | options))
        with self._lock:
            self._active.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """Take one fault away."""
        with self._lock:
            self._active = [active for active in self._active if active is not fault]

    def clear(self) -> None:
        """Take all faults away."""
        with self._lock:
            self._active = []

    def strike(self, asked: Asked) -> list[Fault]:
        """Tell which faults strike this request, in the order in which they were added."""
        if not self._active:
            return []
        with self._lock:
            return [fault for fault in self._active if fault.strike(asked)]


def describe_faults() -> dict[str, str]:
    """List every fault's name with a line on what it does."""
    return {name: effect.text for name, effect in EFFECTS.items()}
