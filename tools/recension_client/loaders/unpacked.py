"""Samples of a folder that `recension fetch` made, laid out once so that any of them is read at once.

Shards are compressed for whole readings: one row of them costs a row group, or all rows before it. So the
first to use a folder checks it against the snapshot's root and lays its samples out in one plain file of the
cache, which all processes of the machine then share through the page cache.

The file: of each sample its columns but the text as JSON, and the text; then a record for each sample in the
order of the snapshot, ``u64 where || u32 bytes of the columns || i64 bytes of the text, -1 for none``,
big-endian; then ``_TAIL``: where the records begin, and how many there are.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from hashlib import sha256
from heapq import merge
from pathlib import Path
from typing import Any, BinaryIO

from recension.model.digest import digest_of, parse_digest
from recension.model.errors import DiskFullError, InvalidArgumentError, VerificationError
from recension_client.export import forms
from recension_client.export.fetching import DATA, ROW_BYTES, check_part, read_held
from recension_client.export.folder import Folder, keep, naming
from recension_client.export.layout import FileRecord, Index, ShardFile, Terms, shard_files
from recension_client.export.roots import ShardTree
from recension_client.export.rows import check_texts, leaf_of, readable
from recension_client.loaders.order import Order
from recension_client.loaders.samples import TEXT, Sample, sample_of

FORMAT = b"recension/samples/v1"
_RECORD = struct.Struct(">QIq")
_TAIL = struct.Struct(">20sQQ")
_LOCK = ".lock"


class Unpacked:
    """The samples of a folder that was fetched; whatever was wrong with it was found when it was laid out."""

    def __init__(self, folder: Path | str, *, cache: Path | str | None = None) -> None:
        """Lay the folder out, unless that was done.

        ``cache``: where to, else ``$XDG_CACHE_HOME/recension/samples`` (``~/.cache`` without that variable);
        it takes the plain size of the texts. Raises ``ExportError`` for a folder that is none,
        ``VerificationError`` for one that is not its snapshot, ``DiskFullError``.
        """
        with Folder.at(Path(folder)) as root:
            index = read_held(root)
            self._path = Path(cache or _default_cache()) / f"{sha256(index.encoded).hexdigest()[:32]}.samples"
            with Folder.at(self._path.parent, create=True) as made:
                if not made.has(self._path.name):
                    with made.held(_LOCK, wait=True):
                        if not made.has(self._path.name):  # nor did another process make it meanwhile
                            _lay_out(root, index, made, self._path.name)
        self._order = Order.of(index.job.manifest)
        self._map: mmap.mmap | None = None
        self._records = 0

    @property
    def order(self) -> Order:
        """The order of its samples."""
        return self._order

    @property
    def path(self) -> Path:
        """The file in the cache. It may be removed when nobody reads it."""
        return self._path

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}

    def read(self, indexes: Iterable[int]) -> Iterator[Sample]:
        """Yield the samples at indexes of the snapshot. Raises ``VerificationError`` for a damaged one."""
        held = self._map or self._open()
        for index in indexes:
            if not 0 <= index < self._order.count:
                raise InvalidArgumentError(f"no sample {index}", field="indexes", value=index)
            where, columns, text = _RECORD.unpack_from(held, self._records + index * _RECORD.size)
            try:
                sample: Sample = json.loads(held[where : where + columns])
                raw = None if text < 0 else held[where + columns : where + columns + text]
                if raw is not None and digest_of(raw) != parse_digest(sample["digest"], "digest"):
                    raise self._damaged()
            except (ValueError, TypeError, LookupError):
                raise self._damaged() from None
            sample[TEXT] = None if raw is None else raw.decode()
            yield sample

    def _open(self) -> mmap.mmap:
        try:
            with naming(str(self._path)), self._path.open("rb") as file:
                held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            name, self._records, count = _TAIL.unpack_from(held, len(held) - _TAIL.size)
        except (ValueError, struct.error):
            raise self._damaged() from None
        size = self._records + count * _RECORD.size + _TAIL.size
        if (name, count, size) != (FORMAT, self._order.count, len(held)):
            raise self._damaged()
        self._map = held
        return held

    def _damaged(self) -> VerificationError:
        return VerificationError(
            f"{self._path} is not what was written there", hint="remove it; it is made again"
        )


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recension/samples"


def _lay_out(root: Folder, index: Index, made: Folder, name: str) -> None:
    """Write the file of a folder's samples. It has its name when it is whole and was checked."""
    parts = index.job.manifest.parts
    needed = sum(part.text_bytes + part.count * (_RECORD.size + ROW_BYTES) for part in parts)
    if made.free_bytes() < needed:
        raise DiskFullError(
            f"{made.shown} has room for {made.free_bytes():,} bytes, the samples take {needed:,}",
            hint="make room, or name another cache",
            path=made.shown,
        )
    with ExitStack() as stack:
        part_name = f"{name}.part"
        stack.callback(made.remove, part_name)
        stack.enter_context(naming(made.path(name)))
        file = stack.enter_context(made.create(part_name))
        data = stack.enter_context(root.folder(DATA))
        shards = dict(zip(shard_files(index.job.manifest, index.job.form), index.files, strict=True))
        records = b"".join(
            _lay_out_project(
                data, index, [(shard, record) for shard, record in shards.items() if shard.part == part], file
            )
            for part in parts
        )
        begin = file.tell()
        file.write(records + _TAIL.pack(FORMAT, begin, len(records) // _RECORD.size))
        keep(file)
        made.rename(part_name, name)


def _lay_out_project(
    data: Folder, index: Index, shards: list[tuple[ShardFile, FileRecord]], file: BinaryIO
) -> bytes:
    """Write a project's samples, and return their records in the order of its pages.

    Takes some 50 bytes of memory a page.
    """
    written = [_Written(data, shard, index.job.terms, file) for shard, _ in shards]
    check_part(shards[0][0].part, [each.tree for each in written], [record for _, record in shards])
    return b"".join(record for _, record in merge(*written))


class _Written:
    """A shard whose samples were written; by page, the record of each."""

    def __init__(self, data: Folder, shard: ShardFile, terms: Mapping[str, Terms], file: BinaryIO) -> None:
        self.tree = ShardTree()
        self._pages = array("q")
        self._records = bytearray()
        project = shard.part.project
        with data.folder(shard.folder) as folder, folder.open(shard.name) as packed:
            for found in forms.entries(shard.form, packed, project, terms[project]):
                entry = check_texts(readable(found))
                self.tree.add(entry.page_id, entry.rev_id, leaf_of(entry))
                self._pages.append(entry.page_id)
                self._records += _write(sample_of(entry, terms), file)
        self.tree.close()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for number, page in enumerate(self._pages):
            yield page, bytes(self._records[number * _RECORD.size : (number + 1) * _RECORD.size])


def _write(sample: Sample, file: BinaryIO) -> bytes:
    """Write a sample; its record."""
    text = sample.pop(TEXT)
    columns = json.dumps(sample, ensure_ascii=False, separators=(",", ":")).encode()
    raw = b"" if text is None else text.encode()
    where = file.tell()
    file.write(columns + raw)
    return _RECORD.pack(where, len(columns), -1 if text is None else len(raw))
