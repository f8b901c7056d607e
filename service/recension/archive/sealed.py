"""The purgeable part of events: salts and sealed values, some events of a commit in one compressed blob.

Time and place of an event are elsewhere, so a purge here destroys what was sealed and nothing else. What a
field is committed to follows from its salt and value; a field that was purged keeps its commitment, and the
salts of the other fields (DESIGN section 3).

What does not compress, salts and digests of texts, lies by itself before a deflate stream of the rest::

    events u8 || salts u8 || digests u8 || fields u8 || salts || digests || deflate(
        shape of each event || lengths, u32, all first bytes first || salts of purged events
        || values, field by field || notes )
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from threading import Lock
from typing import NamedTuple

from recension.model.errors import DataLossError
from recension.model.seal import SALT_BYTES, commitment, field_salt, seal_fields
from recension.store import keys
from recension.store.interface import Row, State, View

TOGETHER = 32
"""Events in one blob: half as many take 7 % more, and to open a blob takes 20 us."""
TITLE_FIELD = 0
CONTENT_FIELD = 3
"""Of an edit's fields, the one that names its texts."""
_FIELDS, _WHOLE, _CUT = 63, 64, 128
"""Of an event's shape: the number of its fields; whether it has its salt; whether its content ends in one of
the digests."""
_COUNTS = bytes(shape & _FIELDS for shape in range(256))
_WHOLES, _CUTS = (bytes(bool(shape & bit) for shape in range(256)) for bit in (_WHOLE, _CUT))
"""Of each shape, 1 if it has the bit."""
_GONE = 2**32 - 1
"""In place of the length of a value that was purged."""
_HEADER = struct.Struct(">4B")
_PRESENT_SLOT = struct.Struct(">BQ32s")
_DIGEST_BYTES = 32
_LEVEL = 9
_KEPT_GROUPS = 1024
"""Opened blobs that are kept: up to 16 MB."""
_READ_GROUPS = 256
"""Those that a reader holds beside them: up to 4 MB."""
_NOTE = struct.Struct(">BqB")
_COMMITMENT_BYTES = 32


class Note(NamedTuple):
    """What became of upstream's claims about one slot; kept with the sealed values, never hashed."""

    verdict: int
    claimed_bytes: int
    """-1 without a claim."""
    claimed_sha1: str
    """Only of a mismatch; hidden slots keep none, since it would confirm a guess of their text."""


Sealing = tuple[bytes, bytes]
"""Salt of a field, empty once it was purged, and its commitment: 16 and 32 bytes."""


class Sealed(NamedTuple):
    """The sealed values of an event, in the order of its fields."""

    salt: bytes
    """16 bytes; empty once a field was purged, since it would open that field's commitment."""
    values: tuple[bytes | None, ...]
    """``None`` for a purged field."""
    notes: tuple[Note, ...]
    salts: tuple[bytes, ...] = ()
    """Once a field was purged: the salt of each other field, and the commitment of a purged one."""

    def value(self, field: int) -> bytes:
        """Return a value. Raises ``DataLossError`` for a purged one: ask ``values`` where that may be."""
        value = self.values[field]
        if value is None:
            raise DataLossError("a sealed value was purged")
        return value

    def field_salt(self, field: int, label: bytes) -> bytes:
        """Return the salt of a field that was not purged; ``label`` is the field's."""
        return self.salts[field] if self.salts else field_salt(self.salt, label)

    def sealings(self, fields: Sequence[int], labels: Sequence[bytes]) -> list[Sealing]:
        """Return how some fields are sealed, also purged ones; ``labels`` are theirs."""
        if self.salt:
            return seal_fields(self.salt, labels, [self.value(field) for field in fields])
        return [self._kept_sealing(*both) for both in zip(fields, labels, strict=True)]

    def _kept_sealing(self, field: int, label: bytes) -> Sealing:
        value, kept = self.values[field], self.salts[field]
        return (b"", kept) if value is None else (kept, commitment(kept, label, value))

    def purge(self, field: int, labels: Sequence[bytes]) -> Sealed:
        """Return the values without one field; ``labels`` are those of all fields. Notes go with it."""
        if self.values[field] is None:
            return self
        salts = list(self.salts) or [field_salt(self.salt, label) for label in labels]
        salts[field] = self.sealings([field], [labels[field]])[0][1]
        values = (*self.values[:field], None, *self.values[field + 1 :])
        return Sealed(b"", values, (), tuple(salts))


class _Group:
    """The sealed values of one blob, which are made as they are asked for."""

    __slots__ = (
        "_digests", "_fields", "_kinds", "_lengths", "_offsets", "_plain", "_salts", "_text", "count"
    )  # fmt: skip

    def __init__(self, raw: bytes) -> None:
        """Raises ``DataLossError`` for bytes that no writer makes."""
        try:
            self._open(raw)
        except (struct.error, ValueError, IndexError, zlib.error) as error:
            raise DataLossError(f"sealed values cannot be read: {error}") from None

    def _open(self, raw: bytes) -> None:
        count, salts, digests, fields = _HEADER.unpack_from(raw)
        middle = _HEADER.size + SALT_BYTES * salts
        end = middle + _DIGEST_BYTES * digests
        text = zlib.decompress(raw[end:], -zlib.MAX_WBITS)
        kinds = text[:count]
        lengths = _lengths(text[count : count + 4 * count * (fields + 1)])
        whole, cut = _having(kinds, _WHOLES), _having(kinds, _CUTS)
        extra = 0
        if whole < count:
            extra = sum(
                (_COMMITMENT_BYTES if lengths[field * count + at] == _GONE else SALT_BYTES)
                for at, kind in enumerate(kinds)
                if not kind & _WHOLE
                for field in range(kind & _FIELDS)
            )
        start = count * (1 + 4 * (fields + 1)) + extra
        sizes = [0 if length == _GONE else length for length in lengths] if extra else lengths
        self.count, self._fields, self._kinds, self._text = count, fields, kinds, text
        self._lengths = lengths
        self._offsets = list(accumulate(sizes, initial=start))
        self._plain = salts == digests == count
        self._salts = raw[_HEADER.size : middle]
        self._digests = raw[middle:end]
        if (
            self._offsets[-1] != len(text)
            or (whole, cut) != (salts, digests)
            or max(kinds.translate(_COUNTS), default=0) > fields
        ):
            raise ValueError("they have another length than they say")

    def at(self, place: int) -> Sealed:
        """Return the sealed values of an event."""
        kinds, count, text, offsets = self._kinds, self.count, self._text, self._offsets
        kind = kinds[place]
        fields = kind & _FIELDS
        spots = range(place, fields * count, count)
        values: list[bytes | None] = [text[offsets[spot] : offsets[spot + 1]] for spot in spots]
        spot = self._fields * count + place
        notes = _read_notes(text[offsets[spot] : offsets[spot + 1]])
        if self._plain:
            digest = self._digests[_DIGEST_BYTES * place : _DIGEST_BYTES * (place + 1)]
            values[CONTENT_FIELD] = (values[CONTENT_FIELD] or b"") + digest
            return Sealed(self._salts[SALT_BYTES * place : SALT_BYTES * (place + 1)], tuple(values), notes)
        salt = b""
        salts: tuple[bytes, ...] = ()
        if kind & _WHOLE:
            before = _having(kinds[:place], _WHOLES)
            salt = self._salts[SALT_BYTES * before : SALT_BYTES * (before + 1)]
        else:
            salts = self._kept_salts(place)
            for field, spot in enumerate(spots):
                if self._lengths[spot] == _GONE:
                    values[field] = None
        if kind & _CUT:
            before = _having(kinds[:place], _CUTS)
            digest = self._digests[_DIGEST_BYTES * before : _DIGEST_BYTES * (before + 1)]
            values[CONTENT_FIELD] = (values[CONTENT_FIELD] or b"") + digest
        return Sealed(salt, tuple(values), notes, salts)

    def value(self, place: int, field: int) -> bytes | None:
        """Return one value of an event, as ``at`` does, but of a field that is not the content."""
        spot = field * self.count + place
        if not self._kinds[place] & _WHOLE and self._lengths[spot] == _GONE:
            return None
        return self._text[self._offsets[spot] : self._offsets[spot + 1]]

    def _kept_salts(self, place: int) -> tuple[bytes, ...]:
        """Return the salts and commitments of an event of which a field was purged."""
        start = self.count * (1 + 4 * (self._fields + 1))
        for at, kind in enumerate(self._kinds[: place + 1]):
            if kind & _WHOLE:
                continue
            gone = [self._lengths[field * self.count + at] == _GONE for field in range(kind & _FIELDS)]
            ends = list(accumulate((_COMMITMENT_BYTES if one else SALT_BYTES for one in gone), initial=start))
            if at == place:
                return tuple(self._text[a:b] for a, b in pairwise(ends))
            start = ends[-1]
        return ()


class _KeptGroup:
    """A blob that was opened: it is still the same in the state it was seen in, or if its bytes are."""

    __slots__ = ("group", "raw", "state")

    def __init__(self, state: State, raw: bytes, group: _Group) -> None:
        self.state = state
        self.raw = raw
        self.group = group


class _Kept:
    """Blobs that were opened lately: what was erased is never read from here."""

    def __init__(self) -> None:
        self._groups: dict[bytes, _KeptGroup] = {}
        self._lock = Lock()

    def group(self, view: View, state: State, key: bytes) -> _Group | None:
        """Return a blob's values, if there is one; ``state`` is the view's.

        Raises ``DataLossError`` for bytes that no writer makes.
        """
        known = self._groups.get(key)
        if known is not None and known.state == state:
            return known.group
        raw = view.blob(key)
        if raw is None:
            return None
        if known is not None and known.raw == raw:
            known.state = state
            return known.group
        group = _Group(raw)
        with self._lock:
            self._groups.pop(key, None)
            if len(self._groups) >= _KEPT_GROUPS:
                del self._groups[next(iter(self._groups))]
            self._groups[key] = _KeptGroup(state, raw, group)
        return group


_KEPT = _Kept()


def _having(kinds: bytes, table: bytes) -> int:
    """Return how many shapes have a bit: a tenth of what it takes to look at each."""
    return kinds.translate(table).count(1)


def _lengths(planes: bytes) -> tuple[int, ...]:
    """Return numbers of four bytes of which all first ones come first."""
    count = len(planes) // 4
    raw = bytearray(4 * count)
    for at in range(4):
        raw[at::4] = planes[at * count : (at + 1) * count]
    return struct.unpack(f">{count}I", raw)


def _planes(numbers: Sequence[int]) -> bytes:
    raw = struct.pack(f">{len(numbers)}I", *numbers)
    return b"".join(raw[at::4] for at in range(4))


def _read_notes(raw: bytes) -> tuple[Note, ...]:
    notes = []
    at = 0
    while at < len(raw):
        verdict, claimed_bytes, size = _NOTE.unpack_from(raw, at)
        at += _NOTE.size
        notes.append(Note(verdict, claimed_bytes, raw[at : at + size].decode()))
        at += size
    return tuple(notes)


def _notes_value(notes: Sequence[Note]) -> bytes:
    out = []
    for note in notes:
        sha1 = note.claimed_sha1.encode()[:255]
        out += [_NOTE.pack(note.verdict, note.claimed_bytes, len(sha1)), sha1]
    return b"".join(out)


def _laid_out(sealed: Sequence[Sealed]) -> tuple[bytes, bytes]:
    """Return what a blob of some events holds: what is kept as it is, and what is deflated."""
    fields = max((len(one.values) for one in sealed), default=0)
    kinds = bytearray()
    salts: list[bytes] = []
    digests: list[bytes] = []
    extra: list[bytes] = []
    columns: list[list[bytes | None]] = [[] for _ in range(fields)]
    for one in sealed:
        kind = len(one.values)
        values = list(one.values)
        if one.salts:
            extra += one.salts
        else:
            kind |= _WHOLE
            salts.append(one.salt)
        content = values[CONTENT_FIELD] if len(values) > CONTENT_FIELD else None
        if content is not None and _ends_in_digest(content):
            kind |= _CUT
            digests.append(content[-_DIGEST_BYTES:])
            values[CONTENT_FIELD] = content[:-_DIGEST_BYTES]
        kinds.append(kind)
        for at, column in enumerate(columns):
            column.append(values[at] if at < len(values) else b"")
    columns.append([_notes_value(one.notes) for one in sealed])
    parts = [value for column in columns for value in column]
    lengths = [_GONE if value is None else len(value) for value in parts]
    text = b"".join((kinds, _planes(lengths), *extra, *(value for value in parts if value is not None)))
    header = _HEADER.pack(len(sealed), len(salts), len(digests), fields)
    return b"".join((header, *salts, *digests)), text


def _ends_in_digest(content: bytes) -> bool:
    """Say whether a value looks as the content of an edit with a text does. Either way nothing is lost."""
    if len(content) < _PRESENT_SLOT.size:
        return False
    present, size, _ = _PRESENT_SLOT.unpack_from(content, len(content) - _PRESENT_SLOT.size)
    return bool(present == 1 and size < 2**40)


def _pack(sealed: Sequence[Sealed]) -> bytes:
    kept, text = _laid_out(sealed)
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return kept + deflate.compress(text) + deflate.flush()


_NO_GROUP = _Group(_pack([]))


def pack_sealed(sealed: Sequence[Sealed]) -> list[bytes]:
    """Return the values of some events, ``TOGETHER`` of them in a blob."""
    return [_pack(sealed[at : at + TOGETHER]) for at in range(0, len(sealed), TOGETHER)]


def sealed_blobs(position: int, packed: Sequence[bytes]) -> list[Row]:
    """Return the rows of a commit's packed values, in the order of their ordinals."""
    return [(keys.sealed_blob(position, at), blob) for at, blob in enumerate(packed)]


def sealed_keys(position: int, events: int) -> list[bytes]:
    """Return the blob keys of a commit's sealed values."""
    return [keys.sealed_blob(position, part) for part in range(-(-events // TOGETHER))]


def open_sealed(raw: bytes) -> list[Sealed]:
    """Return the sealed values of one blob. Raises ``DataLossError`` for bytes that no writer makes."""
    group = _Group(raw)
    try:
        sealed = [group.at(place) for place in range(group.count)]
        fits = _same(raw, *_laid_out(sealed))
    except (struct.error, ValueError, IndexError) as error:
        raise DataLossError(f"sealed values cannot be read: {error}") from None
    if not fits:
        raise DataLossError("sealed values are laid out as no writer does it")
    return sealed


def _same(raw: bytes, kept: bytes, text: bytes) -> bool:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    found = inflate.decompress(raw[len(kept) :]) + inflate.flush()
    return raw.startswith(kept) and found == text and inflate.eof and not inflate.unused_data


def raw_bytes(raw: bytes) -> int:
    """Return the size of what a blob holds, before compression."""
    return sum(map(len, _laid_out(open_sealed(raw))))


class SealedReader:
    """Reads sealed values inside one view. Holds the blobs that it opened, some of them at a time."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._state = view.state
        self._groups: dict[bytes, _Group] = {}

    def of(self, position: int, ordinal: int) -> Sealed:
        """Return the sealed values of an event. Raises ``DataLossError`` when they are missing."""
        key = keys.sealed_blob(position, ordinal // TOGETHER)
        group = self._groups.get(key)
        if group is None:
            group = _KEPT.group(self._view, self._state, key)
            if group is None:
                raise _missing(position, ordinal)
            if len(self._groups) >= _READ_GROUPS:
                self._groups.clear()
            self._groups[key] = group
        at = ordinal % TOGETHER
        if at >= group.count:
            raise _missing(position, ordinal)
        return group.at(at)


def each_sealed(view: View, events: Iterable[tuple[int, int]]) -> Iterator[Sealed]:
    """Yield the sealed values of events by (position, ordinal). Holds one blob: best in the order of the log.

    Raises ``DataLossError`` when they are missing.
    """
    held, group, state = b"", _NO_GROUP, view.state
    for position, ordinal in events:
        key = keys.sealed_blob(position, ordinal // TOGETHER)
        if key != held:
            held, group = key, _KEPT.group(view, state, key) or _NO_GROUP
        at = ordinal % TOGETHER
        if at >= group.count:
            raise _missing(position, ordinal)
        yield group.at(at)


def each_value(view: View, events: Iterable[tuple[int, int]], field: int) -> Iterator[bytes | None]:
    """Yield one value of each event, as ``each_sealed`` does, in less time; ``None`` of a purged one.

    The field is none of ``CONTENT_FIELD``, and one that each of the events has.
    """
    held, group, state = (-1, -1), _NO_GROUP, view.state
    for position, ordinal in events:
        part = ordinal // TOGETHER
        if (position, part) != held:
            key = keys.sealed_blob(position, part)
            held, group = (position, part), _KEPT.group(view, state, key) or _NO_GROUP
        at = ordinal % TOGETHER
        if at >= group.count:
            raise _missing(position, ordinal)
        yield group.value(at, field)


def _missing(position: int, ordinal: int) -> DataLossError:
    return DataLossError(f"the values of event {position}.{ordinal} are missing", position=position)


def find_sealed(view: View, position: int, ordinal: int) -> Sealed:
    """Return the sealed values of one event. Raises ``DataLossError`` when they are missing."""
    return SealedReader(view).of(position, ordinal)


def with_sealed(
    view: View, blobs: dict[bytes, bytes | None], position: int, ordinal: int, sealed: Sealed
) -> None:
    """Put other values of an event into ``blobs``, which holds the blobs that change already."""
    key = keys.sealed_blob(position, ordinal // TOGETHER)
    raw = blobs.get(key) or view.blob(key)
    if raw is None:
        raise _missing(position, ordinal)
    some = open_sealed(raw)
    some[ordinal % TOGETHER] = sealed
    blobs[key] = _pack(some)
