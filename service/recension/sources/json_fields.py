"""JSON that others wrote: parsed in bounded memory, and read field by field with a named refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

import orjson

from recension.model.errors import InvalidTimeError
from recension.model.event import MAX_ID
from recension.model.instant import parse_instant
from recension.sources.items import BadRecordError

_QUICK_BYTES = 2**20
"""Of longer data orjson takes twelve times the bytes at once, more than the process that parses may have."""


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_JSON = json.JSONDecoder(parse_constant=_no_number)


def parse_json(data: bytes | bytearray) -> Any:
    """Return the value of JSON, in which strings of long data may hold half a surrogate pair.

    Raises ``ValueError``.
    """
    if len(data) <= _QUICK_BYTES:
        return orjson.loads(data)
    try:
        return _JSON.decode(data.decode())
    except RecursionError:
        raise ValueError("it is nested too deep") from None


class Fields:
    """An object of JSON, read field by field; what is missing is empty. Raises ``BadRecordError``."""

    __slots__ = ("_name", "_value")

    def __init__(self, value: object, name: str) -> None:
        if value is not None and not isinstance(value, dict):
            raise BadRecordError("INVALID_FIELD", f"{name}: an object was expected")
        self._value: dict[str, Any] = value or {}
        self._name = name

    def __contains__(self, name: str) -> bool:
        return self._value.get(name) is not None

    def says_none(self, name: str) -> bool:
        """Say whether it is there, and null."""
        return name in self._value and self._value[name] is None

    def part(self, name: str) -> Fields:
        """Return an object within this one."""
        return Fields(self._value.get(name), name)

    def parts(self) -> Iterator[tuple[str, Fields]]:
        """Yield the objects that the values of an object are."""
        for name in self._value:
            yield name, self.part(name)

    def objects(self, name: str) -> Iterator[Fields]:
        """Yield the objects of an array."""
        value = self._value.get(name)
        if value is not None and not isinstance(value, list):
            raise BadRecordError("INVALID_FIELD", f"{self._name}.{name}: an array was expected")
        for one in value or ():
            yield Fields(one, name)

    def text(self, name: str) -> str:
        """Return a string."""
        value = self._value.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise BadRecordError("INVALID_FIELD", f"{self._name}.{name}: a string was expected")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise BadRecordError(
                    "INVALID_FIELD", f"{self._name}.{name}: half of a surrogate pair is no character"
                ) from None
        return value

    def number(self, name: str) -> int:
        """Return a whole number that an id may be, or 0."""
        value = self._value.get(name)
        if value is None:
            return 0
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not 0 <= value <= MAX_ID:
            raise BadRecordError(
                "INVALID_FIELD", f"{self._name}.{name}: a whole number below 2^63 was expected"
            )
        return value

    def flag(self, name: str) -> bool:
        """Return a truth value."""
        value = self._value.get(name)
        if value is not None and type(value) is not bool:
            raise BadRecordError("INVALID_FIELD", f"{self._name}.{name}: true or false was expected")
        return bool(value)

    def time(self, name: str) -> int:
        """Return an instant in microseconds since the epoch; one that is missing is refused."""
        try:
            return parse_instant(self.text(name))
        except InvalidTimeError as error:
            raise BadRecordError("INVALID_FIELD", f"{self._name}.{name}: {error.message}") from None
