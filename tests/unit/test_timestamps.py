"""Points in time, in every form that Twilio is known to write (docs/api.md §5.1)."""

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.domain.timestamps import normalize_timestamp

instants = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)
offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("2023-05-04T09:42:00Z", "2023-05-04 09:42:00.000000"),
        ("2023-05-04T09:42:00z", "2023-05-04 09:42:00.000000"),
        ("2023-05-04t09:42:00Z", "2023-05-04 09:42:00.000000"),
        ("2023-05-04t09:42:00z", "2023-05-04 09:42:00.000000"),
        ("2023-05-04 09:42:00Z", "2023-05-04 09:42:00.000000"),
        ("2023-05-04T09:42:00+00:00", "2023-05-04 09:42:00.000000"),
        ("2023-05-04T09:42:00-00:00", "2023-05-04 09:42:00.000000"),
        ("2023-05-04T09:42:00+0000", "2023-05-04 09:42:00.000000"),
        ("2023-05-04T11:42:00+02:00", "2023-05-04 09:42:00.000000"),
        ("2023-05-04T11:42:00+0200", "2023-05-04 09:42:00.000000"),
        ("2023-05-03T23:57:00-09:45", "2023-05-04 09:42:00.000000"),
        ("2023-05-03T23:57:00-0945", "2023-05-04 09:42:00.000000"),
        ("2022-05-21T16:02:27.659Z", "2022-05-21 16:02:27.659000"),
        ("2021-07-29T20:38:28.165602325Z", "2021-07-29 20:38:28.165602"),
        ("2024-01-18T03:17:17.005Z", "2024-01-18 03:17:17.005000"),
        ("Wed, 18 Dec 2019 20:02:01 +0000", "2019-12-18 20:02:01.000000"),
        ("Wed, 18 Dec 2019 22:02:01 +0200", "2019-12-18 20:02:01.000000"),
        ("Wed, 18 Dec 2019 20:02:01 -0000", "2019-12-18 20:02:01.000000"),
        ("Wed, 18 Dec 2019 20:02:01 GMT", "2019-12-18 20:02:01.000000"),
        ("Wed, 18 Dec 2019 15:02:01 EST", "2019-12-18 20:02:01.000000"),
        ("18 Dec 2019 20:02:01 +0000", "2019-12-18 20:02:01.000000"),
        ("5 Dec 2019 20:02 UT", "2019-12-05 20:02:00.000000"),
    ],
)
def test_every_known_form_is_read(text: str, normal: str) -> None:
    """A known form that is not read would put a service's every row into quarantine."""
    assert normalize_timestamp(text) == normal


@pytest.mark.parametrize("digits", range(10))
def test_any_number_of_fraction_digits_is_read(digits: int) -> None:
    """Other products of Twilio send three or nine digits; refused they would cost good rows, rounded up invent time."""
    fraction = "999999999"[:digits]
    text = f"2023-05-04T09:42:00.{fraction}Z" if digits else "2023-05-04T09:42:00Z"
    assert normalize_timestamp(text) == f"2023-05-04 09:42:00.{fraction[:6].ljust(6, '0')}"


@pytest.mark.parametrize(
    "text",
    [
        "2023-02-29T00:00:00Z",
        "2023-04-31T00:00:00Z",
        "2023-13-01T00:00:00Z",
        "2023-00-01T00:00:00Z",
        "2023-01-00T00:00:00Z",
        "2023-01-32T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2023-05-04T24:00:00Z",
        "2023-05-04T09:60:00Z",
        "2023-02-29T00:00:00.5Z",
        "2023-02-29T00:00:00+01:00",
        "2023-05-04T24:00:00+00:00",
        "Wed, 31 Feb 2019 20:02:01 +0000",
        "Wed, 18 Foo 2019 20:02:01 +0000",
        "Wed, 18 Dec 2019 25:02:01 +0000",
    ],
)
def test_what_is_in_no_calendar_is_refused(text: str) -> None:
    """A day that does not exist, loaded as the next best one, would be a lie in the warehouse."""
    with pytest.raises(ValueError):
        normalize_timestamp(text)


@pytest.mark.parametrize(
    "text", ["2016-12-31T23:59:60Z", "2016-12-31T23:59:60.5Z", "Sat, 31 Dec 2016 23:59:60 +0000"]
)
def test_a_leap_second_is_refused(text: str) -> None:
    """No engine can hold second 60; moved to a neighbour it would equal another point in time."""
    with pytest.raises(ValueError):
        normalize_timestamp(text)


@pytest.mark.parametrize(
    "text",
    [
        "2023-05-04T09:42:00",
        "2023-05-04 09:42:00",
        "2023-05-04T09:42:00.123456",
        "2023-05-04",
        "Wed, 18 Dec 2019 20:02:01",
        "Wed, 18 Dec 2019 20:02:01 XYZ",
        "Wed, 18 Dec 2019",
    ],
)
def test_no_zone_is_refused(text: str) -> None:
    """Guessing a zone would move a row by hours without a word."""
    with pytest.raises(ValueError):
        normalize_timestamp(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Z",
        "null",
        "yesterday, about noon",
        "1683193320",
        "09:42:00Z",
        "20230504T094200Z",
        "2023-05-04T09:42Z",
        "2023-05-04T09:42:00.Z ",
        " 2023-05-04T09:42:00Z",
        "2023-05-04T09:42:00Z\n",
        "2023-05-04  09:42:00Z",
        "2023-05-04T09:42:00,5Z",
        "2023-05-04T09:42:00.1234567890Z",
        "2023-05-04T09:42:00+24:00",
        "2023-05-04T09:42:00+01:60",
        "2023-05-04T09:42:00+1:00",
        "2023-05-04T09:42:00+01",
        "2023-05-04T09:42:00Z+01:00",
        "12023-05-04T09:42:00Z",
        "-023-05-04T09:42:00Z",
        "Wed, 18 Dec 2019 20:02:01 +9999",
        "Wed, 18 Dec 19 20:02:01 +0000",
        "Wed, 18 Dec 0019 20:02:01 +0000",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """Reading a form by guess would load times that the API did not mean."""
    with pytest.raises(ValueError):
        normalize_timestamp(text)


@pytest.mark.parametrize(
    "text",
    [
        "2023-W18-4T09:42:00Z",
        "2023-05-04T094200.1Z",
        "2023-05-04T09:42,00Z",
        "2023-124T09:42:00.00Z",
    ],
)
def test_twenty_characters_do_not_make_the_plain_form(text: str) -> None:
    """The quick way for the API's usual form would write text that is no time into a column of times."""
    with pytest.raises(ValueError):
        normalize_timestamp(text)


@pytest.mark.parametrize(
    "text",
    [
        "٢٠٢٣-05-04T09:42:00Z",
        "2023-05-04T09:42:0\u0660Z",
        "18 Dec ٢٠١٩ 20:02:01 +0000",
        "2023-05-04T09:42:00.\u0665Z",
    ],
)
def test_digits_of_other_scripts_are_refused(text: str) -> None:
    """Python reads them as numbers, no engine does; the column would hold what cannot be compared."""
    with pytest.raises(ValueError):
        normalize_timestamp(text)


@pytest.mark.parametrize(
    "text",
    [
        "9" * 100_000,
        "2023-05-04T09:42:00." + "9" * 100_000 + "Z",
        "18 Dec " + "9" * 30 + " 20:02:01 +0000",
        "Wed, 18 Dec 2019 20:02:01 +" + "9" * 30,
        "Wed, " + " " * 100_000,
        "Wed, 18 Dec 2019 20:02:01 +0000" + "(" * 100_000,
    ],
)
def test_huge_text_is_refused_like_any_other(text: str) -> None:
    """Any error but ValueError would end the scan of a whole service for the sake of one row."""
    with pytest.raises(ValueError):
        normalize_timestamp(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("0001-01-01T00:00:00Z", "0001-01-01 00:00:00.000000"),
        ("9999-12-31T23:59:59.999999999Z", "9999-12-31 23:59:59.999999"),
        ("0001-01-01T01:00:00+01:00", "0001-01-01 00:00:00.000000"),
        ("9999-12-31T22:59:59-01:00", "9999-12-31 23:59:59.000000"),
        ("0099-01-01T00:00:00+00:00", "0099-01-01 00:00:00.000000"),
    ],
)
def test_the_first_and_the_last_year_are_read(text: str, normal: str) -> None:
    """Years are compared as text, so each needs its four digits."""
    assert normalize_timestamp(text) == normal


@pytest.mark.parametrize(
    "text",
    ["0001-01-01T00:59:59+01:00", "9999-12-31T23:00:00-01:00", "Fri, 31 Dec 9999 23:59:59 -2300"],
)
def test_beyond_the_first_and_the_last_year_is_refused(text: str) -> None:
    """An offset may lead out of what can be counted; an overflow would end the scan."""
    with pytest.raises(ValueError):
        normalize_timestamp(text)


@given(instants)
def test_its_own_form_is_read_back(moment: datetime) -> None:
    """What the warehouse shows, given a zone, must be the same point in time again."""
    normal = normalize_timestamp(moment.isoformat())
    assert normalize_timestamp(f"{normal}Z") == normal


@given(instants, offsets, st.sampled_from("Tt "), st.booleans())
def test_two_writings_of_one_instant_are_equal(
    moment: datetime, zone: timezone, between: str, colon: bool
) -> None:
    """If the writing mattered, the same row would count as changed whenever the API's habits change."""
    local = moment.astimezone(zone).isoformat(sep=between)
    written = local if colon else local[:-3] + local[-2:]
    assert normalize_timestamp(written) == normalize_timestamp(
        moment.isoformat().replace("+00:00", "Z")
    )


@given(
    instants.map(lambda moment: moment.replace(year=max(moment.year, 1900), day=1, microsecond=0)),
    offsets,
)
def test_the_mail_form_is_the_same_instant(moment: datetime, zone: timezone) -> None:
    """The older API writes times as mails do; a wrong reading would shift them by the offset."""
    assert normalize_timestamp(format_datetime(moment.astimezone(zone))) == normalize_timestamp(
        moment.isoformat()
    )


@given(st.text(alphabet="0123456789-+:.TZtz ,WDecGMT", max_size=40))
def test_every_text_is_either_read_or_refused(text: str) -> None:
    """A third outcome would be an error that ends the scan, or a text that no engine takes as a time."""
    try:
        normal = normalize_timestamp(text)
    except ValueError:
        return
    assert normal == datetime.fromisoformat(normal).isoformat(sep=" ", timespec="microseconds")
