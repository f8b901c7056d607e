"""Shards as Parquet; ``docs/export.md`` has the schema. Needs the extra ``parquet``."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sized
from itertools import accumulate, islice, repeat
from typing import Any, BinaryIO, Self

import pyarrow as pa
from pyarrow import parquet

from recension.model.errors import VerificationError
from recension_client.export.rows import PlainRow, Row, SlotRow

WRITER = f"pyarrow {pa.__version__}"
LEVEL = 1
GROUP_TEXT_BYTES = 4 * 1024 * 1024
"""A row group ends with the row that brings its text, UTF-8, to this much ..."""
GROUP_ROWS = 8_192
"""... or its rows to this many."""
_READ_ROWS = 64

_SLOT = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("presence", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("digest", pa.string()),
        pa.field("text", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("page_id", pa.int64(), nullable=False),
        pa.field("rev_id", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("namespace", pa.int32(), nullable=False),
        pa.field("digest", pa.string()),
        pa.field("license", pa.string(), nullable=False),
        pa.field("slots", pa.list_(pa.field("element", _SLOT, nullable=False))),
        pa.field("title_salt", pa.binary(), nullable=False),
        pa.field("content_salt", pa.binary()),
        pa.field("content_commitment", pa.binary()),
    ]
)
PLAIN_SCHEMA = pa.schema(
    [
        *(SCHEMA.field(name) for name in ("id", "url", "title", "text", "page_id", "rev_id", "timestamp")),
        *(SCHEMA.field(name) for name in ("namespace", "digest", "license")),
        pa.field("without", pa.string()),
    ]
)
"""Of the plain text of a shard."""
_REPEATED = [
    "license",
    "without",
    "namespace",
    *(f"slots.list.element.{name}" for name in ("role", "model", "format")),
]


class Writer:
    """Writes one shard; the bytes depend on the rows and on ``WRITER`` alone."""

    def __init__(self, file: BinaryIO, schema: pa.Schema = SCHEMA) -> None:
        # By column: thousands of rows kept as objects would keep the garbage collector busy.
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        self._schema = schema
        self._text = 0
        self._writer = parquet.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=LEVEL,
            use_dictionary=[path for path in _REPEATED if path.split(".")[0] in schema.names],
            write_statistics=["page_id", "rev_id", "timestamp", "namespace"],
            data_page_version="1.0",
            version="2.6",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what was not closed: the library would write a footer when it is collected."""
        self._writer.is_open = False

    def add(self, row: Row | PlainRow) -> None:
        """Take the next row."""
        for values, value in zip(self._columns.values(), row, strict=True):
            values.append(value)
        slots = row.slots or () if isinstance(row, Row) else ()
        self._text += len(row.text or b"") + sum(len(slot.text or b"") for slot in slots)
        if self._text >= GROUP_TEXT_BYTES or len(self._columns["id"]) >= GROUP_ROWS:
            self._write()

    def close(self) -> None:
        """Finish the file; it stays open."""
        self._write()
        self._writer.close()

    def _write(self) -> None:
        count = len(self._columns["id"])
        if count:
            arrays = [_array(self._columns[field.name], field.type) for field in self._schema]
            for values in self._columns.values():
                values.clear()
            self._text = 0
            self._writer.write_batch(
                pa.RecordBatch.from_arrays(arrays, schema=self._schema), row_group_size=count
            )
            del arrays
            pa.default_memory_pool().release_unused()  # else each worker's keeps some 20 MiB to the end


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return a column, made of its buffers.

    ``pyarrow.array`` looks at each value anew, and at its first call imports pandas where that is installed,
    which takes longer than a hundred megabytes of text do.
    """
    if pa.types.is_list(kind):
        slots = [slot for row in values for slot in row or ()]
        columns = zip(*slots, strict=True) if slots else [()] * len(_SLOT)
        children = [_array(list(column), field.type) for column, field in zip(columns, _SLOT, strict=True)]
        buffers = [_validity(values), _ends(row or () for row in values)]
        struct = pa.Array.from_buffers(_SLOT, len(slots), [None], children=children)
        return pa.Array.from_buffers(kind, len(values), buffers, children=[struct])
    if kind in _INTEGERS:
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(array(_INTEGERS[kind], values))])
    parts = [value.encode() if isinstance(value, str) else value or b"" for value in values]
    buffers = [_validity(values), _ends(parts), pa.py_buffer(b"".join(parts))]
    column = pa.Array.from_buffers(kind, len(values), buffers)
    column.validate(full=True)  # texts are UTF-8
    return column


_INTEGERS = {pa.int64(): "q", pa.timestamp("us", tz="UTC"): "q", pa.int32(): "i"}
"""The codes that ``array`` has for them."""


def _ends(parts: Iterable[Sized]) -> pa.Buffer:
    """Return where each part ends in what they are together, a zero before."""
    return pa.py_buffer(array("i", accumulate(map(len, parts), initial=0)))


def _validity(values: list[Any]) -> pa.Buffer | None:
    """Return the bits of the values that are there, the first the lowest."""
    if None not in values:
        return None
    bits = "".join("0" if value is None else "1" for value in reversed(values))
    return pa.py_buffer(int(bits, 2).to_bytes((len(values) + 7) // 8, "little"))


def read(file: BinaryIO) -> Iterator[Row]:
    """Yield the rows of a shard. Raises ``VerificationError`` where it is damaged or has other columns."""
    try:
        held = parquet.ParquetFile(file, pre_buffer=False)
        if not held.schema_arrow.equals(SCHEMA):
            raise VerificationError("the file has other columns than the format")
        for batch in held.iter_batches(batch_size=_READ_ROWS, use_threads=False):
            batch.validate(full=True)  # texts are UTF-8
            yield from _rows_of(batch)
    except (pa.ArrowException, ValueError, OSError, OverflowError) as error:
        raise VerificationError(f"not Parquet: {str(error)[:200]}") from None


def _rows_of(batch: pa.RecordBatch) -> Iterator[Row]:
    columns = dict(zip(SCHEMA.names, batch.columns, strict=True))
    columns["text"] = columns["text"].view(pa.binary())
    columns["timestamp"] = columns["timestamp"].view(pa.int64())
    values = {name: column.to_pylist() for name, column in columns.items() if name != "slots"}
    values["slots"] = _slots_of(columns["slots"])
    return map(Row, *(values[name] for name in Row._fields))


def _slots_of(column: pa.ListArray) -> Iterator[tuple[SlotRow, ...] | None]:
    """Yield the slots of each row, field by field and not as objects that name each field of each slot."""
    fields = dict(zip(_SLOT.names, column.flatten().flatten(), strict=True))
    fields["text"] = fields["text"].view(pa.binary())
    slots = map(SlotRow, *(fields[name].to_pylist() for name in SlotRow._fields))
    ends = column.offsets.to_pylist()
    there = [value.is_valid for value in column] if column.null_count else repeat(1)
    for start, end, given in zip(ends, ends[1:], there, strict=False):
        yield tuple(islice(slots, end - start)) if given else None
