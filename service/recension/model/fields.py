"""Documents that people write, as they were parsed from JSON, YAML or TOML: read field by field.

Each reader takes a value and its place, and refuses with an error whose ``field`` is that place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from recension.model.errors import InvalidAgreementError, RecensionError
from recension.model.event import MAX_NAME_BYTES
from recension.model.instant import parse_instant

_T = TypeVar("_T")
_D = TypeVar("_D")
HOSTILE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Characters that a person does not see, or that change how others are seen, and halves of characters.

Joiners stay: names in some scripts have them."""
Parse = Callable[[object, str], _T]
"""Reads a value at a place, which its errors name."""
SHOWN = 80
"""Characters of a wrong value that its error repeats."""


def bad(place: str, what: str, hint: str = "") -> InvalidAgreementError:
    """Return the error that says what is wrong at a place; without one, with the document."""
    return InvalidAgreementError(f"{place}: {what}" if place else what, hint=hint, field=place or "document")


class Fields:
    """The fields of a mapping; those that nobody knows are refused."""

    def __init__(self, value: object, place: str, known: Iterable[str]) -> None:
        if not isinstance(value, Mapping):
            raise bad(place, f"it is {kind_of(value)}, not a mapping")
        self._value = value
        self._place = place
        for name in value:
            if name not in known:
                shown = repr(name)[:SHOWN]
                where = name if isinstance(name, str) and name.isidentifier() and len(name) <= SHOWN else "?"
                raise bad(
                    self._at(where), f"there is no field {shown}", f"known are {', '.join(sorted(known))}"
                )

    def _at(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name

    def take(self, name: str, parse: Parse[_T], default: _D) -> _T | _D:
        """Read a field; ``default`` if it is not there."""
        return parse(self._value[name], self._at(name)) if name in self._value else default

    def need(self, name: str, parse: Parse[_T]) -> _T:
        """Read a field that has to be there."""
        if name not in self._value:
            raise bad(self._at(name), "it is missing")
        return parse(self._value[name], self._at(name))


def kind_of(value: object) -> str:
    """Say what a value is, as the author of a document would."""
    for kind, name in (
        (bool, "true or false"),
        (str, "a string"),
        (int, "a number"),
        (float, "a number with a fraction"),
        (Mapping, "a mapping"),
        (list, "a list"),
    ):
        if isinstance(value, kind):
            return name
    return "nothing" if value is None else f"of the type {type(value).__name__}"


def string(value: object, place: str) -> str:
    """Read a string of which every character is seen."""
    if not isinstance(value, str):
        raise bad(place, f"it is {kind_of(value)}, not a string", "put quotes around it")
    if HOSTILE.search(value):
        raise bad(place, "it has control characters, or others that nobody sees")
    return value


def matching(form: re.Pattern[str], what: str, max_bytes: int = MAX_NAME_BYTES) -> Parse[str]:
    """Return what reads a string of some form, whole, with the word for it."""

    def parse(value: object, place: str) -> str:
        text = string(value, place)
        if len(text.encode()) > max_bytes or not form.fullmatch(text):
            raise bad(place, f"{text[:SHOWN]!r} is no {what}")
        return text

    return parse


def instant(value: object, place: str) -> int:
    """Read a date or time; microseconds since the epoch."""
    try:
        return parse_instant(string(value, place))
    except InvalidAgreementError:
        raise
    except RecensionError as error:
        raise bad(place, error.message, error.hint) from None


def between(low: int, high: int, hint: str = "") -> Parse[int]:
    """Return what reads a whole number, both bounds included."""

    def parse(value: object, place: str) -> int:
        if type(value) is not int:
            raise bad(place, f"it is {kind_of(value)}, not a whole number")
        if not low <= value <= high:
            raise bad(place, f"it is not from {low} to {high}", hint)
        return value

    return parse


def list_of(parse: Parse[_T], limit: int) -> Parse[list[_T]]:
    """Return what reads a list: not empty, not long, and without repetition."""

    def read(value: object, place: str) -> list[_T]:
        if not isinstance(value, list | tuple):
            raise bad(place, f"it is {kind_of(value)}, not a list")
        if not value:
            raise bad(place, "the list is empty", "leave it out, or say what it has")
        if len(value) > limit:
            raise bad(place, f"the list has {len(value)} items, more than {limit}")
        seen: list[_T] = []
        known: set[object] = set()
        for at, item in enumerate(value):
            one = parse(item, f"{place}[{at}]")
            if one in known:
                raise bad(f"{place}[{at}]", f"{str(item)[:SHOWN]!r} is there twice")
            known.add(one)
            seen.append(one)
        return seen

    return read
