"""What each chart comes down to, as a sentence: the titles of the page."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from etl.report.figures import AGES, DAYS, Counts, Day, Figures, Service

FRESH = timedelta(days=1)
STALE_DAYS = AGES[2]


def number(value: int) -> str:
    """Thousands apart."""
    return f"{value:,}"


def share(part: int, whole: int) -> str:
    """In percent; what is there is never 0 %, and what is missing never 100 %."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 1:
        return "under 1 %"
    if 99 < percent < 100:
        return "over 99 %"
    return f"{percent:.0f} %"


def plural(value: int, one: str, many: str = "") -> str:
    """The number with its noun."""
    return f"{number(value)} {one if value == 1 else many or one + 's'}"


def needs_look(service: Service, now: datetime) -> bool:
    """Whether the counts of this service should not be trusted as they are."""
    read = service.last_complete_at
    troubled = service.deletes_held or service.rejected_open or service.failure
    return bool(troubled or service.state != "active" or read is None or now - read > FRESH)


def trust(figures: Figures) -> str:
    """Freshness and completeness."""
    services = figures.services
    doubtful = sum(needs_look(service, figures.now) for service in services)
    if not services:
        return "No service was read yet"
    if not doubtful:
        whole = f"All {number(len(services))} services were"
        whole = "The one service was" if len(services) == 1 else whole
        return f"{whole} read completely in the last 24 hours"
    verb = "needs" if doubtful == 1 else "need"
    return f"{number(doubtful)} of {plural(len(services), 'service')} {verb} a look"


def by_service(figures: Figures, biggest: str) -> str:
    """Active bindings by service and type."""
    if not figures.active:
        return "There is no active binding"
    if len(figures.services) == 1:
        return f"{plural(figures.active, 'active binding')} in one service"
    part = share(figures.services[0].active, figures.active)
    return f"{biggest} has {part} of {plural(figures.active, 'active binding')}"


def changes(days: Sequence[Day]) -> str:
    """Gained and lost of the last days."""
    gained, lost = gained_and_lost(days[-DAYS:])
    if not gained and not lost:
        return f"Nothing came or went in {DAYS} days"
    return f"{number(gained)} gained and {number(lost)} lost in {DAYS} days: {gained - lost:+,}"


def gained_and_lost(days: Sequence[Day]) -> tuple[int, int]:
    """Without what first loads found."""
    gained = sum(one.changes.get(name, 0) for one in days for name in ("inserted", "restored"))
    return gained, sum(one.changes.get("deleted", 0) for one in days)


def growth(days: Sequence[Day]) -> str:
    """Active bindings over time."""
    first, last = days[0], days[-1]
    if not last.active:
        return "There is no active binding"
    if len(days) == 1:
        return f"{plural(last.active, 'binding')} today, on the first day on record"
    if not first.active:
        return f"{plural(last.active, 'binding')} today, none on {first.day}"
    percent = 100 * (last.active - first.active) / first.active
    return f"{plural(last.active, 'binding')} today, {percent:+.1f} % since {first.day}"


def ages(counted: Mapping[str, Counts]) -> str:
    """Time since the last update."""
    sums = {label: sum(kinds.values()) for label, kinds in counted.items()}
    stale = sum(number for label, number in sums.items() if label.startswith(("270", "over")))
    if not sum(sums.values()):
        return "There is no active binding"
    return f"{share(stale, sum(sums.values()))} were not heard of for {STALE_DAYS} days"


def reach(counted: Counts) -> str:
    """Identities by the kinds of push that reach them."""
    people = sum(counted.values())
    if not people:
        return "No identity is stored"
    part = share(people - counted["no push"], people)
    return f"Push reaches {part} of {plural(people, 'identity', 'identities')}"


def coverage(figures: Figures) -> str:
    """Message types."""
    if not figures.active:
        return "There is no active binding"
    deviating = sum(one.number for one in figures.unusual)
    if not deviating:
        return "All bindings of a service have the same message types"
    part = share(deviating, figures.active)
    return f"{part} of the bindings have other message types than most of their service"


def devices(counted: Counts) -> str:
    """Devices per identity."""
    people = sum(counted.values())
    if not people:
        return "No identity is stored"
    return (
        f"{share(people - counted['1 device'], people)} of the identities have more than one device"
    )


def shared(figures: Figures) -> str:
    """Endpoints of several identities."""
    if not figures.shared.endpoints:
        return "No endpoint belongs to several identities"
    verb = "belongs" if figures.shared.endpoints == 1 else "belong"
    return f"{plural(figures.shared.endpoints, 'endpoint')} {verb} to several identities"


def credentials(counted: Mapping[str, Counts]) -> str:
    """Bindings per credential."""
    used = sum(1 for sid in counted if sid)
    leftovers = sum(kinds.get("gcm", 0) for kinds in counted.values())
    if leftovers:
        return f"{plural(leftovers, 'binding')} still on gcm, which takes no push any more"
    return f"{plural(used, 'credential')} in use"


def rejects(counted: Counts) -> str:
    """The quarantine."""
    if not counted:
        return "Every row could be loaded"
    return f"{plural(sum(counted.values()), 'row')} could not be loaded"


def drift(lines: Sequence[object]) -> str:
    """What nobody knew of."""
    if not lines:
        return "The API sends nothing that is not known"
    return f"The API sends {plural(len(lines), 'thing')} that this program does not know"
