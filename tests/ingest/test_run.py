from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.marks import mark_at, newest, sources
from recension.archive.reader import Archive
from recension.model.errors import ProjectNotFoundError, SourceError
from recension.model.event import Edit, Event
from recension.model.instant import parse_instant
from recension.model.mark import Mark, Origin, Span
from recension.model.reading import ProjectInfo, Provenance
from recension.server import ingest as module
from recension.server import origins, sample_project
from recension.server.ingest import Form, run_ingest
from recension.server.main import main
from recension.server.origins import Numbered, told_from_others
from recension.server.sample_project import ingest_sample, lacks_sample
from recension.store.memory import MemoryStore
from tests.sources.helpers import dump, file_items, logitem, page, revision, shared
from tests.sources.test_enterprise import record, tar

HISTORY = "wikimedia/aawiki-20260101/aawiki-20260101-pages-meta-history.xml.7z"
CURRENT = "wikimedia/aawiki-20260101/aawiki-20260101-pages-meta-current.xml.bz2"
SAMPLE = Path(module.__file__).parent / "sample/aawiki-20260101-pages-meta-history.xml.7z"
GOOD = {
    "project": "p",
    "pageId": "7",
    "time": "2001-01-15T13:15:00Z",
    "sourceId": "a",
    "edit": {
        "revId": "1",
        "title": "Apple",
        "slots": [{"role": "main", "presence": "PRESENCE_PRESENT", "text": "SGVsbG8="}],
    },
}

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    Ingestor(made).create_project(ProjectInfo("p", "https://t.example", "en", "CC0-1.0"))
    return made


@pytest.fixture
def run(store: MemoryStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def go(kind: Form, *paths: Path, allow_rejected: bool = False) -> tuple[int, dict[str, Any]]:
        status = run_ingest(
            store,
            kind,
            "p",
            paths,
            data=tmp_path,
            allow_rejected=allow_rejected,
            json_output=True,
            quiet=True,
        )
        return status, json.loads(capsys.readouterr().out)

    return go


def kept(data: Path) -> list[dict[str, Any]]:
    files = (data / "quarantine/p").glob("*.ndjson")
    return [json.loads(line) for path in files for line in path.read_bytes().splitlines()]


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_the_sample_gives_what_its_readme_states(store: MemoryStore, run: Run) -> None:
    """All 507 pages and 1,307 revisions arrive; each SHA-1 claim holds, 202 byte counts do not."""
    status, summary = run("dump", SAMPLE)
    info = Archive(store).project("p")
    assert (0, 507, 1307) == (status, info.pages, info.revisions)
    assert (1307, 0, {}) == (summary["accepted"], summary["known"], summary["rejected"])
    assert (1307, True) == (summary["revisions"], summary["revisions_per_second"] > 0)
    claims = summary["claims"]
    empty = 19  # their claim holds too; the other 1,288 are the texts that the README counts
    assert (1288 + empty, 202) == (claims["exact"], claims["bytes_mismatch"])
    assert 0 == claims.get("mismatch", 0) + claims.get("exact_after_crlf", 0)


def test_the_second_ingest_changes_nothing(store: MemoryStore, run: Run) -> None:
    """The same file again is known to the last event and the head stays where it was."""
    _, first = run("dump", SAMPLE)
    head = store.log.head()
    status, again = run("dump", SAMPLE)
    assert (0, 0, 1307) == (status, again["accepted"], again["known"])
    assert head == store.log.head()
    assert (first["position"], first["head"]) == (again["position"], again["head"])


def test_each_commit_says_which_events_of_which_file_it_has(store: MemoryStore, run: Run) -> None:
    """Spans follow one another from the first event to the last; the end says what file it was."""
    _, summary = run("dump", SAMPLE)
    marks = [mark_at(store, at) for at in range(1, store.log.head().position + 1)]
    *spans, whole = [mark for mark in marks if mark is not None]
    assert [("dump", SAMPLE.name, None)] * len(spans) == [(one.form, one.source, one.origin) for one in spans]
    ends = [one.span.stop for one in spans if one.span is not None]
    assert [0, *ends[:-1]] == [one.span.start for one in spans if one.span is not None]
    digest = hashlib.sha256(SAMPLE.read_bytes()).digest()
    assert (Span(0, ends[-1]), Origin(SAMPLE.stat().st_size, digest)) == (whole.span, whole.origin)
    assert 1307 == ends[-1] == summary["events"]
    assert Archive(store).project("p").last_event_at == whole.upstream_at


def test_a_file_that_cannot_be_read_to_its_end_has_no_end(
    store: MemoryStore, run: Run, tmp_path: Path
) -> None:
    """What came before the fault says where it came from, and nothing says which file that was."""
    path = write(tmp_path, "cut.xml", dump(page(revision(1)) + page(revision(2)))[:-5])
    status, summary = run("dump", path)
    assert (3, 2) == (status, summary["accepted"])
    file = told_from_others(path)
    assert Mark("dump", path.name, Span(0, 2), file=file) == newest(store, "p", path.name, file)


def read_two_of_one_name(store: MemoryStore, run: Run, folder: Path, other: str) -> tuple[Provenance, bytes]:
    """Read ``a.xml``, which is cut, then a whole one at ``other`` in ``folder``.

    Return where the first one's revision is said to be from, and the digest of the second.
    """
    assert 3 == run("dump", write(folder, "a.xml", dump(page(revision(1)))[:-5]))[0]
    (folder / "other").mkdir()
    whole = folder / other
    whole.write_bytes(dump(page(revision(2))))
    assert 0 == run("dump", whole)[0]
    archive, digest = Archive(store), hashlib.sha256(whole.read_bytes()).digest()
    second = archive.provenance("p", 2)
    assert ("a.xml", digest) == (second.source, second.digest)
    return archive.provenance("p", 1), digest


@pytest.mark.parametrize("other", ["a.xml", "other/a.xml"])
def test_another_file_of_its_name_is_not_taken_for_one_that_was_never_read_to_its_end(
    store: MemoryStore, run: Run, tmp_path: Path, other: str
) -> None:
    """Nobody knows what the first was: the digest is of the second's revisions alone, wherever it lies."""
    first, _ = read_two_of_one_name(store, run, tmp_path, other)
    assert ("a.xml", b"", 0) == (first.source, first.digest, first.size_bytes)
    assert ["a.xml"] == [mark.source for _, mark in sources(store, "p")]


def test_by_its_name_alone_it_would_be(
    store: MemoryStore, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: were all files known by the same bytes, the second would stand for both."""
    monkeypatch.setattr(origins, "told_from_others", lambda _: bytes(8))
    first, digest = read_two_of_one_name(store, run, tmp_path, "a.xml")
    assert digest == first.digest


def test_a_file_that_was_cut_and_is_read_again_is_known_by_its_digest(
    store: MemoryStore, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes are the same file, wherever they lie: what an ended run took from it is covered too."""
    path = write(tmp_path, "a.xml", dump(page(revision(1)) + page(revision(2))))

    def end(self: Numbered, origin: Origin) -> Mark:
        raise SourceError("it was ended", hint="")

    with monkeypatch.context() as patch:
        patch.setattr(Numbered, "whole", end)
        assert 3 == run("dump", path)[0]
    archive = Archive(store)
    assert b"" == archive.provenance("p", 1).digest
    (tmp_path / "moved").mkdir()
    moved = path.rename(tmp_path / "moved" / path.name)
    assert (0, 0) == (run("dump", moved)[0], run("dump", moved)[1]["accepted"])
    assert hashlib.sha256(moved.read_bytes()).digest() == archive.provenance("p", 1).digest


def test_files_are_told_from_others_by_their_size_and_their_ends(tmp_path: Path) -> None:
    """Where both ends are the same, as of an empty file and of itself, so is what it is known by."""
    whole = bytes(range(256)) * 12_000
    known = hashlib.sha256((len(whole)).to_bytes(8, "big") + whole[: 2**20] + whole[-(2**20) :]).digest()[:8]
    assert known == told_from_others(write(tmp_path, "a", whole))
    inside = bytearray(whole)
    inside[len(whole) // 2] ^= 1
    assert known == told_from_others(write(tmp_path, "b", bytes(inside)))
    for changed in (0, 2**20 - 1, len(whole) - 2**20, len(whole) - 1):
        other = bytearray(whole)
        other[changed] ^= 1
        assert known != told_from_others(write(tmp_path, "b", bytes(other)))
    assert known != told_from_others(write(tmp_path, "b", whole[: 2**20] + whole[-(2**20) :]))
    small = hashlib.sha256((2).to_bytes(8, "big") + b"ab" + b"ab").digest()[:8]
    assert small == told_from_others(write(tmp_path, "b", b"ab"))
    assert hashlib.sha256(bytes(8)).digest()[:8] == told_from_others(write(tmp_path, "b", b""))


def test_a_file_that_changes_under_its_parser_is_a_fault(
    store: MemoryStore, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows which bytes were parsed: that is told, and no mark says what the file was.

    Nor does it once the other one is read, but when the first one is.
    """
    before = dump(page(revision(1)))
    path = write(tmp_path, "a.xml", before)
    file = told_from_others(path)
    whole = Numbered.mark

    def change(self: Numbered, events: Any) -> Mark:
        path.write_bytes(path.read_bytes() + b"\n")
        return whole(self, events)

    monkeypatch.setattr(Numbered, "mark", change)
    status, summary = run("dump", path)
    assert (3, ["SOURCE_CORRUPT"]) == (status, [fault["reason"] for fault in summary["faults"]])
    found = newest(store, "p", path.name, file)
    assert found is not None
    assert found.origin is None
    monkeypatch.undo()
    assert 0 == run("dump", path)[0]
    assert (None, found) == tuple(
        newest(store, "p", path.name, one) for one in (told_from_others(path), file)
    )
    path.write_bytes(before)
    assert 0 == run("dump", path)[0]
    found = newest(store, "p", path.name, file)
    assert found is not None
    assert found.origin == Origin(len(before), hashlib.sha256(before).digest())


def test_the_newest_revisions_are_those_of_the_current_dump(store: MemoryStore, run: Run) -> None:
    """History and current dump of one run agree: last revision, title and text of every page."""
    current = shared(CURRENT)
    run("dump", SAMPLE)
    archive, pages = Archive(store), 0
    for event in file_items("history", current, "p"):
        if not isinstance(event, Event):
            continue
        assert isinstance(event.what, Edit)
        found = archive.article("p", event.page_id).revision
        slot = found.slot()
        assert slot is not None
        assert (event.what.rev_id, event.what.title) == (found.rev_id, found.title)
        assert event.what.slots[0].text == slot.text
        pages += 1
    assert 507 == pages


def test_the_bundled_sample_is_the_real_dump() -> None:
    """The file in the package is the shared one to the byte."""
    expected = hashlib.sha256(shared(HISTORY).read_bytes()).digest()
    assert expected == hashlib.sha256(SAMPLE.read_bytes()).digest()


def test_ingest_sample_needs_only_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sample makes its own project, and again changes nothing; each time it says one line."""
    store = MemoryStore()
    assert lacks_sample(store)
    ingest_sample(store, tmp_path)
    head = store.log.head()
    ingest_sample(store, tmp_path)
    info = Archive(store).project("aawiki")
    assert ("CC-BY-SA-4.0", "aa", 1307) == (info.license, info.language, info.revisions)
    assert (head, False) == (store.log.head(), lacks_sample(store))
    captured = capsys.readouterr()
    said = [json.loads(line) for line in captured.err.splitlines()]
    assert [("sample_ingested", 1307), ("sample_ingested", 0)] == [
        (line["event"], line["revisions"]) for line in said
    ]
    assert not captured.out


def test_a_sample_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    """A part of the sample alone is completed; beside another project it is left as it is."""
    store = MemoryStore()
    ingestor = Ingestor(store)
    ingestor.create_project(sample_project._SAMPLE_PROJECT)
    assert lacks_sample(store)
    ingest_sample(store, tmp_path)
    assert 1307 == Archive(store).project("aawiki").revisions
    other = MemoryStore()
    Ingestor(other).create_project(ProjectInfo("aawiki", "https://t.example", "aa", "CC0-1.0"))
    assert not lacks_sample(other)


def test_a_damaged_sample_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample that cannot be read, or is another file, stops with what to do."""
    folder = tmp_path / "package/sample"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sample_project, "files", lambda _: tmp_path / "package")
    for content in (SAMPLE.read_bytes()[:-1000], dump(page(revision()))):
        write(folder, SAMPLE.name, content)
        with pytest.raises(SourceError, match="bundled sample") as caught:
            ingest_sample(MemoryStore(), tmp_path)
        assert "install" in caught.value.hint


def test_a_person_sees_bytes_revisions_and_the_time_left(tmp_path: Path) -> None:
    """On a terminal a bar shows bytes done of all, revisions a second and the remaining time."""
    command = Path(sys.executable).with_name("recension-server")
    definition = ("--base-url", "https://t.example", "--language", "en", "--license", "CC0-1.0")
    subprocess.run([command, "project", "create", "p", *definition, "--data", tmp_path / "d"], check=True)
    terminal, end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "NO_COLOR": "1"}
    arguments: list[str | Path] = [command, "ingest", "dump", "p", SAMPLE, "--data", tmp_path / "d"]
    with subprocess.Popen(arguments, stderr=end, env=environment) as process:
        os.close(end)
        shown = bytearray()
        try:
            while chunk := os.read(terminal, 65_536):
                shown += chunk
        except OSError:  # how a terminal without a writer ends
            os.close(terminal)
    assert 0 == process.returncode
    assert re.search(rb"195.0/195.0 KiB *[0-9,]+ revisions/s *0:00:00", shown)


def test_what_is_complete_in_a_truncated_file_stays(store: MemoryStore, run: Run, tmp_path: Path) -> None:
    """A cut file ends with status 3 and a named fault; its pages and the other files are there."""
    whole = dump("".join(page(revision(n), head=_head(n)) for n in range(1, 40)))
    cut = write(tmp_path, "cut.xml", whole[:-600])
    other = write(tmp_path, "other.xml.bz2", bz2.compress(dump(page(revision(900), head=_head(900)))))
    status, summary = run("dump", cut, other)
    assert 3 == status
    assert ["SOURCE_TRUNCATED"] == [fault["reason"] for fault in summary["faults"]]
    assert "cut.xml" in summary["faults"][0]["message"]
    held = Archive(store).project("p").revisions
    assert 30 < held < 40
    assert 900 == Archive(store).revision("p", 900).revision.rev_id
    mended = write(tmp_path, "cut.xml", whole)
    assert (0, 40) == (run("dump", mended)[0], Archive(store).project("p").revisions)


def test_a_missing_file_does_not_stop_the_others(store: MemoryStore, run: Run, tmp_path: Path) -> None:
    """A file that is not there is a fault of its own."""
    other = write(tmp_path, "other.xml", dump(page(revision())))
    status, summary = run("dump", tmp_path / "absent.xml", other)
    assert (3, 1, 1) == (status, len(summary["faults"]), summary["accepted"])


def test_rejected_lines_are_kept_and_decide_the_status(run: Run, tmp_path: Path) -> None:
    """Bad lines give status 1, or 0 when allowed, and the same quarantine each time."""
    good = json.dumps(GOOD).encode()
    path = write(tmp_path, "in.ndjson", good + b"\n{oops\n[]\n")
    status, summary = run("events", path)
    assert (1, 1, 2) == (status, summary["accepted"], sum(summary["rejected"].values()))
    first = kept(tmp_path)
    assert sorted(summary["rejected"]) == sorted({line["reason"] for line in first})
    assert (0, 1) == ((again := run("events", path, allow_rejected=True))[0], again[1]["known"])
    assert first == kept(tmp_path)


def test_an_event_that_the_archive_refuses_is_kept(store: MemoryStore, run: Run, tmp_path: Path) -> None:
    """A revision that comes again with another text is a conflict, not a change."""
    run("dump", write(tmp_path, "a.xml", dump(page(revision()))))
    head = store.log.head()
    other = revision(text='<text bytes="5">Jello</text>')
    status, summary = run("dump", write(tmp_path, "b.xml", dump(page(other))))
    assert (1, {"REVISION_CONFLICT": 1}) == (status, summary["rejected"])
    (line,) = kept(tmp_path)
    assert ("REVISION_CONFLICT", "page 7, edit 1") == (line["reason"], line["position"])
    excerpt = json.loads(base64.b64decode(line["excerpt_base64"]))
    assert (7, ["Apple"], 1) == (excerpt["pageId"], excerpt["titles"], excerpt["revId"])
    assert head == store.log.head()


def test_a_refused_event_is_kept_without_what_upstream_can_hide(run: Run, tmp_path: Path) -> None:
    """Text, comment and contributor stay out of the quarantine: they may be hidden by now."""
    run("events", write(tmp_path, "a.ndjson", json.dumps(GOOD).encode()))
    body = {
        **GOOD["edit"],  # type: ignore[dict-item]
        "comment": "secret comment",
        "contributor": {"name": "Secret Name", "id": "9"},
        "slots": [{"role": "main", "text": "secret text"}],
    }
    bad = {**GOOD, "sourceId": "b", "edit": body}
    gone = {"project": "p", "pageId": "99", "time": GOOD["time"], "sourceId": "c"}
    gone["delete"] = {"title": "A", "comment": "secret", "contributor": {"name": "Secret"}}
    path = write(tmp_path, "b.ndjson", b"".join(json.dumps(line).encode() + b"\n" for line in (bad, gone)))
    status, summary = run("events", path)
    assert (1, {"REVISION_CONFLICT": 1, "PAGE_NOT_FOUND": 1}) == (status, summary["rejected"])
    assert str(tmp_path / "quarantine/p") == summary["quarantine"]
    for line in kept(tmp_path):
        excerpt = base64.b64decode(line["excerpt_base64"])
        assert b"ecret" not in excerpt + json.dumps(line).encode()
        assert json.loads(excerpt)["pageId"] in (7, 99)


def test_an_element_that_is_passed_over_is_named_as_one(run: Run) -> None:
    """What is around an unknown element is stored, and the report tells elements from kinds of records."""
    status, summary = run("dump", shared("wikimedia/wikidata-toolkit/mock-dump-with-bugs.xml"))
    assert (0, 6, {"<unexpected>": 1}) == (status, summary["accepted"], summary["skipped"])


def test_an_unknown_project_is_named(tmp_path: Path) -> None:
    """Without the project no file is opened."""
    with pytest.raises(ProjectNotFoundError):
        run_ingest(MemoryStore(), "dump", "p", [tmp_path / "absent"], data=tmp_path)


def test_many_wrong_digests_are_a_warning(
    store: MemoryStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file whose SHA-1 claims fail is taken and pointed out."""
    claim = f"<sha1>{'1' * 31}</sha1>"
    path = write(
        tmp_path, "a.xml", dump(page(revision(rest="").replace("</revision>", claim + "</revision>")))
    )
    assert 0 == run_ingest(store, "dump", "p", [path], data=tmp_path, quiet=True)
    assert "warning" in capsys.readouterr().err


def test_markup_in_a_log_type_is_only_text(
    store: MemoryStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The summary shows an upstream name as it is, whatever the terminal library makes of brackets."""
    path = write(tmp_path, "log.xml", dump(logitem("x[/red]", "y")))
    assert 0 == run_ingest(store, "logging", "p", [path], data=tmp_path)
    assert "x[/red]/y" in capsys.readouterr().err


def test_progress_lines_leave_standard_output_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, store: MemoryStore, tmp_path: Path, capsys: Any
) -> None:
    """Standard output holds one JSON object, however long the ingest took."""
    monkeypatch.setattr(module, "_LINE_SECONDS", 0.0)
    run_ingest(store, "dump", "p", [SAMPLE], data=tmp_path, json_output=True)
    captured = capsys.readouterr()
    assert 1307 == json.loads(captured.out)["accepted"]
    assert "ingest_progress" in captured.err


def test_an_interrupt_says_how_to_go_on(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupt gives status 130, and a second run takes the rest."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ingestor, "append", interrupt)
        assert 130 == run_ingest(store, "dump", "p", [SAMPLE], data=tmp_path)
    assert "run it again" in capsys.readouterr().err
    assert 0 == run_ingest(store, "dump", "p", [SAMPLE], data=tmp_path, quiet=True)
    assert 1307 == Archive(store).project("p").revisions


@pytest.mark.parametrize("count", ["0", "-1", "two", ""])
def test_a_number_of_workers_that_is_none(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An ingest has at least one process that parses."""
    with pytest.raises(SystemExit) as left:
        main(["ingest", "dump", "p", "file", "--data", "data", f"--workers={count}"])
    assert 2 == left.value.code
    assert "not a number of processes" in capsys.readouterr().err


def _head(number: int) -> str:
    return f"<title>Page {number}</title><ns>0</ns><id>{number}</id>"


def test_what_a_record_states_of_its_licence_is_kept_beside_its_revision(
    store: MemoryStore, run: Run, tmp_path: Path
) -> None:
    """Of each revision the word of the record that brought it first; it changes nothing of what is served."""
    said = [("CC-BY-SA-3.0", 12), ("CC-BY-SA-4.0", 13), ("CC-BY-SA-3.0", 14), ("", 15)]
    records = [
        record(
            version={"identifier": rev},
            license=[{"identifier": license_}] if license_ else None,
            event={"identifier": f"u-{rev}", "type": "update", "date_created": "2024-05-05T00:00:00Z"},
        )
        for license_, rev in said
    ]
    batch = write(tmp_path, "batch.ndjson", b"\n".join(json.dumps(one).encode() for one in records))
    _, summary = run("enterprise", batch)
    assert {
        "CC-BY-SA-3.0 where the project has CC0-1.0": 2,
        "CC-BY-SA-4.0 where the project has CC0-1.0": 1,
    } == (summary["licenses"])
    archive, head = Archive(store), store.log.head()
    assert said == [(archive.provenance("p", rev).stated_license, rev) for _, rev in said]
    again = [one | {"license": [{"identifier": "GFDL-1.2-or-later"}]} for one in records]
    run("enterprise", write(tmp_path, "again.ndjson", b"\n".join(json.dumps(one).encode() for one in again)))
    assert head == store.log.head()
    newer = record(
        version={"identifier": 16}, license=[{"identifier": "CC-BY-SA-4.0"}], event=records[0]["event"]
    )
    run(
        "enterprise",
        write(tmp_path, "newer.ndjson", json.dumps(newer).encode() + b"\n" + json.dumps(again[0]).encode()),
    )
    assert said == [(archive.provenance("p", rev).stated_license, rev) for _, rev in said]
    newest = mark_at(store, archive.revision("p", 16).revision.position)
    assert newest is not None
    assert {"CC-BY-SA-4.0": (16,)} == newest.licenses


def test_an_enterprise_snapshot(store: MemoryStore, run: Run, tmp_path: Path) -> None:
    """A tar.gz of chunks, then an hour's batch with the two halves of a move; said again it is no news."""
    named = [record(identifier=at, name=f"Page {at}", namespace={}) for at in (1, 2)]
    for at, each in enumerate(named, 1):
        each["version"] = {"identifier": at}
    snapshot = write(
        tmp_path, "snapshot.tar.gz", gzip.compress(tar(*(json.dumps(one).encode() for one in named)))
    )
    assert (0, 2) == ((taken := run("enterprise", snapshot))[0], taken[1]["accepted"])
    event = {"identifier": "u-9", "type": "delete", "date_created": "2025-01-05T00:00:01Z"}
    moved = named[0] | {
        "name": "Moved",
        "version": {"identifier": 9},
        "date_modified": "2025-01-05T00:00:00Z",
        "event": event | {"type": "update", "identifier": "u-8"},
    }
    gone = named[0] | {"name": "Page_1", "version": {"identifier": 9}, "event": event, "article_body": None}
    batch = write(tmp_path, "batch.ndjson", "\n".join(map(json.dumps, (gone, moved, named[1]))).encode())
    status, summary = run("enterprise", batch)
    assert (0, 4, 1, {}) == (status, summary["accepted"], summary["known"], summary["rejected"])
    archive = Archive(store)
    assert ["Moved", "Page 2"] == [archive.article("p", at).revision.title for at in (1, 2)]
    assert archive.article("p", 1, valid_at=parse_instant("2025-01-03")).revision.title == "Page 1"
    position = archive.server_info().position
    status, summary = run("enterprise", batch, snapshot)
    assert (0, 0, position) == (status, summary["accepted"], archive.server_info().position)
