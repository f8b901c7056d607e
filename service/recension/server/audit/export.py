"""Records of the audit log as a file: CSV, JSON lines or Parquet. It has its name when it is whole."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from recension.model.audit import Record
from recension.model.errors import AuditUnusableError, ExtraMissingError

COLUMNS: dict[str, type] = {
    "index": int, "kind": str, "ended_at": str, "recorded_at": str, "caller": str, "licensee": str,
    "role": str, "key": str, "agreement": str, "method": str, "project": str, "snapshot": str, "pin": str,
    "articles": int, "text_bytes": int, "messages": int, "bytes": int, "outcome": str, "reason": str,
    "true_reason": str, "duration_us": int, "request": str, "statement": str, "position": int,
    "payload": str, "first": bool, "ended": bool, "count": int, "since": str, "until": str,
}  # fmt: skip
"""Of tables; a record has only some. JSON lines have all of each record, to the byte."""
_ROWS = 4096
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would compute."""


def export(records: Iterable[Record], form: str, path: Path) -> int:
    """Write records to a file, and return how many; ``form`` is one of ``FORMS``.

    Raises ``ExtraMissingError`` for Parquet without its library, ``AuditUnusableError`` if the file cannot be
    written.
    """
    part = path.with_name(path.name + ".part")
    try:
        count = FORMS[form](iter(records), part)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise AuditUnusableError(
            f"{path} cannot be written: {os.strerror(error.errno or 0)}", hint="name another file"
        ) from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return count


def _write_csv(records: Iterator[Record], path: Path) -> int:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        count = 0
        for record in records:
            count += 1
            writer.writerow([_cell(record.fields.get(name, "")) for name in COLUMNS])
        _settle(file)
    return count


def _cell(value: Any) -> Any:
    """Return a cell that a spreadsheet takes for what it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _write_jsonl(records: Iterator[Record], path: Path) -> int:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        count = 0
        for record in records:
            count += 1
            file.write(record.encoded.decode() + "\n")
        _settle(file)
    return count


def _write_parquet(records: Iterator[Record], path: Path) -> int:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, needed here alone
        from pyarrow import parquet  # noqa: PLC0415 - see above
    except ImportError:
        raise ExtraMissingError(
            "Parquet cannot be written here", hint="pip install 'recension[parquet]'", extra="parquet"
        ) from None
    types = {str: pa.string(), int: pa.int64(), bool: pa.bool_()}
    schema = pa.schema([pa.field(name, types[kind]) for name, kind in COLUMNS.items()])
    count = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while some := list(islice(records, _ROWS)):
            columns = {name: [one.fields.get(name) for one in some] for name in COLUMNS}
            writer.write_table(pa.table(columns, schema))
            count += len(some)
    return count


def _settle(file: TextIO) -> None:
    file.flush()
    os.fsync(file.fileno())


FORMS: dict[str, Callable[[Iterator[Record], Path], int]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}
"""What can be written, and by what."""
