"""Samples: what training is given of a page, and where they are read from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from recension.model.digest import format_digest
from recension.model.errors import ForeignStateError
from recension.model.instant import format_instant
from recension.model.reading import Entry
from recension_client.export.layout import Terms
from recension_client.export.rows import MAIN
from recension_client.loaders.order import ALL, Order, Share, State

Sample = dict[str, Any]
"""A page by ``COLUMNS``: what ``docs/export.md`` says of them, and the name of its project."""
COLUMNS = (
    *("project", "id", "url", "title", "text", "page_id", "rev_id", "timestamp", "namespace", "digest"),
    "license",
)
TEXT = "text"
"""The column of the text; ``None`` in it where the page's text is withheld or lost."""


class Source(Protocol):
    """Where samples are read from. Can be pickled, and be used in the process that unpickles it."""

    @property
    def order(self) -> Order:
        """The order of its samples."""
        ...

    def read(self, indexes: Iterable[int]) -> Iterator[Sample]:
        """Yield the samples at indexes of the snapshot, in the order given.

        Indexes are taken ahead of the samples that are yielded.
        """
        ...


def walk(
    source: Source, start: State, share: Share = ALL, *, until: int | None = None, had: int = 0
) -> Iterator[tuple[State, Sample]]:
    """Yield a share's samples in the order of training, each with its place; as ``Order.walk`` has them."""
    places, ahead = (source.order.walk(start, share, until=until, had=had) for _ in range(2))
    return zip(places, source.read(map(source.order.index, ahead)), strict=True)


def sample_of(entry: Entry, terms: Mapping[str, Terms]) -> Sample:
    """Return what training is given of a page; ``terms`` by project."""
    own = terms[entry.project]
    main = entry.slot(MAIN)
    return {
        "project": entry.project,
        "id": str(entry.page_id),
        "url": own.url(entry.title),
        "title": entry.title,
        "text": None if main is None or main.text is None else main.text.decode(),
        "page_id": entry.page_id,
        "rev_id": entry.rev_id,
        "timestamp": format_instant(entry.timestamp),
        "namespace": entry.namespace,
        "digest": None if main is None or not main.digest else format_digest(main.digest),
        "license": own.license_at(entry.timestamp),
    }


def check_root(source: Source, state: Mapping[str, object]) -> None:
    """Refuse a state that was taken of other samples. Raises ``ForeignStateError``."""
    if state.get("root") != source.order.root.hex():
        raise ForeignStateError(
            "the state is of another corpus",
            hint="load it with the snapshot that it was taken of, or start anew",
            expected=source.order.root.hex(),
            actual=str(state.get("root"))[:80],
        )
