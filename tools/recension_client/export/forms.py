"""The forms that shards take, each in its own module; Parquet's is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Protocol, Self

from recension.model.errors import ExtraMissingError
from recension.model.reading import Entry
from recension_client.export import jsonl
from recension_client.export.layout import Form, Terms
from recension_client.export.rows import PlainRow, Row, Unreadable, read_entry


class ShardWriter(Protocol):
    """Writes the rows of one shard, in page order."""

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(self, *_: object) -> None:
        """Give up what was not closed; nothing more is written."""
        ...

    def add(self, row: Row | PlainRow) -> None:
        """Take the next row."""
        ...

    def close(self) -> None:
        """Finish; the file stays open."""
        ...


def writer_name(form: Form) -> str:
    """Return the library that writes a form, with its version. Raises ``ExtraMissingError``."""
    return jsonl.WRITER if form is Form.JSONL else _parquet().WRITER


def write(form: Form, file: BinaryIO) -> ShardWriter:
    """Start a shard."""
    return jsonl.Writer(file) if form is Form.JSONL else _parquet().Writer(file)


def write_plain(form: Form, file: BinaryIO) -> ShardWriter:
    """Start the plain text of a shard."""
    return jsonl.Writer(file) if form is Form.JSONL else _parquet().Writer(file, _parquet().PLAIN_SCHEMA)


def read(form: Form, file: BinaryIO) -> Iterator[Row | Unreadable]:
    """Yield the rows of a shard. Raises ``VerificationError`` where it is damaged."""
    return jsonl.read(file) if form is Form.JSONL else _parquet().read(file)


def entries(form: Form, file: BinaryIO, project: str, terms: Terms) -> Iterator[Entry | Unreadable]:
    """Yield the entries that a shard's rows were made of, and why where a row was made of none.

    Their texts are not compared with their digests. Raises ``VerificationError`` where the file is damaged.
    """
    if form is Form.JSONL:
        return jsonl.entries(file, project, terms)
    return (read_entry(row, project, terms) for row in _parquet().read(file))


class _ParquetModule(Protocol):
    WRITER: str
    PLAIN_SCHEMA: object

    def Writer(self, file: BinaryIO, schema: object = ...) -> ShardWriter: ...  # noqa: N802 - the class of the module

    def read(self, file: BinaryIO) -> Iterator[Row]: ...


def _parquet() -> _ParquetModule:
    try:
        from recension_client.export import parquet  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ExtraMissingError(
            "Parquet needs pyarrow, which is not installed", hint="pip install 'recension[parquet]'"
        ) from None
    return parquet
