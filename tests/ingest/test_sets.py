"""Sets of files and complete dumps, from the command's own functions to what the store then answers."""

from __future__ import annotations

import bz2
import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.errors import InvalidArgumentError, PageNotFoundError
from recension.model.event import Presence, Visibility
from recension.model.instant import parse_instant
from recension.model.manifest import Selector
from recension.model.reading import ProjectInfo, Revision
from recension.server.completing import Whole
from recension.server.ingest import in_turns, run_ingest
from recension.store.memory import MemoryStore
from tests.sources.helpers import dump, page, revision, shared

COMPLETE = Whole(complete=True)
OLD, NEW = "w-20200101-pages-meta-history.xml", "w-20210101-pages-meta-history.xml"
AT = parse_instant("2021-01-01")

Run = Callable[..., tuple[int, dict[str, Any]]]


class World:
    """A store, and the ingest of files into it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.store = MemoryStore()
        Ingestor(self.store, clock=lambda: 1).create_project(
            ProjectInfo("p", "https://t.example", "en", "CC0-1.0")
        )
        self.archive = Archive(self.store)

    def write(self, name: str, *pages: str) -> Path:
        """Write a dump of these pages."""
        path = self.folder / name
        data = dump("".join(pages))
        path.write_bytes(bz2.compress(data) if name.endswith(".bz2") else data)
        return path

    def run(self, *paths: Path, whole: Whole = Whole(), workers: int = 1) -> tuple[int, dict[str, Any]]:  # noqa: B008 - frozen
        """Ingest; return the exit status and the report."""
        status = run_ingest(
            self.store, "dump", "p", paths,
            data=self.folder / "data", json_output=True, quiet=True, clock=lambda: 2**51,
            seed=b"x", workers=workers, whole=whole,
        )  # fmt: skip
        return status, json.loads(self._capsys.readouterr().out)

    @property
    def root(self) -> bytes:
        """Root of everything that is known."""
        return self.archive.create_snapshot(Selector.of(["p"])).parts[0].root

    def live(self, at: int) -> set[int]:
        """Return those of the first pages that exist at a time."""
        found = set()
        for number in range(1, 9):
            try:
                self.archive.article("p", number, valid_at=at, text=False)
            except PageNotFoundError:
                continue
            found.add(number)
        return found

    def shows(self, rev: int) -> bool:
        """Whether the text of a revision is shown."""
        return self.archive.revision("p", rev).revision.slots[0].presence is Presence.PRESENT


@pytest.fixture
def worlds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], World]:
    def make(name: str) -> World:
        (tmp_path / name).mkdir()
        return World(tmp_path / name, capsys)

    return make


@pytest.fixture
def world(worlds: Callable[[str], World]) -> World:
    return worlds("one")


def whole_page(number: int, *revisions: str) -> str:
    return page("".join(revisions), head=f"<title>T{number}</title><ns>0</ns><id>{number}</id>")


def rev(rev_id: int, year: int = 2019, text: str = "") -> str:
    text = text or f'<text bytes="6">text {rev_id % 10}</text>'
    return revision(rev_id, time=f"{year}-05-05T00:00:{rev_id % 60:02}Z", text=text)


# --- sets ---------------------------------------------------------------------------------------

PARTS = {
    "w-2020-01-01-p1p4.xml.bz2": (whole_page(1, rev(11), rev(12)), whole_page(4, rev(14))),
    "w-2020-01-01-p5r1r60.xml.bz2": (whole_page(5, rev(51), rev(52)),),
    "w-2020-01-01-p5r61r99.xml.bz2": (whole_page(5, rev(61), rev(62)),),
    "w-2020-01-01-p6p9.xml.bz2": (whole_page(6, rev(15)), whole_page(7, rev(70))),
    "w-2020-01-01-p10p99.xml.bz2": (whole_page(8, rev(80)),),
}


def test_parts_in_any_order_and_all_at_once_are_one_history(worlds: Callable[[str], World]) -> None:
    """Split by pages and by revisions, in any order and any number at a time: one root; and one order."""
    single = worlds("whole")
    single.run(single.write("w-2020-01-01.xml", *(page for pages in PARTS.values() for page in pages)))
    heads: list[str] = []
    for order, workers in zip(list(permutations(PARTS))[::40], (1, 3, 3), strict=True):
        world = worlds(f"parts{len(heads)}")
        status, report = world.run(*(world.write(name, *PARTS[name]) for name in order), workers=workers)
        assert (0, 10, 5) == (status, report["accepted"], report["files"])
        assert single.root == world.root
        heads.append(report["head"])
    assert heads[1] == heads[2]


def test_a_page_in_two_files_is_one_page(world: World) -> None:
    """Ranges of revisions of one page become one history, in the order of time."""
    world.run(*(world.write(name, *pages) for name, pages in PARTS.items()))
    items = [item.what.rev_id for item in world.archive.timeline("p", 5) if isinstance(item.what, Revision)]
    assert [51, 52, 61, 62] == sorted(items)


def test_files_take_turns() -> None:
    """So many files are advanced in turn, and the next begins where one ends."""
    seen: list[str] = []

    def file(name: str, steps: int) -> Iterator[None]:
        for step in range(steps):
            seen.append(f"{name}{step}")
            yield

    in_turns([file("a", 1), file("b", 3), file("c", 2), file("d", 0)], 2)
    assert ["a0", "b0", "b1", "c0", "b2", "c1"] == seen


def folder_of_parts(world: World) -> Path:
    folder = world.folder / "xml"
    folder.mkdir()
    sums = []
    for name, pages in PARTS.items():
        path = world.write(f"xml/{name}", *pages)
        sums.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n")
    (folder / "SHA256SUMS").write_text("".join(sums))
    (folder / "_SUCCESS").touch()
    return folder


def test_a_folder_is_read(world: World) -> None:
    """A folder stands for its parts, and the report says what was checked."""
    status, report = world.run(folder_of_parts(world))
    assert (0, 10) == (status, report["accepted"])
    assert [{"name": "w-2020-01-01.xml", "files": 5, "checked": 5, "missing": [], "doubts": []}] == report[
        "sets"
    ]


def test_nothing_of_a_damaged_set_is_read(world: World) -> None:
    """A part with another digest is a named fault, and no part is stored."""
    folder = folder_of_parts(world)
    (folder / "w-2020-01-01-p6p9.xml.bz2").write_bytes(bz2.compress(dump(whole_page(6, rev(15)))))
    status, report = world.run(folder)
    assert (3, ["SOURCE_DIGEST"], 0) == (status, reasons(report), report["accepted"])


def test_a_set_that_is_not_whole(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that lacks a part is refused, unless that is allowed, and then it is told."""
    folder = folder_of_parts(world)
    (folder / "w-2020-01-01-p6p9.xml.bz2").unlink()
    status, report = world.run(folder)
    assert (3, ["SOURCE_INCOMPLETE"], 0) == (status, reasons(report), report["accepted"])
    assert "p6p9" in capsys.readouterr().err or report["sets"][0]["missing"]
    status, report = world.run(folder, whole=Whole(allow_incomplete=True))
    assert (0, 8) == (status, report["accepted"])


def test_unpacked_parts_are_counted_too(world: World) -> None:
    """Beside a listing of packed parts, unpacked ones are told by their ranges."""
    folder = folder_of_parts(world)
    for packed in sorted(folder.glob("*.bz2")):
        packed.with_suffix("").write_bytes(bz2.decompress(packed.read_bytes()))
        packed.unlink()
    (folder / "w-2020-01-01-p6p9.xml").rename(world.folder / "kept")
    status, report = world.run(folder, whole=COMPLETE)
    assert (3, ["SOURCE_INCOMPLETE"], 0) == (status, reasons(report), report["accepted"])
    assert ["w-2020-01-01-p6p9.xml.bz2"] == report["sets"][0]["missing"]
    (world.folder / "kept").rename(folder / "w-2020-01-01-p6p9.xml")
    status, report = world.run(folder, whole=COMPLETE)
    assert (0, [], 10) == (status, report["sets"][0]["missing"], report["accepted"])


def test_a_damaged_file_among_good_ones_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts that do not match their digests are told file by file, not of all that was read."""
    bad = '<text bytes="5" sha1="aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa">Hello</text>'
    good = '<text bytes="5" sha1="syvtbocopvw4f81bf07ocly0sl8ybqo">Hello</text>'
    many = [whole_page(1, *(rev(n, text=good) for n in range(1, 60)))]
    paths = world.write("good.xml", *many), world.write("bad.xml", whole_page(2, rev(99, text=bad)))
    _, report = world.run(*paths)
    assert {"bad.xml": 1.0} == report["suspicious"]
    assert 59 == report["claims"]["exact"]


def reasons(report: dict[str, Any]) -> list[str]:
    return [fault["reason"] for fault in report["faults"]]


# --- complete dumps -----------------------------------------------------------------------------


def older(world: World) -> None:
    """Ingest a history of three pages."""
    pages = whole_page(1, rev(11), rev(12)), whole_page(2, rev(21)), whole_page(3, rev(31), rev(32), rev(33))
    world.run(world.write(OLD, *pages))


HIDDEN_TEXT = '<text bytes="6" deleted="deleted" />'
NEWER = whole_page(1, rev(11), rev(12, text=HIDDEN_TEXT)), whole_page(3, rev(31), rev(33), rev(34, 2020))


def test_what_a_complete_dump_lacks_becomes_events_of_its_time(world: World) -> None:
    """A page is gone, a revision is hidden, and what the dump hides is hidden: all at the dump's day."""
    older(world)
    status, report = world.run(world.write(NEW, *NEWER), whole=COMPLETE)
    assert (0, {"deleted": 1, "hidden": 1, "restored": 0}) == (status, counts(report))
    assert ("2021-01-01T00:00:00Z", "name", "history") == (
        report["complete"]["made_at"], report["complete"]["made_at_from"], report["complete"]["extent"],
    )  # fmt: skip
    assert ({1, 2, 3}, {1, 3}) == (world.live(AT - 1), world.live(AT))
    assert [11, 21, 31, 33, 34] == [n for n in (11, 12, 21, 31, 32, 33, 34) if world.shows(n)]
    times = [item.time for item in world.archive.timeline("p", 1) if isinstance(item.what, Visibility)]
    assert [AT] == times
    before = world.store.log.head()
    assert (0, {"deleted": 0, "hidden": 0, "restored": 0}) == (
        world.run(world.folder / NEW, whole=COMPLETE)[0],
        counts(world.run(world.folder / NEW, whole=COMPLETE)[1]),
    )
    assert before == world.store.log.head()


def counts(report: dict[str, Any]) -> dict[str, int]:
    return {name: report["complete"][name] for name in ("deleted", "hidden", "restored")}


def test_a_dump_without_a_date_is_of_the_time_of_its_newest_revision(world: World) -> None:
    """What it hides and what it lacks is dated so, and by none that lies in the future."""
    older(world)
    ahead = whole_page(4, rev(41, 2020), rev(42, 9000))
    path = world.write("w.xml", *NEWER, ahead)
    status, report = world.run(path, whole=COMPLETE)
    assert (0, {"deleted": 1, "hidden": 1, "restored": 0}) == (status, counts(report))
    at = parse_instant(report["complete"]["made_at"])
    assert ("newest revision", parse_instant("2020-05-05T00:00:41Z")) == (
        report["complete"]["made_at_from"],
        at,
    )
    assert [at, at] == hidings(world)
    assert ({1, 2, 3}, {1, 3, 4}) == (world.live(at - 1), world.live(at))


def test_a_dump_is_of_the_time_that_is_said(world: World) -> None:
    """Of --made-at rather than of the day in its name, or of its newest revision."""
    older(world)
    at = parse_instant("2020-12-24T12:00:00Z")
    said = Whole(complete=True, made_at=at)
    for name in (NEW, "w.xml"):
        _, report = world.run(world.write(name, *NEWER), whole=said)
        assert ("2020-12-24T12:00:00Z", "option") == (
            report["complete"]["made_at"], report["complete"]["made_at_from"],
        )  # fmt: skip
    assert [at, at] == hidings(world)


def hidings(world: World) -> list[int]:
    """Return when the text of revision 12 was hidden, and all of revision 32."""
    items = (item for page in (1, 3) for item in world.archive.timeline("p", page))
    return [item.time for item in items if isinstance(item.what, Visibility)]


@pytest.mark.parametrize("data", [dump(""), dump("".join(NEWER))[:-40], dump(whole_page(4, rev(41, 9000)))])
def test_a_dump_that_tells_no_time_is_not_read(data: bytes, world: World) -> None:
    """No revision, one of the future alone, or no end: that is a named fault, and nothing is stored of it."""
    older(world)
    head = world.store.log.head()
    path = world.folder / "w.xml"
    path.write_bytes(data)
    status, report = world.run(path, whole=COMPLETE)
    assert (3, 0, head) == (status, report["files"], world.store.log.head())
    assert reasons(report) in (["SOURCE_INCOMPLETE"], ["SOURCE_TRUNCATED"])


def test_without_the_word_nothing_vanishes(world: World) -> None:
    """The same dump without --complete takes nothing away but what it hides itself."""
    older(world)
    _, report = world.run(world.write(NEW, *NEWER))
    assert {} == report["complete"]
    assert ({1, 2, 3}, True, False) == (world.live(AT), world.shows(32), world.shows(12))


def test_a_page_that_is_back(world: World) -> None:
    """A page that one complete dump lacked, and the next has, was away in between."""
    older(world)
    world.run(world.write(NEW, *NEWER), whole=COMPLETE)
    third = world.write("w-20220101-pages-meta-history.xml", *NEWER, whole_page(2, rev(21)))
    assert 1 == world.run(third, whole=COMPLETE)[1]["complete"]["restored"]
    assert ({1, 3}, {1, 2, 3}) == (world.live(AT), world.live(parse_instant("2022-01-01")))


def test_a_complete_dump_in_parts(worlds: Callable[[str], World]) -> None:
    """In parts, named in the wrong order, a dump says what it says in one file."""
    single, parts = worlds("single"), worlds("parts")
    for world in (single, parts):
        older(world)
    single.run(single.write(NEW, *NEWER), whole=COMPLETE)
    files = [parts.write(f"w-20210101-pages-meta-history{n}.xml-p{n}p{n + 1}", NEWER[n // 2]) for n in (1, 2)]
    status, report = parts.run(*reversed(files), whole=COMPLETE)
    assert (0, {"deleted": 1, "hidden": 1, "restored": 0}) == (status, counts(report))
    assert single.root == parts.root


def test_of_newest_revisions_pages_alone_are_compared(world: World) -> None:
    """A dump of which every page has one revision says nothing of older ones."""
    older(world)
    newest = world.write("w-2021-01-01-p1p9.xml", whole_page(1, rev(12)), whole_page(3, rev(33)))
    status, report = world.run(newest, whole=COMPLETE)
    assert (3, ["SOURCE_INCOMPLETE"]) == (status, reasons(report))  # an export without what ends it
    third = world.write("w.xml", whole_page(1, rev(12)), whole_page(3, rev(33)), whole_page(4, rev(41, 2021)))
    status, report = world.run(third, whole=COMPLETE)
    assert (0, "current", "newest revision") == (
        status, report["complete"]["extent"], report["complete"]["made_at_from"],
    )  # fmt: skip
    assert {"deleted": 1, "hidden": 0, "restored": 0} == counts(report)


@pytest.mark.parametrize(
    "name,data",
    [
        ("ends early", dump("".join(NEWER))[:-40]),
        ("a record that cannot be read", dump(NEWER[0] + whole_page(3, rev(31), revision("x")))),
        ("no revision", dump("")),
        ("not XML", b"no"),
    ],
)
def test_what_is_evidently_not_complete(name: str, data: bytes, world: World) -> None:
    """A dump that was not read whole takes nothing away, and that is a named fault."""
    older(world)
    path = world.folder / NEW
    path.write_bytes(data)
    status, report = world.run(path, whole=COMPLETE)
    assert 3 == status, name
    assert "SOURCE_INCOMPLETE" == reasons(report)[-1]
    assert ({1, 2, 3}, {}) == (world.live(AT), report["complete"])


def test_a_part_that_is_missing(world: World) -> None:
    """Numbers of parts tell that one is missing, and then nothing is read at all."""
    older(world)
    files = [world.write(f"w-20210101-pages-meta-history{n}.xml-p{n}p{n}", *NEWER) for n in (1, 3)]
    status, report = world.run(*files, whole=COMPLETE)
    assert (3, ["SOURCE_INCOMPLETE"], 0) == (status, reasons(report), report["files"])


def test_two_dumps_are_not_one(world: World) -> None:
    """Files of two days are two dumps."""
    files = world.write(OLD, *NEWER), world.write(NEW, *NEWER)
    with pytest.raises(InvalidArgumentError, match="2 dumps"):
        world.run(*files, whole=COMPLETE)
    with pytest.raises(InvalidArgumentError, match="future"):
        world.run(files[1], whole=Whole(complete=True, made_at=2**52))


def test_a_refused_revision_is_in_the_dump(world: World) -> None:
    """A revision that the dump has under another page is told and rejected, and did not vanish."""
    older(world)
    merged = whole_page(1, rev(11), rev(12), rev(21)), whole_page(3, rev(31), rev(32), rev(33))
    status, report = world.run(world.write(NEW, *merged), whole=COMPLETE)
    assert (1, {"REVISION_CONFLICT": 1}) == (status, report["rejected"])
    assert {"deleted": 0, "hidden": 0, "restored": 0} == counts(report)
    assert world.shows(21)


# --- real dumps ---------------------------------------------------------------------------------

PAIR = "wikimedia/refinery-content-export"


def test_the_same_wiki_two_years_later(world: World) -> None:
    """Of the real pair of one history an address was hidden in between and stays so; nothing else happens."""
    old, new = (
        shared(f"{PAIR}/simplewiki-{name}.xml") for name in ("dump1.0-2023-07", "content-export-2025-11")
    )
    world.run(old)
    made_at = parse_instant("2025-11-01")
    head = world.store.log.head().position
    status, report = world.run(new, whole=Whole(complete=True, made_at=made_at))
    assert (0, 1, 32) == (status, report["accepted"], report["known"])
    assert {"deleted": 0, "hidden": 0, "restored": 0} == counts(report)
    changes = [
        (item.what.rev_id, item.time)
        for item in world.archive.timeline("p", 45046)
        if isinstance(item.what, Visibility)
    ]
    assert [(1714215, made_at)] == changes
    world.run(old)
    now = world.archive.revision("p", 1714215).revision
    then = world.archive.revision("p", 1714215, known_at=head).revision
    assert (Presence.HIDDEN, Presence.HIDDEN) == (now.contributor.presence, then.contributor.presence)


def test_newest_revisions_after_the_history_of_the_same_day(world: World) -> None:
    """The real history of a wiki and its newest revisions, made on one day, take nothing from each other."""
    history, current = (
        shared(f"wikimedia/aawiki-20260101/aawiki-20260101-pages-meta-{name}")
        for name in ("history.xml.7z", "current.xml.bz2")
    )
    assert 0 == world.run(history, whole=COMPLETE)[0]
    status, report = world.run(current, whole=COMPLETE)
    assert (0, 0, "current") == (status, report["accepted"], report["complete"]["extent"])
    assert {"deleted": 0, "hidden": 0, "restored": 0} == counts(report)
