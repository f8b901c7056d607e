import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from recension.model.errors import (
    DiskFullError,
    InvalidArgumentError,
    SourceCorruptError,
    SourceFormatError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
)
from recension.sources.enterprise_files import Files
from recension.sources.enterprise_login import Credentials, Login
from recension.sources.http import Http
from tests.enterprise import PASSWORD, USER, Enterprise, record
from tests.upstream import Asked, Upstream

NAME = "enwiki_namespace_0"
DATA = os.urandom(3_000_000)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def about(data: bytes, **more: object) -> bytes:
    return json.dumps({"identifier": NAME, "version": md5(data), **more}).encode()


@pytest.fixture
def service() -> Enterprise:
    """A service that has one snapshot, in two chunks as well, and one batch."""
    path = f"/v2/snapshots/{NAME}"
    made = Enterprise()
    made.files = {
        path: about(DATA, chunks=[f"{NAME}_chunk_0", f"{NAME}_chunk_1"]),
        f"{path}/download": DATA,
        f"{path}/chunks/{NAME}_chunk_0": about(DATA[:9]),
        f"{path}/chunks/{NAME}_chunk_0/download": DATA[:9],
        f"{path}/chunks/{NAME}_chunk_1": about(DATA[9:]),
        f"{path}/chunks/{NAME}_chunk_1/download": DATA[9:],
        f"/v2/batches/2026-01-31/07/{NAME}": about(b"batch"),
        f"/v2/batches/2026-01-31/07/{NAME}/download": b"batch",
    }
    return made


@pytest.fixture
def upstream(service: Enterprise) -> Iterator[Upstream]:
    with service.serve() as served:
        yield served


@pytest.fixture
def files(upstream: Upstream, tmp_path: Path) -> Files:
    http = Http(upstream.origin)
    bearer = Login(http, Credentials(USER, PASSWORD))
    return Files(Http(upstream.origin, bearer=bearer), tmp_path / "into", pause_seconds=0)


def test_a_snapshot(files: Files, upstream: Upstream) -> None:
    """It arrives whole under a name with its digest; asked again, nothing is fetched."""
    (path,) = files.snapshot("enwiki")
    assert (f"{NAME}-{md5(DATA)}.tar.gz", DATA) == (path.name, path.read_bytes())
    assert [path] == list(path.parent.iterdir())
    count = len(upstream.asked)
    assert [path] == list(files.snapshot("enwiki"))
    assert count + 1 == len(upstream.asked)


def test_chunks(files: Files) -> None:
    """Each is a file of its own."""
    first, second = files.snapshot("enwiki", chunks=True)
    assert (DATA[:9], DATA[9:]) == (first.read_bytes(), second.read_bytes())


def test_a_batch(files: Files) -> None:
    """The hour is in its name."""
    (path,) = files.batch("enwiki", "2026-01-31", 7)
    assert path.name.startswith(f"{NAME}-2026-01-31-07-")
    for date, hour in [("2026-01-31/..", 7), ("2026-01-31", 24), ("today", 0)]:
        with pytest.raises(InvalidArgumentError):
            list(files.batch("enwiki", date, hour))
    with pytest.raises(InvalidArgumentError):
        list(files.batch("../x", "2026-01-31", 7))


def test_a_download_goes_on_where_it_was(files: Files, service: Enterprise, tmp_path: Path) -> None:
    """However often it breaks off, also over runs; what is there is not fetched again."""
    starts: list[str] = []

    def rude(asked: Asked) -> None:
        if asked.method == "HEAD":
            asked.reply(200, DATA)
            return
        said = asked.headers.get("Range", "bytes=0-")
        starts.append(said)
        start = int(said.removeprefix("bytes=").removesuffix("-"))
        asked.head(
            206 if start else 200,
            Content_Length=str(len(DATA) - start),
            Content_Range=f"bytes {start}-{len(DATA) - 1}/{len(DATA)}",
        )
        asked.raw(DATA[start : start + 700_000])
        if start + 700_000 < len(DATA):
            asked.cut()

    service.handlers[f"/v2/snapshots/{NAME}/download"] = rude
    part = tmp_path / "into" / f"{NAME}-{md5(DATA)}.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(DATA[:1000])
    (path,) = files.snapshot("enwiki")
    assert DATA == path.read_bytes()
    assert "bytes=1000-" == starts[0]
    assert sorted(set(starts)) == sorted(starts)
    assert len(starts) >= 4


def test_what_upstream_does_not_state(files: Files, service: Enterprise, tmp_path: Path) -> None:
    """Another content under the same size is removed, and named; so is too much of a part."""
    service.files[f"/v2/snapshots/{NAME}/download"] = DATA[:-1] + b"x"
    with pytest.raises(SourceCorruptError, match="is not what upstream states"):
        list(files.snapshot("enwiki"))
    assert [] == list((tmp_path / "into").iterdir())
    service.files[f"/v2/snapshots/{NAME}/download"] = DATA
    part = tmp_path / "into" / f"{NAME}-{md5(DATA)}.tar.gz.part"
    part.write_bytes(DATA + b"x")
    with pytest.raises(SourceCorruptError):
        list(files.snapshot("enwiki"))
    assert DATA == next(files.snapshot("enwiki")).read_bytes()


@pytest.mark.parametrize("said", ["", "-1", "1.5", "9" * 19, "9" * 5000])
def test_a_size_that_no_file_has(files: Files, service: Enterprise, said: str) -> None:
    """It is named, also where it is no number that Python reads."""
    service.handlers[f"/v2/snapshots/{NAME}/download"] = lambda asked: asked.head(200, Content_Length=said)
    with pytest.raises(SourceFormatError, match="no size that a file has"):
        list(files.snapshot("enwiki"))


def test_an_edition_that_changes_meanwhile(files: Files, service: Enterprise) -> None:
    """It is refused rather than mixed."""
    service.handlers[f"/v2/snapshots/{NAME}/download"] = lambda asked: (
        asked.reply(200, DATA, ETag='"a"') if asked.method == "HEAD" else asked.reply(412)
    )
    with pytest.raises(UpstreamRefusedError, match="412"):
        list(files.snapshot("enwiki"))


def test_a_part_that_was_not_asked_for(files: Files, service: Enterprise, tmp_path: Path) -> None:
    """Only what begins where it should is taken."""
    service.handlers[f"/v2/snapshots/{NAME}/download"] = lambda asked: (
        asked.reply(200, DATA)
        if asked.method == "HEAD"
        else asked.reply(206, DATA[5:], Content_Range=f"bytes 5-{len(DATA) - 1}/{len(DATA)}")
    )
    with pytest.raises(SourceFormatError, match="another part"):
        list(files.snapshot("enwiki"))


def test_a_server_that_gives_nothing(files: Files, service: Enterprise) -> None:
    """After five tries without a byte it ends with the error of the last."""
    tries: list[str] = []

    def nothing(asked: Asked) -> None:
        if asked.method == "HEAD":
            asked.reply(200, DATA)
            return
        tries.append("one")
        asked.reply(503)

    service.handlers[f"/v2/snapshots/{NAME}/download"] = nothing
    with pytest.raises(UpstreamUnreachableError, match="503"):
        list(files.snapshot("enwiki"))
    assert 5 == len(tries)


def test_the_file_lies_elsewhere(files: Files, service: Enterprise) -> None:
    """As upstream has it: a redirect to signed addresses of a store, which see no token."""
    seen: list[str | None] = []

    def store(asked: Asked) -> None:
        seen.append(asked.headers["Authorization"])
        asked.reply(200, DATA)

    with Upstream(store) as other:
        service.handlers[f"/v2/snapshots/{NAME}/download"] = lambda asked: (
            asked.reply(200, DATA)
            if asked.method == "HEAD"
            else asked.reply(307, b"", Location=f"{other.origin}/x?X-Amz-Signature=canary")
        )
        assert DATA == next(files.snapshot("enwiki")).read_bytes()
    assert [None] == seen


def test_articles(files: Files, service: Enterprise, tmp_path: Path) -> None:
    """Each is asked for by its name, within the project, and kept as it came."""
    one = record(1, "update", "AC/DC è", 7, 8, project="enwiki")

    def answer(asked: Asked) -> None:
        assert "enwiki" == asked.document["filters"][0]["value"]
        asked.reply(200, [one])

    service.handlers["/v2/articles/AC%2FDC_%C3%A8"] = answer
    (path,) = files.articles("enwiki", ["AC/DC è"])
    assert ([one], tmp_path / "into") == (json.loads(path.read_bytes()), path.parent)
    assert path.name.startswith("enwiki-AC_DC_è-")
    with pytest.raises(UpstreamRefusedError, match="404"):
        list(files.articles("enwiki", ["Nothing"]))


@pytest.mark.parametrize("said", [b"[]", b'{"version": "../../x"}', b"{}", b'{"version": 7}'])
def test_metadata_without_a_digest(files: Files, service: Enterprise, said: bytes) -> None:
    """Nothing is fetched whose content is not known."""
    service.files[f"/v2/snapshots/{NAME}"] = said
    with pytest.raises(SourceFormatError):
        list(files.snapshot("enwiki"))


@pytest.mark.parametrize("chunks", [[], 7, ["../x"], [7]])
def test_chunks_that_are_none(files: Files, service: Enterprise, chunks: object) -> None:
    """What upstream says of them is checked before it is a path."""
    service.files[f"/v2/snapshots/{NAME}"] = about(DATA, chunks=chunks)
    with pytest.raises(SourceFormatError):
        list(files.snapshot("enwiki", chunks=True))


def test_a_folder_that_cannot_be_written(upstream: Upstream, tmp_path: Path) -> None:
    """It is a named error."""
    (tmp_path / "file").write_bytes(b"")
    login = Login(Http(upstream.origin), Credentials(USER, PASSWORD))
    with pytest.raises(DiskFullError):
        list(Files(Http(upstream.origin, bearer=login), tmp_path / "file").snapshot("enwiki"))
