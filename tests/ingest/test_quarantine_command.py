"""What could not be taken: listed, shown, exported, taken again; and a run that too much of it stops."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.intake.frames import Fed
from recension.archive.marks import newest
from recension.archive.reader import Archive
from recension.model.errors import InvalidArgumentError, RevisionNotFoundError, StoreFailedError
from recension.model.mark import Mark
from recension.model.reading import ProjectInfo
from recension.server import quarantine as module
from recension.server.main import main
from recension.server.quarantine import Quarantine, StreamRecords, kept_files, read_kept
from recension.server.retrying import REREADS, retry
from recension.server.taking import Budget, Summary, take
from recension.sources import enterprise_stream
from recension.sources.items import MAX_NAMES, OTHERS, Item, Rejected, Skipped
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.sources.test_enterprise import record

Run = Callable[..., tuple[int, str, str]]
HOSTILE = "\x1b[31mred\x07\u202e"


def event(rev: int, **changes: Any) -> dict[str, Any]:
    slot = {"role": "main", "presence": "PRESENCE_PRESENT", "text": "SGVsbG8="}
    edit = {"revId": str(rev), "title": "Apple", "slots": [slot]}
    return {"project": "p", "pageId": "7", "time": "2001-01-15T13:15:00Z", "sourceId": f"e{rev}"} | {
        "edit": edit,
        **changes,
    }


def write(path: Path, *values: object) -> Path:
    lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    with closing(LmdbStore.open(folder, create=True, force_mount=True)) as store:
        Ingestor(store).create_project(ProjectInfo("p", "https://p.example", "en", "CC0-1.0"))
    return folder


@pytest.fixture
def run(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("RECENSION_UNSAFE_MOUNT", "1")

    def go(*arguments: str | Path) -> tuple[int, str, str]:
        status = main([*map(str, arguments), "--data", str(data)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return go


def edits(data: Path) -> list[int]:
    with closing(LmdbStore.open(data, force_mount=True)) as store:
        archive = Archive(store)
        found = []
        for rev in range(1, 10):
            with suppress(RevisionNotFoundError):
                found.append(archive.revision("p", rev).revision.rev_id)
        return found


@pytest.fixture
def bad(run: Run, tmp_path: Path) -> Path:
    """A file of one good record, two that cannot be read, and a delete of a page that is not known yet."""
    delete = {"title": "Pear"}
    lone = {"project": "p", "pageId": "9", "time": "2002-01-01T00:00:00Z", "sourceId": "d", "delete": delete}
    path = write(tmp_path / "bad.ndjson", event(1), f"not json {HOSTILE}", {"project": "p"}, lone)
    assert 1 == run("ingest", "events", "p", path, "--quiet")[0]
    return path


def test_what_is_there_is_listed_by_source_and_reason(run: Run, bad: Path) -> None:
    """As JSON and as a table; another project has none."""
    status, out, _ = run("quarantine", "list", "--json")
    (one,) = json.loads(out)
    assert (0, "p", "events", bad.name, str(bad), 3) == (
        status, one["project"], one["form"], one["source"], one["path"], one["records"],
    )  # fmt: skip
    assert {"INVALID_FIELD": 1, "INVALID_JSON": 1, "PAGE_NOT_FOUND": 1} == one["reasons"]
    _, out, _ = run("quarantine", "list", "p")
    assert one["id"] in out
    assert "PAGE_NOT_FOUND" in out
    assert (0, "nothing is in quarantine\n", "") == run("quarantine", "list", "q")
    for command in ("show", "retry"):
        assert (0, "", "nothing is in quarantine\n") == run("quarantine", command, "q")


def test_records_are_shown_without_steering_the_terminal(run: Run, bad: Path) -> None:
    """Position, reason and bytes; nothing in them is a control character, or turns the direction of text."""
    status, out, err = run("quarantine", "show", "p")
    assert (0, "") == (status, err)
    assert 9 == len(out.splitlines())
    assert "line 2, byte " in out
    assert "INVALID_JSON" in out
    assert "not json \\u001b[31mred" in out
    assert all(char.isprintable() for line in out.splitlines() for char in line)
    _, out, _ = run("quarantine", "show", "p", "--reason", "PAGE_NOT_FOUND", "--json")
    (line,) = out.splitlines()
    assert "page 9, delete d" == json.loads(line)["position"]
    _, out, err = run("quarantine", "show", "p", "--limit", "1")
    assert (3, True) == (len(out.splitlines()), "more than 1" in err)
    assert 3 == run("quarantine", "show", "p", "zz")[0]
    assert bad.name in out


def test_records_are_exported(run: Run, bad: Path, tmp_path: Path) -> None:
    """Each line says what it is of; as files they have the bytes as they came, for the owner alone."""
    _, out, _ = run("quarantine", "export", "p")
    assert 3 == len(out.splitlines())
    assert {bad.name} == {json.loads(line)["source"] for line in out.splitlines()}
    folder = tmp_path / "out"
    status, out, _ = run("quarantine", "export", "p", "--into", folder, "--reason", "INVALID_JSON")
    (line,) = out.splitlines()
    (file,) = folder.iterdir()
    assert (0, f"not json {HOSTILE}".encode()) == (status, file.read_bytes())
    assert (0o600, file.name) == (file.stat().st_mode & 0o777, json.loads(line)["file"])
    assert 3 == run("quarantine", "export", "p", "--into", folder)[0]


def test_what_cannot_be_is_named(run: Run, bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A project that leads elsewhere, a file in the place of a folder, a directory that is not there."""
    status, _, err = run("quarantine", "list", "../p")
    assert (3, True) == (status, "is not a project's name" in err)
    status, _, err = run("quarantine", "export", "p", "--into", bad)
    assert (3, True) == (status, "cannot be written" in err)
    assert 3 == main(["quarantine", "list", "--data", str(bad.with_name("nowhere"))])
    assert "there is no such directory" in capsys.readouterr().err


def test_a_retry_takes_what_can_be_taken_now(run: Run, data: Path, bad: Path, tmp_path: Path) -> None:
    """Once the page is known its delete is taken and leaves; the others stay, and nothing is taken twice."""
    page = event(5, pageId="9", time="2001-06-01T00:00:00Z")
    page["edit"]["title"] = "Pear"
    assert 0 == run("ingest", "events", "p", write(tmp_path / "page.ndjson", page), "--quiet")[0]
    status, out, _ = run("quarantine", "retry", "p", "--json", "--quiet")
    report = json.loads(out)
    assert (1, 1, 1) == (status, report["accepted"], report["known"])
    assert {"INVALID_FIELD": 1, "INVALID_JSON": 1} == report["rejected"]
    (file,) = kept_files(data, "p")
    assert ["INVALID_JSON", "INVALID_FIELD"] == [kept.reason for kept in read_kept(file)]
    before = file.read_bytes()
    _, out, _ = run("quarantine", "retry", "p", "--json", "--quiet")
    assert (0, before) == (json.loads(out)["accepted"], file.read_bytes())


def test_a_retry_after_the_parser_was_put_right_empties_it(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an older version refused is taken by the same parser and rules, and its file is gone."""
    path = write(tmp_path / "good.ndjson", event(1), event(2))
    with closing(LmdbStore.open(data, force_mount=True)):
        quarantine = Quarantine(data, "p")
        with quarantine.writing(path, "events") as kept:
            kept.add(Rejected("line 2, byte 10", "INVALID_EVENT", "by a version before", b"{"))
        assert 1 == len(kept_files(data, "p"))
    assert 0 == run("quarantine", "retry", "p", "--quiet")[0]
    assert ([], [1, 2]) == (kept_files(data, "p"), edits(data))


def test_a_retry_needs_the_very_file(run: Run, bad: Path, tmp_path: Path) -> None:
    """One that is gone or another one is named; where it is now can be said."""
    moved = bad.rename(tmp_path / "moved.ndjson")
    status, _, err = run("quarantine", "retry", "p", "--quiet")
    assert (3, True) == (status, "is not there" in err)
    write(bad, event(1))
    status, _, err = run("quarantine", "retry", "p", "--quiet")
    assert (3, True) == (status, "another file" in err)
    assert 1 == run("quarantine", "retry", "p", "--file", moved, "--quiet")[0]


# --- streams ----------------------------------------------------------------------------------------

STREAM = Mark(enterprise_stream.FORM, "https://upstream.example/v2/articles?project=p", offsets={"0": 7})


class Broken(MemoryStore):
    """A store that fails on one commit."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False

    def commit(self, *arguments: Any, **named: Any) -> Any:
        if self.fails:
            raise StoreFailedError("the disk is gone")
        return super().commit(*arguments, **named)


def followed(store: Store, folder: Path, *rejected: Rejected, mark: Mark = STREAM) -> None:
    """Do what a follower does with a batch in which nothing can be read."""
    kept = Quarantine(folder, "p").following(mark.source, mark.form)
    take(store, Ingestor(store), "p", Fed(list(rejected)), kept, Summary(), mark)


@pytest.fixture
def store() -> Broken:
    made = Broken()
    Ingestor(made).create_project(ProjectInfo("p", "https://p.example", "en", "CC0-1.0"))
    return made


def bytes_of(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()


def refused(record: bytes, number: int = 1) -> Rejected:
    return Rejected(
        f"partition 0, offset {number}", "INVALID_FIELD", "by a version before", record[:10], record
    )


def test_what_a_stream_lost_is_durable_before_the_stream_goes_on(store: Broken, tmp_path: Path) -> None:
    """A follower that is killed between the two finds the record in quarantine, once, when it comes again."""
    bad = refused(b"{}")
    store.fails = True
    with pytest.raises(StoreFailedError):
        followed(store, tmp_path, bad)
    (file,) = kept_files(tmp_path, "p")
    assert (1, None) == (len(list(read_kept(file))), newest(store, "p", STREAM.source))
    store.fails = False
    followed(store, tmp_path, bad)
    assert (1, STREAM) == (len(list(read_kept(file))), newest(store, "p", STREAM.source))
    followed(store, tmp_path, refused(b"[]", 2))
    assert [b"{}", b"[]"] == [kept.record for kept in read_kept(file)]


def test_without_that_a_killed_follower_would_lose_it(
    store: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: with the record written after the commit, the stream is behind it already."""
    monkeypatch.setattr(StreamRecords, "secure", lambda _: None)
    followed(store, tmp_path, refused(b"{}"))
    assert ([], STREAM) == (kept_files(tmp_path, "p"), newest(store, "p", STREAM.source))


def test_a_line_that_a_kill_cut_is_not_in_the_way(store: Broken, tmp_path: Path) -> None:
    """What was written of it is cut off before the next is appended."""
    followed(store, tmp_path, refused(b"{}"))
    (file,) = kept_files(tmp_path, "p")
    with file.open("ab") as half:
        half.write(file.read_bytes()[:20])
    assert 1 == len(list(read_kept(file)))
    followed(store, tmp_path, refused(b"[]", 2))
    assert [b"{}", b"[]"] == [kept.record for kept in read_kept(file)]


def test_records_of_a_stream_are_taken_again_from_the_quarantine(store: Broken, tmp_path: Path) -> None:
    """They were kept whole; where the stream goes on stays as it was; what is rejected has its new reason."""
    good = bytes_of(record())
    followed(store, tmp_path, refused(good, 1), refused(b"not json", 2), refused(b"{}", 3))
    (file,) = kept_files(tmp_path, "p")
    summary = retry(store, "p", file, data=tmp_path)
    assert summary.accepted
    assert {"INVALID_JSON": 1, "INVALID_FIELD": 1} == summary.rejected
    assert ["INVALID_JSON", "INVALID_FIELD"] == [kept.reason for kept in read_kept(file)]
    assert ["partition 0, offset 2", "partition 0, offset 3"] == [one.position for one in read_kept(file)]
    assert STREAM == newest(store, "p", STREAM.source)
    head = store.log.head()
    retry(store, "p", file, data=tmp_path)
    assert head == store.log.head()


def test_records_of_which_nobody_knows_how_they_are_read_stay(store: Broken, tmp_path: Path) -> None:
    """Of a stream of another kind: the retry is refused by name, and nothing changes."""
    followed(store, tmp_path, refused(b"{}"), mark=replace(STREAM, form="another-stream"))
    (file,) = kept_files(tmp_path, "p")
    before = file.read_bytes()
    with pytest.raises(InvalidArgumentError, match="cannot be taken again"):
        retry(store, "p", file, data=tmp_path)
    assert before == file.read_bytes()


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_retry_that_is_killed_loses_nothing_and_takes_nothing_twice(
    store: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """At any record: the quarantine is as it was, and the next retry ends as one that was not killed."""
    good = bytes_of(record())
    followed(store, tmp_path, refused(good, 1), refused(b"not json", 2), refused(b"{}", 3))
    (file,) = kept_files(tmp_path, "p")
    before = file.read_bytes()
    read = REREADS[enterprise_stream.FORM]
    seen = 0

    def killed(*arguments: Any) -> Iterator[Item]:
        nonlocal seen
        seen += 1
        if seen == at:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setitem(REREADS, enterprise_stream.FORM, killed)
    with pytest.raises(KeyboardInterrupt):
        retry(store, "p", file, data=tmp_path)
    assert before == file.read_bytes()
    assert [file] == sorted(file.parent.iterdir())
    monkeypatch.undo()
    summary = retry(store, "p", file, data=tmp_path)
    assert (at > 1, at == 1) == (summary.known > 0, summary.accepted > 0)
    assert ["INVALID_JSON", "INVALID_FIELD"] == [kept.reason for kept in read_kept(file)]
    assert 1 == Archive(store).project("p").revisions


# --- how much may be rejected -----------------------------------------------------------------------


@pytest.mark.parametrize("limit, stops", [("1", True), ("3", False), ("20%", True), ("80%", False)])
def test_a_run_is_stopped_once_more_is_rejected_than_is_allowed(
    run: Run, data: Path, tmp_path: Path, limit: str, *, stops: bool
) -> None:
    """With a named error and status 3; what was stored stays, what was rejected can be looked at."""
    path = write(tmp_path / "a.ndjson", event(1), "x", "y", event(2), event(3))
    other = write(tmp_path / "b.ndjson", event(4))
    status, out, err = run("ingest", "events", "p", path, other, "--max-rejected", limit, "--json", "--quiet")
    assert (3 if stops else 1, stops) == (status, "2 of 5 records were rejected" in err)
    assert [1, 2, 3, *([] if stops else [4])] == edits(data)
    assert stops == ("TOO_MANY_REJECTED" in {fault["reason"] for fault in json.loads(out)["faults"]})
    (file,) = kept_files(data, "p")
    assert 2 == len(list(read_kept(file)))


@pytest.mark.parametrize("text", ["", "x", "-1", "101%", "nan", "1.5", "inf%"])
def test_what_is_no_limit_is_refused(run: Run, text: str, tmp_path: Path) -> None:
    """Neither a number of records nor a share of them."""
    with pytest.raises(SystemExit):
        run("ingest", "events", "p", tmp_path, f"--max-rejected={text}")


def test_a_share_of_few_records_tells_nothing_yet() -> None:
    """It is looked at from a thousand records on, and at the end of a file."""
    few = Summary(accepted=1)
    few.rejected["X"] = 9
    Budget(percent=50).check(few)
    with pytest.raises(Exception, match="9 of 10"):
        Budget(percent=50).check(few, at_end=True)


def test_names_that_upstream_gives_are_counted_in_bounds(store: Broken, tmp_path: Path) -> None:
    """A hundred of them; what comes under others is one count."""
    summary = Summary()
    kept = Quarantine(tmp_path, "p").following(STREAM.source, STREAM.form)
    for number in range(300):
        take(store, Ingestor(store), "p", Fed([Skipped({f"kind {number}": 1})]), kept, summary, STREAM)
    assert (MAX_NAMES + 1, 200) == (len(summary.skipped), summary.skipped[OTHERS])


def test_whole_records_of_a_stream_have_a_bound(
    store: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it their beginning is kept; such a record stays when the others are taken again."""
    monkeypatch.setattr(module, "MAX_WHOLE_BYTES", 10)
    followed(store, tmp_path, refused(b"0123456789", 1), refused(b"0123456789", 2))
    (file,) = kept_files(tmp_path, "p")
    assert [b"0123456789", b""] == [kept.record for kept in read_kept(file)]
    retry(store, "p", file, data=tmp_path)
    assert ["INVALID_FIELD"] == [kept.reason for kept in read_kept(file) if not kept.record]
