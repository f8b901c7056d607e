"""Read one member of a 7z archive as a stream.

py7zr reads the archive's header; the packed stream itself goes through the decoders of the standard
library. py7zr's own extraction pushes blocks of up to 128 MB into a callback and copies each of them
several times, which neither fits into the memory that a parser may use nor gives back-pressure without
a thread; pulling from ``lzma`` does both.
"""

from __future__ import annotations

import bz2
import lzma
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import py7zr
import py7zr.exceptions

from recension.model.errors import (
    SourceCorruptError,
    SourceError,
    SourceFormatError,
    SourceLimitError,
    SourceTruncatedError,
)
from recension.sources.containers import MAX_WINDOW_BYTES, CopyUnit, DeflateUnit, Unit, zstd_unit

_INPUT_BYTES = 256 * 1024
_MAX_HEADER_BYTES = 16 * 1024 * 1024
_SIGNATURE_BYTES = 32
_WANTED = (".xml", ".ndjson")
_MAX_NAMES = 10

# 7z's method ids (7-Zip, DOC/Methods.txt).
_COPY = b"\x00"
_LZMA = b"\x03\x01\x01"
_LZMA2 = b"\x21"
_FILTERS = {
    b"\x03": lzma.FILTER_DELTA,
    b"\x03\x03\x01\x03": lzma.FILTER_X86,
    b"\x03\x03\x02\x05": lzma.FILTER_POWERPC,
    b"\x03\x03\x04\x01": lzma.FILTER_IA64,
    b"\x03\x03\x05\x01": lzma.FILTER_ARM,
    b"\x03\x03\x07\x01": lzma.FILTER_ARMTHUMB,
    b"\x03\x03\x08\x05": lzma.FILTER_SPARC,
}
_SINGLE: dict[bytes, Callable[[], Unit]] = {
    _COPY: CopyUnit,
    b"\x04\x02\x02": bz2.BZ2Decompressor,
    b"\x04\x01\x08": lambda: DeflateUnit(-15),
    b"\x04\xf7\x11\x01": zstd_unit,
}

_HINT_FETCH = "fetch the archive again and compare its checksum with the one that its publisher states"
_HINT_METHOD = "pack it again with 7z -m0=lzma2 and a dictionary of at most 128 MiB"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a member's bytes are: the packed stream, and the part of its decoded bytes."""

    start: int
    packed: int
    coders: list[dict[str, Any]]
    skip: int
    size: int
    crc: int | None


def open_member(path: Path, file: BinaryIO) -> Callable[[int], bytes]:
    """Find the one dump in the archive and return the function that reads it.

    With several members it is the only one named ``.xml`` or ``.ndjson``. Raises ``SourceFormatError``
    (none, several, encrypted, unknown method), ``SourceTruncatedError``, ``SourceCorruptError``,
    ``SourceLimitError`` (dictionary too large). The returned function raises what its codec raises,
    and ``EOFError`` and ``ValueError`` where the data ends early or does not match its checksum.
    """
    _check_signature(path, file)
    try:
        archive = py7zr.SevenZipFile(file)
        place = _place(archive, _choose(path, archive))
        return _MemberReader(file, place, _unit(path, place.coders)).read
    except py7zr.exceptions.PasswordRequired:
        raise SourceFormatError(
            f"{path}: the archive is encrypted", hint="decrypt it first", path=path
        ) from None
    except py7zr.exceptions.UnsupportedCompressionMethodError as error:
        raise SourceFormatError(
            f"{path}: unknown compression method: {error}", hint=_HINT_METHOD, path=path
        ) from None
    except SourceError:
        raise
    except MemoryError:
        raise SourceLimitError(
            f"{path}: the archive's header needs more memory than is allowed", hint=_HINT_METHOD, path=path
        ) from None
    except Exception as error:  # a damaged header raises whatever its bytes lead to
        raise SourceCorruptError(
            f"{path}: the archive's header is damaged: {error}", hint=_HINT_FETCH, path=path, offset=0
        ) from error


def _check_signature(path: Path, file: BinaryIO) -> None:
    """Refuse a cut archive by the sizes in its first 32 bytes: the header stands at the far end."""
    total = os.fstat(file.fileno()).st_size
    head = file.read(_SIGNATURE_BYTES)
    file.seek(0)
    if len(head) == _SIGNATURE_BYTES:
        offset, size = struct.unpack("<QQ", head[12:28])
        if size > _MAX_HEADER_BYTES:
            raise SourceLimitError(
                f"{path}: the archive's header has {size:,} bytes, more than {_MAX_HEADER_BYTES:,}",
                hint="pack the dump alone",
                path=path,
            )
        if _SIGNATURE_BYTES + offset + size <= total:
            return
    raise SourceTruncatedError(
        f"{path}: the archive ends at byte {total:,}, before its header",
        hint=_HINT_FETCH,
        path=path,
        offset=total,
    )


def _choose(path: Path, archive: py7zr.SevenZipFile) -> Any:
    members = [member for member in archive.files if not member.is_directory and not member.emptystream]
    if not members:
        raise SourceFormatError(f"{path}: the archive holds no file", hint="pass another archive", path=path)
    wanted = [member for member in members if member.filename.lower().endswith(_WANTED)]
    if len(members) > 1:
        members = wanted
    if len(members) == 1:
        return members[0]
    every = [member.filename for member in archive.files if not member.is_directory]
    listed = ", ".join(every[:_MAX_NAMES]) + (", …" if len(every) > _MAX_NAMES else "")
    raise SourceFormatError(
        f"{path}: the archive holds {len(every)} files, {len(wanted)} of them .xml or .ndjson: {listed}",
        hint="unpack it and pass one file",
        path=path,
        members=listed,
    )


def _place(archive: py7zr.SevenZipFile, member: Any) -> _Place:
    """Find the member's packed stream; members of one folder are one stream, one behind the other."""
    streams = archive.header.main_streams
    folders = streams.unpackinfo.folders
    index = next(index for index, folder in enumerate(folders) if folder is member.folder)
    stream = sum(len(folder.packed_indices) for folder in folders[:index])
    before = 0
    for other in archive.files:
        if other.id == member.id:  # py7zr makes new objects with each iteration
            break
        if not other.emptystream and other.folder is member.folder:
            before += other.uncompressed
    info = streams.packinfo
    return _Place(
        start=archive.afterheader + info.packpos + info.packpositions[stream],
        packed=info.packsizes[stream],
        coders=member.folder.coders,
        skip=before,
        size=member.uncompressed,
        crc=member.crc32,
    )


def _unit(path: Path, coders: list[dict[str, Any]]) -> Unit:
    methods = [coder["method"] for coder in coders]
    simple = all(coder["numinstreams"] == coder["numoutstreams"] == 1 for coder in coders)
    if simple and len(methods) == 1 and methods[0] in _SINGLE:
        return _SINGLE[methods[0]]()
    # Behind LZMA1 there is no end mark, so a branch filter would keep the last four bytes for ever.
    if simple and (methods == [_LZMA] or (methods[0] == _LZMA2 and all(m in _FILTERS for m in methods[1:]))):
        chain = [_lzma_filter(path, coder) for coder in reversed(coders)]
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain)
    names = ", ".join(method.hex() for method in methods)
    raise SourceFormatError(
        f"{path}: the member is packed with the 7z methods {names}, which are not read",
        hint=_HINT_METHOD,
        path=path,
    )


def _lzma_filter(path: Path, coder: dict[str, Any]) -> dict[str, Any]:
    """Translate a coder's property bytes; see 7-Zip, DOC/lzma-specification.txt, "LZMA properties"."""
    method, properties = coder["method"], coder["properties"] or b""
    if method == _LZMA:
        if len(properties) != 5 or properties[0] >= 9 * 5 * 5:  # noqa: PLR2004 - lc < 9, lp < 5, pb < 5
            raise SourceCorruptError(f"{path}: bad LZMA properties", hint=_HINT_FETCH, path=path, offset=0)
        rest, lc = divmod(properties[0], 9)
        pb, lp = divmod(rest, 5)
        size = int.from_bytes(properties[1:], "little")
        return {"id": lzma.FILTER_LZMA1, "dict_size": _allowed(path, size), "lc": lc, "lp": lp, "pb": pb}
    if method == _LZMA2:
        bits = properties[0] if len(properties) == 1 else 0xFF
        if bits > 40:  # noqa: PLR2004 - 4 GiB, the largest
            raise SourceCorruptError(f"{path}: bad LZMA2 properties", hint=_HINT_FETCH, path=path, offset=0)
        return {"id": lzma.FILTER_LZMA2, "dict_size": _allowed(path, (2 | bits & 1) << (bits // 2 + 11))}
    if method == b"\x03":
        return {"id": lzma.FILTER_DELTA, "dist": (properties or b"\x00")[0] + 1}
    return {"id": _FILTERS[method]}


def _allowed(path: Path, dictionary: int) -> int:
    if dictionary > MAX_WINDOW_BYTES:
        raise SourceLimitError(
            f"{path}: the archive needs a dictionary of {dictionary >> 20:,} MiB, "
            f"more than {MAX_WINDOW_BYTES >> 20} MiB",
            hint=_HINT_METHOD,
            path=path,
        )
    return max(dictionary, 4096)  # the smallest that liblzma takes


class _MemberReader:
    """Decode a packed stream from its start, drop what stands before the member, check its CRC-32."""

    def __init__(self, file: BinaryIO, place: _Place, unit: Unit) -> None:
        self._file = file
        self._unit = unit
        self._packed_left = place.packed
        self._skip = place.skip
        self._left = place.size
        self._crc = place.crc
        self._sum = 0
        file.seek(place.start)

    def read(self, size: int) -> bytes:
        while self._skip:
            self._skip -= len(self._pull(min(size, self._skip)))
        if not self._left:
            return b""
        out = self._pull(min(size, self._left))
        self._left -= len(out)
        self._sum = zlib.crc32(out, self._sum)
        if not self._left and self._crc is not None and self._sum != self._crc:
            raise ValueError("the member does not match its checksum")
        return out

    def _pull(self, size: int) -> bytes:
        """Return 1 to ``size`` bytes of the stream."""
        while not self._unit.eof:
            data = b""
            if self._unit.needs_input:
                data = self._file.read(
                    min(size if isinstance(self._unit, CopyUnit) else _INPUT_BYTES, self._packed_left)
                )
                self._packed_left -= len(data)
            out = self._unit.decompress(data, size)
            if out:
                return out
            if not data and self._unit.needs_input:
                break
        raise EOFError("the packed stream ends before the member does")
