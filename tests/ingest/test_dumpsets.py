from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from recension.model.errors import SourceDigestError, SourceError, SourceFormatError, SourceIncompleteError
from recension.server.dumpsets import DumpSet, gather

PARTS = ["w-2026-01-01-p1p9.xml", "w-2026-01-01-p10r1r5.xml", "w-2026-01-01-p10r6r9.xml"]
HISTORY = "w-20260101-pages-meta-history"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a Content File Export leaves it."""
    return export(tmp_path / "xml", PARTS)


def export(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"<mediawiki>{name}</mediawiki>")
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums))
    (folder / "_SUCCESS").touch()
    return folder


def one(*paths: Path, kind: str = "dump") -> DumpSet:
    (made,), faults = gather(kind, paths)
    assert [] == faults
    return made


def names(made: DumpSet) -> list[str]:
    return [path.name for path in made.files]


def test_a_folder_is_its_parts_in_order(folder: Path) -> None:
    """A folder is read as its parts, by page and revision, all of them checked."""
    made = one(folder)
    assert (PARTS, 3, []) == (names(made), made.document()["checked"], made.missing)
    made.check(allow_incomplete=False)


def test_the_order_in_which_files_are_named_does_not_matter(folder: Path) -> None:
    """Files of one set have the order of their pages, however they are named."""
    assert PARTS == names(one(*(folder / name for name in reversed(PARTS)), folder / PARTS[1]))


def test_sets_have_the_order_of_their_first_file(folder: Path, tmp_path: Path) -> None:
    """Files that are no parts of one set stay in the order in which they were named."""
    other = tmp_path / "b2.xml", tmp_path / "b1.xml"
    sets, _ = gather("dump", [folder / PARTS[2], *other, folder / PARTS[0]])
    assert [[PARTS[0], PARTS[2]], ["b2.xml"], ["b1.xml"]] == [names(made) for made in sets]


def test_another_digest_is_a_named_error(folder: Path) -> None:
    """A file that is not what is listed is named, and nothing of its set is taken for good."""
    (folder / PARTS[1]).write_text("damaged")
    with pytest.raises(SourceDigestError, match="p10r1r5"):
        one(folder).check(allow_incomplete=True)


def test_a_missing_part_is_told(folder: Path) -> None:
    """A listed part that is not there is named; a folder without it is refused unless that is allowed."""
    (folder / PARTS[1]).unlink()
    made = one(folder)
    assert [PARTS[1]] == made.missing
    with pytest.raises(SourceIncompleteError, match=r"p10r1r5.*is missing"):
        made.check(allow_incomplete=False)
    made.check(allow_incomplete=True)
    some = one(folder / PARTS[0])
    some.check(allow_incomplete=False)
    assert [PARTS[1], PARTS[2]] == some.missing


@pytest.mark.parametrize("name", ["_SUCCESS", "SHA256SUMS"])
def test_an_export_that_is_not_finished(folder: Path, name: str) -> None:
    """Without either of the files that are written last, an export is not finished."""
    (folder / name).unlink()
    with pytest.raises(SourceIncompleteError, match=f"there is no {name}"):
        one(folder).check(allow_incomplete=False)
    one(folder / PARTS[0]).check(allow_incomplete=False)
    with pytest.raises(SourceIncompleteError):
        one(folder / PARTS[0]).refuse_doubts("")


def old_form(folder: Path, *, status: str = "done", algorithms: tuple[str, ...] = ("sha1", "md5")) -> Path:
    """Make a folder of the old form, with everything that lies there."""
    folder.mkdir()
    every = [f"{HISTORY}{n}.xml-p{a}p{b}.{packed}" for n, a, b in ((1, 1, 9), (2, 10, 20))
             for packed in ("bz2", "7z")]  # fmt: skip
    every += ["w-20260101-pages-meta-current.xml.bz2", "w-20260101-stub-meta-history.xml.gz"]
    every += ["w-20260101-pages-logging.xml.gz", "w-20260101-pages-articles-multistream.xml.bz2"]
    for name in every:
        (folder / name).write_text(name)
    for algorithm in algorithms:
        lines = [f"{hashlib.new(algorithm, name.encode()).hexdigest()}  {name}\n" for name in every]
        (folder / f"w-20260101-{algorithm}sums.txt").write_text("".join(lines))
    files = {name: {"sha1": hashlib.sha1(name.encode()).hexdigest()} for name in every[1:4:2]}  # noqa: S324
    jobs = {"metahistory7zdump": {"status": status, "files": files}, "other": {"status": "waiting"}}
    (folder / "dumpstatus.json").write_text(json.dumps({"version": "0.8", "jobs": jobs}))
    return folder


def test_a_folder_of_the_old_form(tmp_path: Path) -> None:
    """Of a folder with everything of a day, the history is read, each part in its fastest container."""
    made = one(old_form(tmp_path / "w"))
    assert [f"{HISTORY}1.xml-p1p9.7z", f"{HISTORY}2.xml-p10p20.7z"] == names(made)
    assert {"sha1"} == {digest.algorithm for digest in made.digests.values()}
    made.check(allow_incomplete=False)
    assert ["w-20260101-pages-logging.xml.gz"] == names(one(tmp_path / "w", kind="logging"))


@pytest.mark.parametrize("algorithms", [("md5",), ("sha1",), ()])
def test_each_listing_of_the_old_form_alone(tmp_path: Path, algorithms: tuple[str, ...]) -> None:
    """Any of the listings tells a damaged file and a missing part."""
    folder = old_form(tmp_path / "w", algorithms=algorithms)
    part = folder / f"{HISTORY}2.xml-p10p20.7z"
    part.write_text("damaged")
    with pytest.raises(SourceDigestError):
        one(folder).check(allow_incomplete=False)
    part.unlink()
    (folder / f"{HISTORY}2.xml-p10p20.bz2").unlink()
    assert [part.name] == one(folder).missing


def test_a_job_that_is_not_done(tmp_path: Path) -> None:
    """What dumpstatus.json says of the job that makes the files is a doubt."""
    with pytest.raises(SourceIncompleteError, match="metahistory7zdump is in-progress"):
        one(old_form(tmp_path / "w", status="in-progress")).check(allow_incomplete=False)


def test_gaps_in_numbered_parts(tmp_path: Path) -> None:
    """Where nothing is listed, numbers and ranges of the old form say what is missing."""
    paths = [tmp_path / f"{HISTORY}{n}.xml-p{a}p{b}.7z" for n, a, b in ((1, 1, 9), (3, 20, 30))]
    made = one(*paths)
    assert ["part 2 is missing", "pages 10 to 19 are in no part"] == made.gaps
    with pytest.raises(SourceIncompleteError, match="part 2"):
        made.refuse_doubts("", gaps=True)
    made.refuse_doubts("")


def test_folders_that_cannot_be_taken(tmp_path: Path) -> None:
    """A folder without a dump, and one with two, are named errors; other files are read all the same."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("a.xml", "b.xml.gz"):
        (tmp_path / "two" / name).touch()
    sets, faults = gather("dump", [tmp_path / "empty", tmp_path / "two", tmp_path / "two" / "a.xml"])
    assert (["a.xml"], [SourceFormatError] * 2) == (names(sets[0]), [type(fault) for fault in faults])


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"jobs": {"a": 3}}', "[" * 100_000])
def test_a_status_that_is_none(tmp_path: Path, text: str) -> None:
    """A status that cannot be read is a named error."""
    folder = old_form(tmp_path / "w")
    (folder / "dumpstatus.json").write_text(text)
    _, faults = gather("dump", [folder])
    assert [SourceFormatError] == [type(fault) for fault in faults]


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    """A listed file that is a folder by now is a named error."""
    made = one(folder)
    (folder / PARTS[0]).unlink()
    (folder / PARTS[0]).mkdir()
    with pytest.raises(SourceError):
        made.check(allow_incomplete=True)


def test_other_kinds_have_no_sets(folder: Path) -> None:
    """Events are read file by file, and a folder of them is no folder here."""
    sets, _ = gather("events", [folder, folder / PARTS[0]])
    assert [[folder], [folder / PARTS[0]]] == [made.files for made in sets]
