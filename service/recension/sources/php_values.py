"""Read what PHP's ``serialize`` writes, as far as log parameters use it: null, bool, int, string, array.

Strict and bounded; objects, references and floats are refused. Lengths count bytes, not characters, hence
it works on bytes. Format: php.net/manual/function.serialize and ext/standard/var_unserializer.re.
"""

from __future__ import annotations

import re
from typing import NoReturn

MAX_BYTES = 1024 * 1024
"""Largest serialised value. A log entry that hides 500 revisions has about 10 KB."""
_MAX_DEPTH = 8
_MAX_ELEMENTS = 50_000

_SCALAR = re.compile(rb"N;|b:([01]);|i:([+-]?[0-9]{1,19});")
_LENGTH = re.compile(rb"([sa]):([0-9]{1,7}):")

PhpValue = None | bool | int | bytes | dict[int | bytes, "PhpValue"]
"""Strings are bytes; a list is a dict with the keys 0, 1, 2 and so on, as PHP has it."""


class PhpFormatError(ValueError):
    """The bytes are not a serialised value of the kinds that are read."""


def unserialize(data: bytes) -> PhpValue:
    """Read one value that fills ``data``. Raises ``PhpFormatError`` naming the byte."""
    if len(data) > MAX_BYTES:
        raise PhpFormatError(f"{len(data):,} bytes are more than {MAX_BYTES:,}")
    reader = _Reader(data)
    value = reader.value(0)
    if reader.position != len(data):
        reader.fail("more bytes behind the value")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0
        self._elements = 0

    def value(self, depth: int) -> PhpValue:
        scalar = _SCALAR.match(self._data, self.position)
        if scalar is not None:
            self.position = scalar.end()
            truth, digits = scalar.groups()
            if digits is not None:
                return int(digits)
            return None if truth is None else truth == b"1"
        head = _LENGTH.match(self._data, self.position)
        if head is None:
            self.fail("not a null, bool, int, string or array")
        self.position = head.end()
        return self._string(int(head[2])) if head[1] == b"s" else self._array(int(head[2]), depth)

    def _string(self, length: int) -> bytes:
        self._expect(b'"')
        text = self._data[self.position : self.position + length]
        if len(text) < length:
            self.fail(f"a string of {length} bytes is cut")
        self.position += length
        self._expect(b'";')
        return text

    def _array(self, length: int, depth: int) -> dict[int | bytes, PhpValue]:
        self._elements += length
        if depth >= _MAX_DEPTH or self._elements > _MAX_ELEMENTS:
            self.fail("too many arrays inside each other, or too many elements")
        self._expect(b"{")
        result: dict[int | bytes, PhpValue] = {}
        for _ in range(length):
            key = self.value(_MAX_DEPTH)
            if isinstance(key, bool) or not isinstance(key, (int, bytes)):
                self.fail("a key is an int or a string")
            if key in result:
                self.fail(f"the key {key!r} occurs twice")
            result[key] = self.value(depth + 1)
        self._expect(b"}")
        return result

    def _expect(self, token: bytes) -> None:
        if not self._data.startswith(token, self.position):
            self.fail(f"expected {token.decode()}")
        self.position += len(token)

    def fail(self, message: str) -> NoReturn:
        raise PhpFormatError(f"byte {self.position}: {message}")
