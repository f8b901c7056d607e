from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import os
import resource
import select
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import py7zr
import pytest

from recension.archive.clock import SeededSalts
from recension.archive.intake import feed as feed_module
from recension.archive.intake.feed import Feed, Kind
from recension.archive.intake.frames import Fed
from recension.archive.prepared import prepare_all
from recension.model.errors import (
    SourceCorruptError,
    SourceError,
    SourceFormatError,
    SourceLimitError,
    SourceTruncatedError,
)
from recension.model.event import Event
from recension.sources.containers import open_container
from recension.sources.enterprise import MAX_DOCUMENT_BYTES
from recension.sources.events_ndjson import read_events
from recension.sources.items import MAX_EVENT_BYTES, Item, Progress, Rejected, RunEnd, SiteInfo
from recension.sources.mediawiki_xml import read_history
from tests.sources.helpers import dump, log, logitem, page, revision, shared

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MEMORY_KIB = 400 * 1024


def write(folder: Path, data: bytes, name: str = "dump.bin") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


SEED = b"feed"


def read(kind: Kind, path: Path, namespaces: dict[str, int] | None = None) -> list[Fed]:
    with Feed(kind, path, "p", namespaces, seed=SEED) as feed:
        return list(feed)


def fed_of(items: list[Item]) -> Fed:
    """Return the one batch that these items are to be."""
    events = [item for item in items if isinstance(item, Event)]
    remarks = [item for item in items if not isinstance(item, Event | RunEnd)]
    return Fed(remarks, prepare_all(events, SeededSalts(SEED)))


def size(batch: Fed) -> int:
    """Return the number of items."""
    return len(batch.remarks) + len(batch.events.events)


def until_fault(feed: Feed) -> tuple[int, SourceError]:
    """Return how many events came before the error, and the error."""
    seen = 0
    with pytest.raises(SourceError) as caught:
        for batch in feed:
            seen += len(batch.events.events)
    return seen, caught.value


def many_revisions(count: int, size: int = 10) -> bytes:
    return dump(
        page("".join(revision(number, text=f"<text>{'x' * size}</text>") for number in range(1, count + 1)))
    )


def peak_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    # A child that has just ended has no memory any more.
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


@pytest.fixture
def ndjson() -> bytes:
    return b"".join(
        json.dumps(
            {
                "project": "p",
                "pageId": number,
                "time": "2001-01-01T00:00:00Z",
                "sourceId": f"s:{number}",
                "delete": {"title": f"Talk:Äpfel {number}"},
            }
        ).encode()
        + b"\n"
        for number in range(1, 1501)
    )


def test_items_are_those_of_the_parser(tmp_path: Path) -> None:
    """What comes through the pipe is what the parser yields, for a history and a log."""
    history = dump(page(revision(1) + revision("x") + revision(2, rest="<comment>ключ</comment><odd/>")))
    path = write(tmp_path, history)
    expected = list(read_history(io.BytesIO(history), path, "p"))
    (fed,) = read("history", path)
    assert 1 == len(fed.events.blocks)
    fed.events.blocks.clear()
    assert fed_of(expected) == fed
    entries = dump(logitem("move", "move", "New") + logitem("upload", "upload") + logitem("delete", "delete"))
    assert [fed_of(log(entries))] == read("log", write(tmp_path, entries))


def test_namespaces_reach_the_parser(tmp_path: Path, ndjson: bytes) -> None:
    """The project's namespaces decide about titles that come without one."""
    path = write(tmp_path, ndjson)
    expected = list(read_events(io.BytesIO(ndjson), path, "p", {"Talk": 1}))
    batches = read("events", path, {"Talk": 1})
    whole = fed_of(expected)
    assert whole.events.events == [event for batch in batches for event in batch.events.events]


def test_batches_depend_on_the_bytes_alone(tmp_path: Path, ndjson: bytes) -> None:
    """Boundaries are the same for a slow reader, a fast one, and another container."""
    plain = read("events", write(tmp_path, ndjson))
    packed = read("events", write(tmp_path, gzip.compress(ndjson)))
    slow = []
    with Feed("events", write(tmp_path, ndjson), "p", seed=SEED) as feed:
        for batch in feed:
            os.sched_yield()
            slow.append(batch)
    assert [1024, 476] == list(map(size, plain))
    assert plain == packed == slow


def test_batches_are_closed_by_size(tmp_path: Path) -> None:
    """A batch ends with the event that brings it to 16 MiB."""
    batches = read("history", write(tmp_path, many_revisions(40, size=1 << 20)))
    assert [17, 16, 8] == list(map(size, batches))


@pytest.mark.parametrize("kind", ["history", "events"])
def test_largest_event(kind: Kind, tmp_path: Path) -> None:
    """An event of the largest text, four bytes a character, in a window of 128 MiB, fits into the memory."""
    text = "😀" * (MAX_EVENT_BYTES // 4)
    data = page(revision(1, text=f"<text>{text}</text>")).encode() if kind == "history" else wide_line()
    # What stands before fills the window; what stands behind keeps the child alive until it is measured.
    data = b" " * (140 << 20) + data + b" " * (140 << 20)
    if kind == "history":
        data = b"<mediawiki>" + data + b"</mediawiki>"
    path = write(tmp_path, zstd.compress(data, options={zstd.CompressionParameter.window_log: 27}))
    sizes, peak = [], 0
    with Feed(kind, path, "p") as feed:
        for batch in feed:
            peak = max(peak, peak_kib(feed.pids[0]))
            sizes += [len(event.texts[0].text) for event in batch.events.events]
    assert [size for size in sizes if size > MAX_EVENT_BYTES - 2048] == sizes
    assert 1 == len(sizes)
    assert 128 * 1024 < peak < MEMORY_KIB


def wide_line() -> bytes:
    text = "😀" * (MAX_EVENT_BYTES // 4 - 256)
    slot = {"role": "main", "model": "m", "format": "f", "text": text}
    edit = {"revId": 1, "title": "A", "slots": [slot]}
    value: dict[str, Any] = {"project": "p", "pageId": 1, "time": "2001-01-01T00:00:00Z", "sourceId": "s"}
    return b"\n" + json.dumps({**value, "edit": edit}, ensure_ascii=False).encode() + b"\n"


def test_progress(tmp_path: Path) -> None:
    """Progress counts the bytes of the file as stored, never falls, and ends at the size of the file."""
    path = write(tmp_path, gzip.compress(many_revisions(5000, size=1000)))
    with Feed("history", path, "p") as feed:
        seen = [feed.progress for _ in feed]
        seen.append(feed.progress)
    assert sorted(seen, key=lambda progress: progress.done) == seen
    assert Progress(path.stat().st_size, path.stat().st_size) == seen[-1]


# --- faults -------------------------------------------------------------------------------------


def test_error_of_the_parser_comes_after_the_items(tmp_path: Path) -> None:
    """What was complete is handed out first; then the same named error is raised here, with its hint."""
    path = write(tmp_path, many_revisions(600)[:-100])
    with Feed("history", path, "p") as feed:
        seen, fault = until_fault(feed)
    assert 600 == seen + 1
    assert SourceTruncatedError is type(fault)
    assert (str(path), "Apple") == (fault.metadata["path"], fault.metadata["page"])
    assert fault.hint


@pytest.mark.parametrize(
    "data,error",
    [
        (b"", SourceTruncatedError),
        (b"<html/>", SourceFormatError),
        (b"PK\x03\x04zip", SourceFormatError),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><mediawiki>&b;</mediawiki>', SourceFormatError),
        (b"<mediawiki>" + b"<a>" * 1000, SourceLimitError),
        (b"<mediawiki>&nbsp;</mediawiki>", SourceCorruptError),
        (gzip.compress(b"<mediawiki></mediawiki>", mtime=0)[:-9], SourceTruncatedError),
    ],
)
def test_class_of_an_error_survives(data: bytes, error: type[SourceError], tmp_path: Path) -> None:
    """The error that is raised is of the class that the parser raised."""
    with Feed("history", write(tmp_path, data), "p") as feed:
        _, fault = until_fault(feed)
    assert error is type(fault)


def test_a_document_of_the_largest_size(tmp_path: Path) -> None:
    """It is read in the memory that a parser may have; one that needs more of it is named."""
    article = {"date_modified": "2025-01-02", "article_body": {"wikitext": "\u043b" * 1_550_000}}
    articles = [
        article | {"name": str(number), "identifier": number, "version": {"identifier": number}}
        for number in range(1, 11)
    ]
    document = json.dumps(articles, ensure_ascii=False).encode()
    assert MAX_DOCUMENT_BYTES - 2**22 < len(document) <= MAX_DOCUMENT_BYTES
    batches = read("enterprise", write(tmp_path, document))
    assert sum(len(batch.events.events) for batch in batches) == len(articles)
    with pytest.raises(SourceLimitError):
        read("enterprise", write(tmp_path, b"[" + b"{}," * 5_000_000 + b"{}]"))


def test_path_that_is_not_utf8(tmp_path: Path) -> None:
    """A file name of any bytes can be read, and named in an error."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.xml"))
    path.write_bytes(many_revisions(1))
    assert 2 == size(read("history", path)[0])
    path.write_bytes(b"<html/>")
    with Feed("history", path, "p") as feed:
        _, fault = until_fault(feed)
    assert "\\udcff.xml" in fault.message


@pytest.mark.parametrize(
    "number,error", [(signal.SIGKILL, SourceLimitError), (signal.SIGSEGV, SourceCorruptError)]
)
def test_child_that_is_killed(number: signal.Signals, error: type[SourceError], tmp_path: Path) -> None:
    """A child that dies of a signal is a named error with the signal's name, and no end of the input."""
    with Feed("history", write(tmp_path, many_revisions(50_000, size=1000)), "p") as feed:
        os.kill(feed.pids[0], number)
        _, fault = until_fault(feed)
    assert error is type(fault)
    assert number.name == fault.metadata["signal"]


def child_of(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_BOOTSTRAP", f"import os, sys; {code}")


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "sys.exit(3)",
        "raise ValueError('boom')",
        "os.write(1, b'B')",
        r"os.write(1, b'B' + b'\xff' * 8)",
        r"os.write(1, b'B\x02\0\0\0\0\0\0\0{}')",
        r"os.write(1, b'P\x02\0\0\0\0\0\0\0{}')",
        r"os.write(1, b'E\x02\0\0\0\0\0\0\0[]')",
        r"os.write(1, b'E\x02\0\0\0\0\0\0\0{}')",
        r"os.write(1, b'X\0\0\0\0\0\0\0\0')",
    ],
)
def test_child_that_makes_no_sense(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a child writes, the worst is a named error."""
    child_of(code, monkeypatch)
    with Feed("history", write(tmp_path, b"<mediawiki/>"), "p") as feed:
        _, fault = until_fault(feed)
    assert SourceCorruptError is type(fault)


def test_last_words_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of a child's traceback is in the error, without control characters."""
    child_of(r"raise ValueError('boom\x1b[31m')", monkeypatch)
    with Feed("history", write(tmp_path, b"<mediawiki/>"), "p") as feed:
        _, fault = until_fault(feed)
    assert "ValueError: boom[31m" in fault.message


def test_out_of_memory(tmp_path: Path) -> None:
    """A child that needs more memory than it may have is a named limit, not a crash."""
    # A parser keeps each name that it meets, so that it is stored once; these are all different.
    names = (b"<n%d%s/>" % (number, b"x" * 100_000) for number in range(4000))
    path = write(tmp_path, zstd.compress(b"<mediawiki>" + b"".join(names), 1))
    with Feed("history", path, "p") as feed:
        _, fault = until_fault(feed)
    assert SourceLimitError is type(fault)
    assert "more memory" in fault.message


def test_leaving_early_ends_the_child(tmp_path: Path) -> None:
    """Leaving the with block in the middle ends the child at once."""
    with Feed("history", write(tmp_path, many_revisions(50_000, size=1000)), "p") as feed:
        next(iter(feed))
        pid = feed.pids[0]
    assert not Path(f"/proc/{pid}").exists()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain dump of 60 MB and four runs, with bad records, and one text in all pages."""
    body = "".join(
        "\n"
        + page(
            "\n".join(
                revision(
                    "x" if at == 7 and number % 50 == 1 else number * 100 + at, text=f"<text>{text}</text>"
                )
                for at, text in enumerate(["", *(f"{number} {at} {'word ' * 2000}" for at in range(19))])
            ),
            head=f"<title>Page {number}</title><ns>0</ns><id>{number}</id>",
        )
        for number in range(1, 301)
    )
    return write(tmp_path_factory.mktemp("pages"), dump(body), "pages.xml")


def test_batches_do_not_depend_on_the_number_of_children(pages: Path) -> None:
    """Several children give the batches that one gives, but for the blocks."""
    with ExitStack() as stack:
        feeds = [
            stack.enter_context(Feed("history", pages, "p", seed=SEED, workers=workers))
            for workers in (1, 2, 3)
        ]
        assert [1, 2, 3] == [len(feed.pids) for feed in feeds]
        count = 0
        for expected, *others in zip(*feeds, strict=True):
            for fed in others:
                assert expected.remarks == fed.remarks
                assert expected.events.events == fed.events.events
                assert expected.events.packed == fed.events.packed
            count += len(expected.events.events)
        assert 1 == len({feed.progress for feed in feeds})
    assert 6000 - 6 == count


def test_what_is_slow_to_decode_or_small_has_one_child(tmp_path: Path, pages: Path) -> None:
    """Every child decodes the whole file, which is worth it for gz and zst alone."""
    data = pages.read_bytes()
    for name, content, expected in (
        ("a.bz2", bz2.compress(os.urandom(1 << 21), 1), 1),
        ("a.gz", gzip.compress(data, 1), 1),
        ("b.gz", gzip.compress(os.urandom(1 << 21)), 3),
        ("a.xml", data, 3),
    ):
        with Feed("history", write(tmp_path, content, name), "p", workers=3) as feed:
            assert expected == len(feed.pids), name
    with Feed("log", pages, "p", workers=3) as feed:
        assert 1 == len(feed.pids)


def test_error_in_a_run_comes_in_its_turn(tmp_path: Path, pages: Path) -> None:
    """What stands before a fault is handed out; where it is is told the same for any number of children."""
    data = pages.read_bytes()
    middle = data.index(b"</revision>", len(data) // 2)
    told = []
    for name, content in (("odd.xml", data[:middle] + b"</odd>" + data[middle:]), ("cut.xml", data[:middle])):
        path = write(tmp_path, content, name)
        for workers in (1, 3):
            with Feed("history", path, "p", workers=workers) as feed:
                seen, fault = until_fault(feed)
            told.append((seen, fault.message, fault.metadata))
    assert told[0] == told[1]
    assert told[2] == told[3]
    assert told[0][1] != told[2][1]
    line = data[:middle].count(b"\n") + 1
    assert f"line {line:,}, byte {middle + 2:,}" in told[0][1]


def test_a_feed_that_was_not_started(pages: Path) -> None:
    """Outside of a with block there is nothing to read from, which is not an empty file."""
    with pytest.raises(RuntimeError, match="with block"):
        next(iter(Feed("history", pages, "p")))


PARENT = """
import os, sys
from pathlib import Path
from recension.archive.intake.feed import Feed
feed = Feed("history", Path(sys.argv[1]), "p", workers=3).__enter__()
next(iter(feed))
print(*feed.pids, flush=True)
os._exit(0)
"""


def test_children_do_not_outlive_their_parent(pages: Path) -> None:
    """A child whose parent is gone ends at its next write."""
    done = subprocess.run([sys.executable, "-c", PARENT, pages], capture_output=True, check=True, text=True)
    pids = done.stdout.split()
    assert 3 == len(pids)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            child = os.pidfd_open(int(pid))
            ended, _, _ = select.select([child], [], [], 20)
            os.close(child)
            assert [child] == ended


def test_a_child_loads_no_numpy() -> None:
    """It would start in twice the time, for nothing."""
    script = "import sys, recension.archive.intake.child; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_child_is_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child gets no secrets of our environment, no standard input, and its limits are set."""
    monkeypatch.setenv("RECENSION_SECRET", "x")
    with Feed("history", write(tmp_path, many_revisions(50_000, size=1000)), "p") as feed:
        next(iter(feed))
        environment = Path(f"/proc/{feed.pids[0]}/environ").read_bytes()
        limits = (
            resource.prlimit(feed.pids[0], resource.RLIMIT_AS),
            resource.prlimit(feed.pids[0], resource.RLIMIT_CORE),
        )
        stdin = Path(f"/proc/{feed.pids[0]}/fd/0").readlink()
    assert b"RECENSION_SECRET" not in environment
    assert ("/dev/null", (0, 0)) == (str(stdin), limits[1])
    assert 0 < limits[0][0] < 1 << 40


# --- size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("revisions", [30_000, pytest.param(100_000, marks=pytest.mark.torture)])
def test_page_of_many_revisions(revisions: int, tmp_path: Path) -> None:
    """A page of many revisions is read in little memory, however slowly it is taken: some 130 MiB."""
    path = write(tmp_path, zstd.compress(many_revisions(revisions, size=3000), 1))
    count, peak = 0, 0
    with Feed("history", path, "p") as feed:
        for batch in feed:
            count += len(batch.events.events)
            peak = max(peak, peak_kib(feed.pids[0]))
    assert revisions == count
    assert 0 < peak < 160 * 1024


_END = b"</page>"


@pytest.mark.parametrize(
    "most_bytes,count", [(100 << 20, 6_567), pytest.param(1 << 40, 16_235, marks=pytest.mark.torture)]
)
def test_memory_on_a_large_7z(most_bytes: int, count: int, tmp_path: Path) -> None:
    """A history in a 7z archive with a dictionary of 64 MiB is read by a child of less than 400 MiB."""
    xml = bytearray()
    with open_container(shared("peps/peps-pages-meta-history.xml.zst")) as container:
        while len(xml) < most_bytes and (data := container.read(1 << 20)):
            xml += data
    del xml[xml.rindex(_END) + len(_END) :]
    xml += b"</mediawiki>"
    path = tmp_path / "peps.xml.7z"
    filters = [{"id": py7zr.FILTER_LZMA2, "preset": 0, "dict_size": 64 << 20}]
    with py7zr.SevenZipFile(path, "w", filters=filters) as archive:
        archive.writestr(bytes(xml), "peps.xml")
    seen, peak = 0, 0
    with Feed("history", path, "peps") as feed:
        for batch in feed:
            seen += len(batch.events.events)
            peak = max(peak, peak_kib(feed.pids[0]))
    assert count == seen
    assert 64 * 1024 < peak < MEMORY_KIB


@pytest.mark.parametrize(
    "name,count", [("peps-events.ndjson.zst", 18_662), ("peps-pages-meta-history.xml.zst", 16_235)]
)
def test_memory_on_peps(name: str, count: int) -> None:
    """All of 334 MB of text is read, and the child that parses it takes less than 400 MiB."""
    path = shared(f"peps/{name}")
    kind: Kind = "events" if "ndjson" in name else "history"
    number, peak = 0, 0
    with Feed(kind, path, "peps") as feed:
        for batch in feed:
            assert not any(isinstance(remark, Rejected) for remark in batch.remarks)
            number += len(batch.events.events)
            peak = max(peak, peak_kib(feed.pids[0]))
    assert count == number
    assert peak < MEMORY_KIB


def test_first_item_of_a_dump_is_its_head() -> None:
    """The head of the peps dump comes before its first revision."""
    with Feed("history", shared("peps/peps-pages-meta-history.xml.zst"), "peps") as feed:
        first = next(iter(feed)).remarks[0]
    assert (
        SiteInfo("peps", "peps", "https://peps.example.org/wiki/Main_Page", "case-sensitive", {0: ""})
        == first
    )
