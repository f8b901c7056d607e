"""Instants: microseconds since 1970-01-01T00:00:00Z as an integer, always UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from recension.model.errors import InvalidTimeError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - isoformat adds no offset to it
_MICROSECOND = timedelta(microseconds=1)
_SECOND = 1_000_000

MIN_INSTANT = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
MAX_INSTANT = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - _EPOCH) // _MICROSECOND
"""The range of ``google.protobuf.Timestamp``: years 1 to 9999."""

_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9]))?"
)
_LEAP = "60"
_HINT = "write 2026-01-31 (its first instant, UTC) or 2026-01-31T12:00:00Z"


def parse_instant(text: str) -> int:
    """Read an RFC 3339 date-time, or a date.

    A date means its first instant in UTC, as the date of a Wikimedia export does ("revisions before
    that date"). Digits beyond the microsecond are cut. A leap second has no instant of its own and is refused
    rather than moved to a neighbour. Raises ``InvalidTimeError``.
    """
    match = _RFC3339.fullmatch(text.strip(" \t\r\n"))
    if match is None:
        raise InvalidTimeError(f"not a time: {text[:80]!r}", hint=_HINT, value=text[:80])
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if second == _LEAP:
        raise InvalidTimeError(
            f"not a time: {text!r} (leap seconds are not counted)",
            hint="write second 59, or the first second of the next minute",
            value=text,
        )
    try:
        if hour is None:
            return (datetime(int(year), int(month), int(day), tzinfo=UTC) - _EPOCH) // _MICROSECOND
        offset = UTC if zone in "Zz" else _offset(zone)
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=offset)
        micros = int((fraction or "0")[:6].ljust(6, "0"))
        instant = (moment - _EPOCH) // _MICROSECOND + micros
    except (ValueError, OverflowError) as error:
        raise InvalidTimeError(f"not a time: {text!r} ({error})", hint=_HINT, value=text) from None
    return check_instant(instant)


def _offset(zone: str) -> timezone:
    sign = -1 if zone[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6])))


def check_instant(instant: int) -> int:
    """Return ``instant`` if it lies in years 1 to 9999, else raise ``InvalidTimeError``."""
    if not MIN_INSTANT <= instant <= MAX_INSTANT:
        raise InvalidTimeError("a time lies in the years 1 to 9999", hint=_HINT, value=instant)
    return instant


def format_instant(instant: int) -> str:
    """RFC 3339 in UTC, with a fraction only where there is one: ``2026-01-31T12:00:00Z``.

    Raises ``InvalidTimeError`` outside the years 1 to 9999.
    """
    seconds, micros = divmod(check_instant(instant), _SECOND)
    # strftime pads years below 1000 differently from platform to platform; isoformat does not.
    text = (_NAIVE_EPOCH + timedelta(seconds=seconds)).isoformat()
    return f"{text}.{micros:06d}".rstrip("0") + "Z" if micros else f"{text}Z"
