"""Open a dump as one stream of decoded bytes, whatever it is packed in, in bounded memory.

The container is told by its first bytes, never by its name. One layer only: a packed file inside a packed
file is refused, as are archives of several files (except 7z, in which MediaWiki dumps have always come).

Decoders hand out at most ``size`` bytes a call and are fed ``_INPUT_BYTES`` at a time, so memory is the
decoder's own dictionary (at most ``MAX_WINDOW_BYTES``) and a few buffers, however large the file is and
whatever its compression ratio.
"""

from __future__ import annotations

import bz2
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

from recension.model.errors import (
    SourceCorruptError,
    SourceError,
    SourceFormatError,
    SourceLimitError,
    SourceTruncatedError,
)
from recension.sources.items import Progress
from recension.sources.tar_members import is_tar

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_WINDOW_BYTES = 128 * 1024 * 1024
"""Largest dictionary or window of any decoder: zstd --ultra --long=27, 7-Zip's -mx=9 (64 MiB) twice over."""

_WINDOW_LOG = MAX_WINDOW_BYTES.bit_length() - 1
# liblzma counts its own tables too; without them a 128 MiB dictionary would be just over the limit.
_LZMA_MEMORY_BYTES = MAX_WINDOW_BYTES + 16 * 1024 * 1024
_INPUT_BYTES = 256 * 1024
_OUTPUT_BYTES = 1024 * 1024
_HEAD_BYTES = 512

_ZSTD_SKIPPABLE = tuple(bytes((0x50 + low,)) + b"\x2a\x4d\x18" for low in range(16))
_MAGIC: dict[str, tuple[bytes, ...]] = {
    "bz2": (b"BZh",),
    "gz": (b"\x1f\x8b",),
    "zst": (b"\x28\xb5\x2f\xfd", *_ZSTD_SKIPPABLE),
    "xz": (b"\xfd7zXZ\x00",),
    "7z": (b"7z\xbc\xaf\x27\x1c",),
}
_FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"Rar!": "a rar archive",
    b"\x04\x22\x4d\x18": "an lz4 file",
    b"\x1f\x9d": "a compress (.Z) file",
    b"LZIP": "an lzip file",
    b"PAR1": "a Parquet file",
    b"SQLite format 3\x00": "an SQLite database",
    b"%PDF": "a PDF document",
}
_LZMA_HEADER_BYTES = 13
_WIDE_STARTS = (b"\xff\xfe", b"\xfe\xff", b"<\x00", b"\x00<")
_BOM = b"\xef\xbb\xbf"
_PACKED_SUFFIXES = frozenset({".bz2", ".gz", ".zst", ".xz", ".lzma", ".7z"})

# How zstd and liblzma say it; their exceptions have no codes.
_OVER_MEMORY = ("too much memory", "Memory usage limit")

_HINT_FETCH = "fetch the file again and compare its checksum with the one that its publisher states"
_HINT_REPACK = "unpack it and pass the file inside, or pack it again as .zst, .xz, .bz2, .gz or .7z"
_HINT_WINDOW = f"pack it again with a dictionary or window of at most {MAX_WINDOW_BYTES >> 20} MiB"


class Unit(Protocol):
    """A streaming decoder of one stream, member or frame: the interface of bz2, lzma and zstd."""

    @property
    def eof(self) -> bool:
        """Whether the end of the stream has been decoded."""

    @property
    def needs_input(self) -> bool:
        """Whether ``decompress`` can do nothing without more input."""

    @property
    def unused_data(self) -> bytes:
        """Input behind the end of the stream."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Decode, giving at most ``max_length`` bytes; keep what is left of ``data``."""


class DeflateUnit:
    """zlib under the interface of the others; ``wbits`` as for ``zlib.decompressobj``."""

    def __init__(self, wbits: int) -> None:
        """31 is a gzip member, -15 raw deflate."""
        self._decoder = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        """As in ``Unit``."""
        return self._decoder.eof

    @property
    def needs_input(self) -> bool:
        """As in ``Unit``."""
        return not self._decoder.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        """As in ``Unit``."""
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """As in ``Unit``."""
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, max(max_length, 0))


class CopyUnit:
    """No compression; what a plain file and a 7z member "stored" have in common."""

    eof = False
    needs_input = True
    unused_data = b""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:  # noqa: ARG002 - one of the interface
        """Return ``data``, which is never longer than one read of the file."""
        return data


def zstd_unit() -> Unit:
    """Decode one zstd frame with a window of at most ``MAX_WINDOW_BYTES``; larger ones raise ZstdError."""
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})


_UNITS: dict[str, Callable[[], Unit]] = {
    "bz2": bz2.BZ2Decompressor,
    "gz": lambda: DeflateUnit(31),
    "zst": zstd_unit,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY_BYTES),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY_BYTES),
}


class Container:
    """An open input. ``read`` decodes; ``progress`` says how far into the stored file that has led."""

    def __init__(self, path: Path, kind: str, file: BinaryIO, decode: Callable[[int], bytes]) -> None:
        """Made by ``open_container``; ``decode`` returns up to that many bytes, nothing at the end."""
        self.path = path
        self.kind = kind
        self._file = file
        self._decode = decode
        self._total = os.fstat(file.fileno()).st_size
        self._ahead = b""

    @property
    def progress(self) -> Progress:
        """Bytes consumed of the stored file, and its size. It runs ahead of ``read`` by one buffer."""
        return Progress(min(self._file.tell(), self._total), self._total)

    def read(self, size: int = _OUTPUT_BYTES) -> bytes:
        """Return 1 to ``size`` decoded bytes, or nothing at the end.

        Raises ``SourceTruncatedError``, ``SourceCorruptError`` or ``SourceLimitError``; what was decoded
        before the fault has been returned by then.
        """
        if self._ahead:
            out, self._ahead = self._ahead[:size], self._ahead[size:]
            return out
        try:
            return self._decode(size)
        except SourceError:
            raise
        except Exception as error:  # noqa: BLE001 - five codecs, five exception families
            self._fail(error)

    def peek(self) -> bytes:
        """Return the first decoded bytes, which ``read`` will return again."""
        if not self._ahead:
            self._ahead = self.read(_OUTPUT_BYTES)
        return self._ahead

    def _fail(self, error: Exception) -> NoReturn:
        offset = self._file.tell()
        where = f"{self.path} ({self.kind}): at byte {offset:,} of {self._total:,}"
        about = {"path": self.path, "container": self.kind, "offset": offset}
        text = str(error)
        if isinstance(error, MemoryError) or any(words in text for words in _OVER_MEMORY):
            raise SourceLimitError(
                f"{where}: decoding needs more memory than is allowed", hint=_HINT_WINDOW, **about
            ) from error
        if isinstance(error, EOFError):
            raise SourceTruncatedError(f"{where}: {error}", hint=_HINT_FETCH, **about) from error
        if isinstance(error, OSError) and error.errno is not None:
            raise SourceError(f"{where}: {error}", hint="check the disk", **about) from error
        raise SourceCorruptError(
            f"{where}: {text or type(error).__name__}", hint=_HINT_FETCH, **about
        ) from error


@contextmanager
def open_container(path: Path, *, tar: bool = False) -> Iterator[Container]:
    """Open ``path`` for reading as one decoded stream, which may be a tar archive if ``tar`` says so.

    Raises ``SourceFormatError`` for a container that is not one of plain, bz2, gz, zst, xz, lzma, 7z,
    ``SourceTruncatedError`` for an empty or cut file, ``SourceError`` when it cannot be opened.
    """
    with _open_file(path) as file:
        head = _head(file)
        if not head:
            raise SourceTruncatedError(f"{path}: the file is empty", hint=_HINT_FETCH, path=path, offset=0)
        kind = _kind(path, head, tar=tar)
        container = Container(path, kind, file, _decoder(path, kind, file))
        if kind != "plain":
            _refuse_second_layer(container, tar=tar)
        yield container


def _open_file(path: Path) -> BinaryIO:
    try:
        file = path.open("rb", buffering=0)
        mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be opened: {error.strerror}",
            hint="check the path and its permissions",
            path=path,
        ) from error
    if not stat.S_ISREG(mode):
        file.close()
        raise SourceFormatError(f"{path}: not a regular file", hint="pass a file", path=path)
    return file


def _head(file: BinaryIO) -> bytes:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    return head


def _kind(path: Path, head: bytes, *, tar: bool) -> str:
    kind = packed_kind(head)
    if kind is not None:
        return kind
    foreign = next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), None)
    if is_tar(head):
        foreign = None if tar else "a tar archive"
    elif foreign is None and b"\x00" in head and not head.startswith(_WIDE_STARTS):
        foreign = "binary, and of no container that is known"
    elif foreign is None and path.suffix in _PACKED_SUFFIXES and not _looks_like_text(head):
        foreign = f"named {path.suffix} but is not such a file"
    if foreign is not None:
        raise SourceFormatError(f"{path}: the file is {foreign}", hint=_HINT_REPACK, path=path)
    return "plain"


def packed_kind(head: bytes) -> str | None:
    """Name the container that begins with ``head``; ``None`` when it is none of the known ones."""
    for kind, magics in _MAGIC.items():
        if head.startswith(magics):
            return kind
    return "lzma" if _is_lzma_alone(head) else None


def _is_lzma_alone(head: bytes) -> bool:
    # The format has no magic. As file(1) and 7-Zip do: the usual properties byte, a dictionary size of
    # which the low half is zero, and an unknown (-1) or believable length.
    if len(head) < _LZMA_HEADER_BYTES or not head.startswith(b"\x5d\x00\x00"):
        return False
    length = int.from_bytes(head[5:_LZMA_HEADER_BYTES], "little")
    return length == 2**64 - 1 or length < 2**48


def _looks_like_text(head: bytes) -> bool:
    return head.removeprefix(_BOM).lstrip()[:1] in (b"<", b"{", b"[") or head.startswith(_WIDE_STARTS)


def _decoder(path: Path, kind: str, file: BinaryIO) -> Callable[[int], bytes]:
    if kind == "7z":
        # Imported late: py7zr brings seven other packages that the usual dump does not need.
        from recension.sources.sevenzip import open_member  # noqa: PLC0415

        return open_member(path, file)
    if kind == "plain":
        return file.read
    return _UnitReader(kind, file).read


def _refuse_second_layer(container: Container, *, tar: bool) -> None:
    head = container.peek()
    inner = packed_kind(head)
    if is_tar(head):
        inner = None if tar else "tar"
    if inner is not None:
        raise SourceFormatError(
            f"{container.path}: a {inner} archive inside a {container.kind} file; one layer is read, not two",
            hint=_HINT_REPACK,
            path=container.path,
        )


class _UnitReader:
    """Decode a file of one or more units: bz2 streams, gzip members, zstd frames, xz streams."""

    def __init__(self, kind: str, file: BinaryIO) -> None:
        self._kind = kind
        self._file = file
        self._new = _UNITS[kind]
        self._unit = self._new()
        self._pending = b""

    def read(self, size: int) -> bytes:
        while True:
            if self._unit.eof and not self._next_unit():
                return b""
            out = self._unit.decompress(self._input(), size)
            if out:
                return out

    def _input(self) -> bytes:
        if not self._unit.needs_input:
            return b""
        data, self._pending = self._pending, b""
        data = data or self._file.read(_INPUT_BYTES)
        if not data and not self._unit.eof:
            raise EOFError("the file ends in the middle of the compressed data")
        return data

    def _next_unit(self) -> bool:
        """Go to the unit behind this one; false at the end of the file.

        Zero bytes between units are padding (xz requires to accept it, tapes write it). Anything else is
        no unit: to ignore it, as some tools do, would be to lose data in silence.
        """
        rest = self._unit.unused_data.lstrip(b"\x00")
        while len(rest) < _HEAD_BYTES:
            more = self._file.read(_INPUT_BYTES)
            if not more:
                break
            rest = (rest + more).lstrip(b"\x00")
        if not rest:
            return False
        magics = _MAGIC.get(self._kind, ())
        if not rest.startswith(magics):
            if any(magic.startswith(rest) for magic in magics):
                raise EOFError("the file ends in the middle of the compressed data")
            raise ValueError("there are other bytes behind the end of the compressed data")
        self._unit, self._pending = self._new(), rest
        return True
