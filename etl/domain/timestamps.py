"""Every form in which Twilio is known to write a time, read into one (docs/api.md §5.1)."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

is_usual = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?!24)[0-9]{2}:[0-9]{2}:[0-9]{2}Z").fullmatch
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{0,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))"
)
_RFC_2822 = re.compile(
    r"(?:[A-Za-z]{3}, )?[0-9]{1,2} [A-Za-z]{3} [1-9][0-9]{3} [0-9]{2}:[0-9]{2}(?::[0-9]{2})? "
    r"(?:[+-][0-9]{4}|GMT|UTC?|[ECMP][SD]T)"
)

_DIGIT = re.compile("[0-9]")
_NAMES = re.compile("[A-Za-z]{3}, |[A-Za-z]{3} (?=[0-9]{4} )")


def normalize_timestamp(text: str) -> str:
    """Give `text` as UTC with microseconds, such as `2023-05-04 09:42:00.000000`.

    Takes ISO 8601 with `Z`, `z` or an offset and 0 to 9 digits of fraction (finer than a
    microsecond is cut), and RFC 2822.

    Raises:
        ValueError: `text` is no such time, or has no time zone, or lies outside the years 1…9999.
    """
    if is_usual(text):
        return normalize_usual(text)
    return format_utc(_parse_iso(text) or _parse_rfc2822(text))


def normalize_usual(text: str) -> str:
    """Return the same for a text that `is_usual`: the one form that the API is known to send.

    Raises:
        ValueError: there is no such day or time.
    """
    # fromisoformat checks the calendar in 0.1 µs, slicing does the rest.
    datetime.fromisoformat(text)
    return f"{text[:10]} {text[11:19]}.000000"


def form_of(text: str) -> str:
    """Return the form of a time that can be read, such as `0000-00-00 00:00:00.000+00:00`."""
    names = _NAMES.sub(lambda name: "Aaa" + name[0][3:], text)
    return _DIGIT.sub("0", names)


def format_utc(moment: datetime) -> str:
    """Return a moment in UTC as a `Row` holds it."""
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def _parse_iso(text: str) -> datetime | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = match.groups()[6:]
    moment = datetime(
        year, month, day, hour, minute, second, int((fraction or "").ljust(6, "0")[:6]), tzinfo=UTC
    )
    if sign is None:
        return moment
    if int(offset_hours) > 23 or int(offset_minutes) > 59:
        raise ValueError("offset out of range")
    offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
    return _shift(moment, -offset if sign == "+" else offset)


def _parse_rfc2822(text: str) -> datetime:
    if not _RFC_2822.fullmatch(text):
        raise ValueError("not a time, or no time zone")
    moment = parsedate_to_datetime(text)
    offset = moment.utcoffset() or timedelta()  # -0000 comes without one, and is UTC
    return _shift(moment.replace(tzinfo=UTC), -offset)


def _shift(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError as cause:
        raise ValueError("outside the years 1 to 9999") from cause
