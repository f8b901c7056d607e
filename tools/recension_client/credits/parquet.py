"""Credits as Parquet; ``docs/attribution.md`` has the schema. Needs the extra ``parquet``."""

from __future__ import annotations

from itertools import accumulate
from typing import BinaryIO

import pyarrow as pa
from pyarrow import parquet

from recension.model.credit import ContributorKind
from recension_client.credits.rows import KINDS, CreditRow

WRITER = f"pyarrow {pa.__version__}"
LEVEL = 3
GROUP_ROWS = 8_192
"""A row group ends with the row that brings its rows to this many ..."""
GROUP_SHARES = 262_144
"""... or its contributors to this many: some 20 MB."""
_KINDS = [KINDS[kind] for kind in ContributorKind]

_SHARE = pa.struct(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("origin", pa.string()),
        pa.field("id", pa.int64()),
        pa.field("edits", pa.int64(), nullable=False),
    ]
)
_TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("page_id", pa.int64(), nullable=False),
        pa.field("rev_id", pa.int64(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("namespace", pa.int32(), nullable=False),
        pa.field("title_inferred", pa.bool_(), nullable=False),
        pa.field("timestamp", _TIME, nullable=False),
        pa.field("first_edit_at", _TIME, nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("text_hidden", pa.bool_(), nullable=False),
        pa.field("license", pa.string(), nullable=False),
        pa.field("license_url", pa.string()),
        pa.field("edits", pa.int64(), nullable=False),
        pa.field("hidden_edits", pa.int64(), nullable=False),
        pa.field("unstated_edits", pa.int64(), nullable=False),
        pa.field("contributors", pa.list_(pa.field("element", _SHARE, nullable=False)), nullable=False),
    ]
)


class Writer:
    """Writes one file; the bytes depend on the rows and on ``WRITER`` alone."""

    def __init__(self, file: BinaryIO) -> None:
        self._rows: list[CreditRow] = []
        self._shares = 0
        self._writer = parquet.ParquetWriter(
            file,
            SCHEMA,
            compression="zstd",
            compression_level=LEVEL,
            data_page_version="1.0",
            version="2.6",
        )

    def add(self, row: CreditRow) -> None:
        """Take the next row."""
        self._rows.append(row)
        self._shares += len(row.contributors)
        if len(self._rows) >= GROUP_ROWS or self._shares >= GROUP_SHARES:
            self._write()

    def close(self) -> None:
        """Finish the file; it stays open."""
        self._write()
        self._writer.close()

    def _write(self) -> None:
        if not self._rows:
            return
        rows, self._rows, self._shares = self._rows, [], 0
        columns = [
            pa.array([row[at] for row in rows], field.type)
            for at, field in enumerate(SCHEMA)
            if at < len(SCHEMA) - 1
        ]
        self._writer.write_batch(
            pa.RecordBatch.from_arrays([*columns, _contributors(rows)], schema=SCHEMA),
            row_group_size=len(rows),
        )


def _contributors(rows: list[CreditRow]) -> pa.ListArray:
    """Return the contributors of all rows, field by field."""
    ends = list(accumulate((len(row.contributors) for row in rows), initial=0))
    shares = [share for row in rows for share in row.contributors]
    people = [share.person for share in shares]
    kinds = pa.DictionaryArray.from_arrays(
        pa.array([person.kind - 1 for person in people], pa.int8()), _KINDS
    )
    fields = [
        kinds.cast(pa.string()),
        pa.array([person.name for person in people], pa.string()),
        pa.array([person.origin or None for person in people], pa.string()),
        pa.array([person.id for person in people], pa.int64()),
        pa.array([share.edits for share in shares], pa.int64()),
    ]
    structs = pa.StructArray.from_arrays(fields, fields=list(_SHARE))
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), structs, type=SCHEMA.field("contributors").type
    )
