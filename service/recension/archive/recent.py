"""What was asked for last, in bounded memory."""

from __future__ import annotations

from typing import Generic, TypeVar

_V = TypeVar("_V")


class Recent(Generic[_V]):
    """Values by keys of bytes, in two generations; the older one is forgotten as a whole.

    Plain dictionaries, whose single steps are atomic: threads at the same time lose a value at most.
    """

    def __init__(self, size: int) -> None:
        """``size``: values of a generation."""
        self.size = size
        self._young: dict[bytes, _V] = {}
        self._old: dict[bytes, _V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: bytes) -> _V | None:
        """Return the value of a key, if it is remembered."""
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: bytes, value: _V) -> None:
        """Remember a value."""
        if len(self._young) >= self.size:
            self._old, self._young = self._young, {}
        self._young[key] = value
