"""Pages of list answers: how many items, and how many bytes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from recension.model.errors import InvalidArgumentError
from recension.model.reading import MAX_PAGE

MAX_PAGE_BYTES = 1024 * 1024
"""A page ends early when its items have so many bytes: clients take 4 MiB."""


def page_size_of(asked: int, default: int = MAX_PAGE) -> int:
    """Return how many items to send: the default for 0, never more than ``MAX_PAGE`` (AIP-158)."""
    if asked < 0:
        raise InvalidArgumentError(
            f"page_size: {asked} is negative", hint="leave it out", field="page_size", value=asked
        )
    return min(asked or default, MAX_PAGE)


class Sized(Protocol):
    """A proto message."""

    def ByteSize(self) -> int:  # noqa: N802 - protobuf's name
        """Return its size on the wire."""
        ...


T = TypeVar("T")
M = TypeVar("M", bound=Sized)


def take_page(items: Iterable[T], size: int, convert: Callable[[T], M]) -> tuple[list[M], bool]:
    """Convert one page of ``items`` and say whether there are more."""
    messages: list[M] = []
    room = MAX_PAGE_BYTES
    for item in items:
        if len(messages) == size or room <= 0:
            return messages, True
        message = convert(item)
        room -= message.ByteSize()
        messages.append(message)
    return messages, False
