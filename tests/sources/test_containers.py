from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import py7zr
import pytest

from recension.model.errors import (
    SourceCorruptError,
    SourceError,
    SourceFormatError,
    SourceLimitError,
    SourceTruncatedError,
)
from recension.sources.containers import MAX_WINDOW_BYTES, open_container
from recension.sources.items import Progress

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Numbers do not repeat, so every container is much longer than its header.
CONTENT = (
    b"<mediawiki>" + b"".join(b"%d " % (number * 7919 % 65537) for number in range(60_000)) + b"</mediawiki>"
)
LZMA2 = [{"id": py7zr.FILTER_LZMA2, "preset": 1}]


def seven(members: dict[str, bytes], filters: list[dict[str, int]] | None = None) -> bytes:
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w", filters=filters) as archive:
        for name, content in members.items():
            archive.writestr(content, name)
    return buffer.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "bz2": bz2.compress,
    "gz": gzip.compress,
    "zst": zstd.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "7z": lambda data: seven({"contents": data}, LZMA2),
}
PACKED = [name for name in PACKERS if name != "plain"]
MULTI = ["bz2", "gz", "zst", "xz"]


def write(folder: Path, data: bytes, name: str = "dump.bin") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read_all(path: Path) -> bytes:
    with open_container(path) as container:
        return b"".join(iter(lambda: container.read(10_007), b""))


@pytest.mark.parametrize("kind", PACKERS)
def test_content_comes_out_of_each_container(kind: str, tmp_path: Path) -> None:
    """Every container gives back the bytes that were packed, and is told by its content, not its name."""
    path = write(tmp_path, PACKERS[kind](CONTENT))
    with open_container(path) as container:
        assert kind == container.kind
    assert read_all(path) == CONTENT


@pytest.mark.parametrize("kind", MULTI)
def test_units_behind_one_another_are_one_stream(kind: str, tmp_path: Path) -> None:
    """Streams, members and frames that follow each other, padding between them, are read to the last."""
    one, two = PACKERS[kind](CONTENT), PACKERS[kind](b"<!-- and more -->")
    path = write(tmp_path, one + two + b"\x00" * 8 + one)
    assert read_all(path) == CONTENT + b"<!-- and more -->" + CONTENT


def test_skippable_zstd_frames_are_skipped(tmp_path: Path) -> None:
    """A zstd file may begin and end with frames that hold no content."""
    skippable = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    path = write(tmp_path, skippable + zstd.compress(CONTENT) + skippable)
    assert read_all(path) == CONTENT


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated(kind: str, share: float, tmp_path: Path) -> None:
    """A cut archive is named as cut, with its path, the byte where it ends, and what to do."""
    whole = PACKERS[kind](CONTENT)
    path = write(tmp_path, whole[: int(len(whole) * share)])
    with pytest.raises(SourceTruncatedError) as caught:
        read_all(path)
    assert str(path) == caught.value.metadata["path"]
    assert caught.value.metadata["offset"].isdigit()
    assert "fetch" in caught.value.hint


# A cut 7z archive has lost the header at its end, so nothing of it can be found.
@pytest.mark.parametrize("kind", [kind for kind in PACKED if kind != "7z"])
def test_what_was_whole_is_read_before_the_cut(kind: str, tmp_path: Path) -> None:
    """The bytes before the place where an archive is cut come out first."""
    whole = PACKERS[kind](CONTENT)
    path = write(tmp_path, whole[:-20] if kind != "bz2" else bz2.compress(CONTENT, 1)[:-20])
    seen = bytearray()
    with pytest.raises(SourceTruncatedError), open_container(path) as container:
        while data := container.read(10_000):
            seen += data
    assert CONTENT.startswith(seen)
    assert len(seen) > len(CONTENT) // 3


@pytest.mark.parametrize("kind", [kind for kind in PACKED if kind != "lzma"])
def test_corrupt(kind: str, tmp_path: Path) -> None:
    """A flipped bit in the middle of an archive is named as damage, with the byte."""
    packer = PACKERS[kind]
    if kind == "zst":
        options: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
        whole = bytearray(zstd.compress(CONTENT, options=options))
    else:
        whole = bytearray(packer(CONTENT))
    whole[len(whole) // 2] ^= 0x10
    path = write(tmp_path, bytes(whole))
    with pytest.raises(SourceCorruptError) as caught:
        read_all(path)
    assert str(path) == caught.value.metadata["path"]
    assert caught.value.metadata["offset"].isdigit()


@pytest.mark.parametrize("kind", [*MULTI, "lzma"])
def test_other_bytes_behind_the_end(kind: str, tmp_path: Path) -> None:
    """What follows the compressed data and is no compressed data is damage, not silence."""
    path = write(tmp_path, PACKERS[kind](CONTENT) + b"<html>Bad gateway</html>")
    with pytest.raises(SourceCorruptError, match="behind the end"):
        read_all(path)


def test_damaged_seven_zip_header(tmp_path: Path) -> None:
    """A 7z archive whose header is damaged is named as such."""
    whole = bytearray(seven({"contents": CONTENT}))
    whole[-10] ^= 0xFF
    with pytest.raises(SourceCorruptError, match="header"):
        read_all(write(tmp_path, bytes(whole)))


def test_empty_file(tmp_path: Path) -> None:
    """A file of no bytes is a cut one."""
    with pytest.raises(SourceTruncatedError, match="empty"):
        read_all(write(tmp_path, b""))


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is a named error and not a traceback."""
    with pytest.raises(SourceError, match="cannot be opened"):
        read_all(tmp_path / "nowhere.xml")


def test_folder(tmp_path: Path) -> None:
    """A folder is not an input."""
    with pytest.raises(SourceError):
        read_all(tmp_path)


def archive_of(kind: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.xml", content)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo("a.xml")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_containers_that_are_not_read(kind: str, tmp_path: Path) -> None:
    """An archive of a kind that is not read is refused by its name."""
    with pytest.raises(SourceFormatError, match=kind):
        read_all(write(tmp_path, archive_of(kind, CONTENT)))


def test_binary_file(tmp_path: Path) -> None:
    """Bytes that are neither text nor a known container are refused."""
    with pytest.raises(SourceFormatError, match="binary"):
        read_all(write(tmp_path, bytes(range(256)) * 10))


def test_name_of_an_archive_on_something_else(tmp_path: Path) -> None:
    """A file that is only named like an archive is refused by that name."""
    with pytest.raises(SourceFormatError, match=r"named \.7z"):
        read_all(write(tmp_path, b"This file is not valid.", "a.7z"))


@pytest.mark.parametrize("outer", PACKED)
def test_one_layer_only(outer: str, tmp_path: Path) -> None:
    """An archive inside an archive is refused, a tar included."""
    for inner in (gzip.compress(CONTENT), archive_of("tar", CONTENT)):
        with pytest.raises(SourceFormatError, match="inside"):
            read_all(write(tmp_path, PACKERS[outer](inner)))


# --- windows ------------------------------------------------------------------------------------


def test_zstd_window_of_128_mib(tmp_path: Path) -> None:
    """The window of --long=27 is read, one twice as large is refused before it is allocated."""
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    compressor = zstd.ZstdCompressor(options=options)
    path = write(tmp_path, compressor.compress(CONTENT) + compressor.flush())
    assert read_all(path) == CONTENT


def test_zstd_window_too_large(tmp_path: Path) -> None:
    """A frame that asks for a window of 256 MiB is refused with a hint."""
    frame = b"\x28\xb5\x2f\xfd" + bytes((0, (28 - 10) << 3)) + b"\x01\x00\x00"
    with pytest.raises(SourceLimitError) as caught:
        read_all(write(tmp_path, frame))
    assert "128 MiB" in caught.value.hint


@pytest.mark.parametrize("kind", ["xz", "lzma"])
def test_xz_dictionary_too_large(kind: str, tmp_path: Path) -> None:
    """A dictionary above the limit is refused by its header."""
    filters = [{"id": lzma.FILTER_LZMA1 if kind == "lzma" else lzma.FILTER_LZMA2, "preset": 0}]
    if kind == "lzma":
        data = bytearray(lzma.compress(CONTENT, lzma.FORMAT_ALONE, filters=filters))
        data[1:5] = (2 * MAX_WINDOW_BYTES).to_bytes(4, "little")
    else:
        filters[0]["dict_size"] = 2 * MAX_WINDOW_BYTES
        data = bytearray(lzma.compress(b"<mediawiki/>", lzma.FORMAT_XZ, filters=filters))
    with pytest.raises(SourceLimitError):
        read_all(write(tmp_path, bytes(data)))


def test_seven_zip_dictionary_too_large(tmp_path: Path) -> None:
    """A 7z archive whose header asks for a larger dictionary is refused."""
    filters = [{"id": py7zr.FILTER_LZMA2, "preset": 0, "dict_size": 2 * MAX_WINDOW_BYTES}]
    with pytest.raises(SourceLimitError, match="256 MiB"):
        read_all(write(tmp_path, seven({"contents": b"<mediawiki/>"}, filters)))


# --- 7z -----------------------------------------------------------------------------------------

METHODS = {
    "lzma2": LZMA2,
    "lzma": [{"id": py7zr.FILTER_LZMA, "preset": 1}],
    "lzma2 behind a branch filter": [{"id": py7zr.FILTER_X86}, {"id": py7zr.FILTER_LZMA2, "preset": 1}],
    "delta": [{"id": py7zr.FILTER_DELTA}, {"id": py7zr.FILTER_LZMA2, "preset": 1}],
    "bzip2": [{"id": py7zr.FILTER_BZIP2}],
    "deflate": [{"id": py7zr.FILTER_DEFLATE}],
    "zstd": [{"id": py7zr.FILTER_ZSTD, "level": 3}],
    "stored": [{"id": py7zr.FILTER_COPY}],
}


@pytest.mark.parametrize("method", METHODS)
def test_seven_zip_methods(method: str, tmp_path: Path) -> None:
    """The methods in which dumps come are read, through the filters that 7-Zip puts before them."""
    assert read_all(write(tmp_path, seven({"dump": CONTENT}, METHODS[method]))) == CONTENT


def test_seven_zip_method_that_is_not_read(tmp_path: Path) -> None:
    """A method that is not read is refused with a hint, not with a traceback."""
    data = seven({"dump": CONTENT}, [{"id": py7zr.FILTER_PPMD, "order": 6, "mem": 24}])
    with pytest.raises(SourceFormatError) as caught:
        read_all(write(tmp_path, data))
    assert "lzma2" in caught.value.hint


def test_encrypted_seven_zip(tmp_path: Path) -> None:
    """An encrypted archive is refused as such."""
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w", password="secret") as archive:
        archive.writestr(CONTENT, "dump.xml")
    with pytest.raises(SourceFormatError):
        read_all(write(tmp_path, buffer.getvalue()))


def test_the_only_dump_among_several_members(tmp_path: Path) -> None:
    """Of several members the only .xml is read, also when others stand before it in the same stream."""
    members = {"readme.txt": b"hello" * 5000, "images.txt": b"", "wiki-history.XML": CONTENT, "z.txt": b"end"}
    assert read_all(write(tmp_path, seven(members))) == CONTENT


@pytest.mark.parametrize("names", [("a.xml", "b.ndjson"), ("a.txt", "b.txt")])
def test_several_members_that_could_be_meant(names: tuple[str, str], tmp_path: Path) -> None:
    """When it is not clear which member is meant, the error names them."""
    with pytest.raises(SourceFormatError) as caught:
        read_all(write(tmp_path, seven(dict.fromkeys(names, CONTENT))))
    assert all(name in caught.value.metadata["members"] for name in names)


def test_archive_of_nothing(tmp_path: Path) -> None:
    """A 7z archive without a member is refused."""
    with pytest.raises(SourceFormatError, match="no file"):
        read_all(write(tmp_path, seven({})))


# --- progress -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PACKERS)
def test_progress_is_the_place_in_the_stored_file(kind: str, tmp_path: Path) -> None:
    """Progress never falls, never passes the size of the file, and ends near it."""
    path = write(tmp_path, PACKERS[kind](CONTENT))
    size = path.stat().st_size
    with open_container(path) as container:
        seen = [container.progress]
        while container.read(50_000):
            seen.append(container.progress)
        seen.append(container.progress)
    assert sorted(seen, key=lambda progress: progress.done) == seen
    assert all(Progress(progress.done, size) == progress for progress in seen)
    assert size - 200 <= seen[-1].done <= size
