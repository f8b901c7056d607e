"""What leaves commit to: the two commitments of a page's state, or of many edits at once.

Commitments follow from what was sealed, and so are stored nowhere but in the columns of a large project,
beside its events: 64 bytes an event that no compression makes smaller. To compute those of an edit takes
some 10 us, so that a corpus of a million pages would take 10 s of that alone; from columns it is a thirtieth.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recension.archive.history import State
from recension.archive.packing import Columns, ColumnsLostError, Numbers, pack_columns
from recension.archive.rows import EDIT_FIELDS
from recension.archive.sealed import CONTENT_FIELD, TITLE_FIELD, Sealed, SealedReader, Sealing, each_sealed
from recension.archive.shown import naming_of
from recension.model.errors import DataLossError
from recension.model.seal import CONTENT, TITLE
from recension.model.tree import entry_leaf
from recension.store import keys
from recension.store.interface import Row, Store, View

LARGE = 2**17
"""Revisions of a project from which the commitments are kept in columns."""
_TOGETHER = 127
"""Events of one row: with its digest it fills two pages of LMDB."""
_ROWS = 16_384
"""Edits read in one transaction: some 50 ms."""
_PAIR = 64
_PAIR_FIELDS, _PAIR_LABELS = (TITLE_FIELD, CONTENT_FIELD), (TITLE, CONTENT)
"""What a pair of commitments is of."""

Pairs = npt.NDArray[np.uint8]
"""Title and content commitment of an edit in each row of 64 bytes."""


class Basis(NamedTuple):
    """A page's state with what was sealed for it: all that its entry says, and what its leaf commits to."""

    state: State
    sealed: Sealed
    """Of its edit."""
    naming: Sealed
    """Of the event that gave the title."""
    title: Sealing
    content: Sealing

    @property
    def leaf(self) -> bytes:
        """The leaf of the state's entry."""
        edit = self.state.edit
        return entry_leaf(edit.page, edit.rev, edit.time, self.title[1], self.content[1])


def basis_of(values: SealedReader, state: State, known: Basis | None = None) -> Basis:
    """Return the basis of a state; ``known`` is that of another with the same edit.

    Raises ``DataLossError`` when what was sealed is missing.
    """
    edit, source = state
    sealed = known.sealed if known else values.of(edit.position, edit.ordinal)
    naming = naming_of(values, state, sealed)
    if known is None and naming is sealed:
        title, content = sealed.sealings(_PAIR_FIELDS, _PAIR_LABELS)
    else:
        (title,) = naming.sealings([source.field], [source.label])
        (content,) = [known.content] if known else sealed.sealings([CONTENT_FIELD], [CONTENT])
    return Basis(state, sealed, naming, title, content)


@dataclass(slots=True)
class Facts:
    """What a selector and a leaf take of some edits, beside what names them."""

    namespaces: Numbers
    text_bytes: Numbers
    models: Numbers
    """Numbers in a ``Models``."""
    pairs: Pairs

    @classmethod
    def of(cls, count: int) -> Facts:
        """Return room for the facts of ``count`` edits."""
        a, b, c = (np.zeros(count, np.int64) for _ in range(3))
        return cls(a, b, c, np.zeros((count, _PAIR), np.uint8))

    def at(self, places: Numbers | npt.NDArray[np.bool_]) -> Facts:
        """Return the facts of some of the edits."""
        return Facts(
            self.namespaces[places], self.text_bytes[places], self.models[places], self.pairs[places]
        )

    def put(self, at: Numbers | slice, some: Facts) -> None:
        """Put the facts of some edits in their places."""
        self.namespaces[at] = some.namespaces
        self.text_bytes[at] = some.text_bytes
        self.models[at] = some.models
        self.pairs[at] = some.pairs


class Models:
    """Content models, numbered as they come."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def number(self, model: bytes) -> int:
        """Return a model's number."""
        return self._numbers.setdefault(model, len(self._numbers))

    def names(self) -> list[bytes]:
        """Return the models, by number."""
        return list(self._numbers)


def from_timelines(store: Store, number: int, edits: Sequence[Numbers], models: Models) -> Facts:
    """Read the rows of edits, named by (page, time, revision, position, ordinal), best in that order.

    Their commitments are computed from what was sealed. Raises ``DataLossError`` if something is not there,
    ``ValueError`` if it is cut short.
    """
    facts = Facts.of(len(edits[0]))
    for at in range(0, len(edits[0]), _ROWS):
        some = [column[at : at + _ROWS].tolist() for column in edits]
        with store.view() as view:
            values = view.get_many([keys.edit(number, *edit) for edit in zip(*some, strict=True)])
            pairs = _sealed_pairs(view, list(zip(*some[-2:], strict=True)))
        there = [value for value in values if value is not None]
        if len(there) < len(values):
            raise DataLossError("an edit's row is missing", hint="run recension-server fsck")
        fixed, names = _read_edit_values(there)
        numbers = np.array([models.number(name) for name in names], np.int64)
        place = slice(at, at + len(there))
        facts.put(place, Facts(fixed["namespace"], fixed["text_bytes"], numbers, pairs))
    return facts


_EDITS = np.dtype(EDIT_FIELDS)


def _read_edit_values(values: Sequence[bytes]) -> tuple[npt.NDArray[np.void], list[bytes]]:
    """Return the ``EDIT_FIELDS`` of rows of edits, and their models."""
    size = _EDITS.itemsize
    if any(len(value) < size for value in values):
        raise ValueError("an edit's row is cut short")
    fixed = np.frombuffer(b"".join([value[:size] for value in values]), _EDITS)
    return fixed, [value[size:] for value in values]


def _sealed_pairs(view: View, edits: list[tuple[int, int]]) -> Pairs:
    """Compute the commitments of edits, named by (position, ordinal)."""
    order = sorted(range(len(edits)), key=edits.__getitem__)
    found = b"".join(map(pair_of, each_sealed(view, [edits[at] for at in order])))
    pairs = np.empty((len(edits), _PAIR), np.uint8)
    pairs[order] = np.frombuffer(found, np.uint8).reshape(-1, _PAIR)
    return pairs


def pair_of(sealed: Sealed) -> bytes:
    """Return the commitments of title and content of an edit: 64 bytes."""
    return b"".join([committed for _, committed in sealed.sealings(_PAIR_FIELDS, _PAIR_LABELS)])


def facts_rows(number: int, upto: int, part: int, facts: Facts, models: Models) -> Iterator[Row]:
    """Yield the rows that keep the facts of all events of a part of the event columns."""
    names = b"\0".join(models.names())
    columns = pack_columns([facts.namespaces, facts.text_bytes, facts.models])
    yield keys.event_facts(number, upto, part), _LENGTH.pack(len(names)) + names + columns
    for chunk, at in enumerate(range(0, len(facts.pairs), _TOGETHER)):
        yield keys.event_pairs(number, upto, part, chunk), facts.pairs[at : at + _TOGETHER].tobytes()


_LENGTH = struct.Struct(">I")


def from_columns(
    store: Store, number: int, part: tuple[int, int], events: int, wanted: Numbers, models: Models
) -> Facts:
    """Read what ``facts_rows`` made of a part of ``events``, for the events ``wanted``, ascending.

    Raises ``ColumnsLostError`` if a row is not there.
    """
    chunks, ranks = np.unique(wanted // _TOGETHER, return_inverse=True)
    with store.view() as view:
        head = view.get(keys.event_facts(number, *part))
        rows = view.get_many([keys.event_pairs(number, *part, chunk) for chunk in chunks.tolist()])
    lengths = np.minimum(events - chunks * _TOGETHER, _TOGETHER) * _PAIR
    whole = [row for row, length in zip(rows, lengths.tolist(), strict=True) if row and len(row) == length]
    if head is None or len(whole) < len(rows):
        raise ColumnsLostError("commitments in columns are missing")
    pairs = np.frombuffer(b"".join(whole), np.uint8).reshape(-1, _PAIR)
    try:
        names, columns = _read_facts(head, events)
        numbers = np.array([models.number(name) for name in names.split(b"\0")], np.int64)
        namespaces, text_bytes, own = (columns[at].take(wanted) for at in range(3))
        own_models = numbers.take(own)
    except (struct.error, ValueError, IndexError) as error:
        raise ColumnsLostError(f"facts in columns cannot be read: {error}") from None
    places = ranks * _TOGETHER + wanted % _TOGETHER
    return Facts(namespaces, text_bytes, own_models, pairs.take(places, axis=0))


def _read_facts(head: bytes, events: int) -> tuple[bytes, Columns]:
    """Return the names of the models, and the columns. Raises ``ColumnsLostError`` or ``struct.error``."""
    (size,) = _LENGTH.unpack_from(head)
    at = _LENGTH.size + size
    return head[_LENGTH.size : at], Columns(head[at:], events)


def same_facts(one: bytes, other: bytes, events: int) -> bool:
    """Say whether two rows hold the same facts of ``events``, packed in whichever way.

    Raises ``ColumnsLostError`` or ``struct.error`` for a row that cannot be read.
    """
    (names, columns), (other_names, others) = _read_facts(one, events), _read_facts(other, events)
    return names == other_names and columns.says_same(others)
