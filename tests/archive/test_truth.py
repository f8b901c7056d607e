"""Real histories against truths that others computed (../shared/data/README.md)."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import orjson
import pytest

from recension.archive import logbook
from recension.archive.ingest import Ingestor
from recension.archive.intake.feed import Feed, Kind
from recension.archive.reader import Archive
from recension.model.digest import format_digest
from recension.model.event import Edit, Event
from recension.model.instant import parse_instant
from recension.model.manifest import Selector
from recension.model.reading import ProjectInfo
from recension.sources.containers import open_container
from recension.store.memory import MemoryStore
from tests.archive.helpers import rows, shared
from tests.sources.helpers import file_items

Truth = dict[tuple[str, str], list[tuple[int, str, int, str]]]


def ingest(ingestor: Ingestor, kind: Kind, path: Path, project: str) -> Counter[str]:
    """Ingest a whole file; everything in it has to be taken."""
    claims: Counter[str] = Counter()
    with Feed(kind, path, project, workers=2) as feed:
        for batch in feed:
            appended = ingestor.append_prepared(project, batch.events)
            assert not appended.rejected
            claims.update(appended.claims)
    return claims


def opened(project: str) -> tuple[Ingestor, Archive, MemoryStore]:
    """Return an empty project in memory."""
    store = MemoryStore()
    ingestor = Ingestor(store)
    ingestor.create_project(ProjectInfo(project, "https://w.example", "en", "CC0-1.0"))
    return ingestor, Archive(store), store


def truth() -> Truth:
    """Return the pages of each truth time by (commit, time)."""
    out: Truth = defaultdict(list)
    for commit, time, page, title, rev, digest in rows(shared("peps/peps-truth-asof.tsv.zst")):
        out[commit, time].append((int(page), title, int(rev), f"sha256:{digest}"))
    return out


def held(archive: Archive, snapshot_id: bytes) -> list[tuple[int, str, int, str]]:
    """Return a snapshot's entries in the form of the truth."""
    out = []
    for entry in archive.entries(snapshot_id):
        slot = entry.slot()
        assert slot is not None
        out.append((entry.page_id, entry.title, entry.rev_id, format_digest(slot.digest)))
    return out


@pytest.mark.timeout(300)
def test_peps_events_reproduce_every_corpus_and_every_difference() -> None:
    """All 12 past corpora, all 12 diffs and the authors of three of them equal git's own answers."""
    ingestor, archive, _ = opened("peps")
    ingest(ingestor, "events", shared("peps/peps-events.ndjson.zst"), "peps")
    snapshots = {}
    for (commit, time), expected in truth().items():
        manifest = archive.create_snapshot(Selector.of(["peps"]), valid_at=parse_instant(time))
        snapshots[commit] = manifest.snapshot_id
        assert expected == held(archive, manifest.snapshot_id)
    pairs: dict[tuple[str, str], list[list[str]]] = defaultdict(list)
    for commit_a, commit_b, *change in rows(shared("peps/peps-truth-diff.tsv.zst")):
        pairs[commit_a, commit_b].append(change)
    for (commit_a, commit_b), expected_changes in pairs.items():
        actual = [
            [
                change.kind.value,
                str(change.page_id),
                change.before.title if change.before else "",
                change.after.title if change.after else "",
                str(change.before.rev_id) if change.before else "",
                str(change.after.rev_id) if change.after else "",
            ]
            for change in archive.diff(snapshots[commit_a], snapshots[commit_b])
        ]
        assert expected_changes == actual
    authors = edits_by_page(shared("peps/peps-events.ndjson.zst"))
    for snapshot_id in list(snapshots.values())[::5]:
        for one in archive.attributions(snapshot_id):
            until = (one.timestamp, one.rev_id)
            expected_authors = Counter(who for time, rev, who in authors[one.page_id] if (time, rev) <= until)
            assert expected_authors == {share.person.id: share.edits for share in one.shares}
            assert (0, 0) == (one.hidden_edits, one.unstated_edits)


def edits_by_page(path: Path) -> dict[int, list[tuple[int, int, int]]]:
    """Return (time, revision, account) of each page's edits, as the events name them; no text is read."""
    out: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    with open_container(path) as source:
        content = b"".join(iter(lambda: source.read(1 << 20), b""))
    for line in content.splitlines():
        event = orjson.loads(line)
        if edit := event.get("edit"):
            said = parse_instant(event["time"]), int(edit["revId"]), int(edit["contributor"]["id"])
            out[int(event["pageId"])].append(said)
    return out


@pytest.mark.timeout(300)
@pytest.mark.parametrize("order", [("history", "log"), ("log", "history")])
def test_peps_dump_and_log_reproduce_the_pages_alive_at_the_end(order: tuple[Kind, Kind]) -> None:
    """A dump without old titles and a log without page ids give the past, in either order."""
    files: dict[Kind, str] = {
        "history": "peps/peps-pages-meta-history.xml.zst",
        "log": "peps/peps-pages-logging.xml.zst",
    }
    ingestor, archive, store = opened("peps")
    resolved = logbook.Resolved(0, 0, 0)
    for kind in order:
        ingest(ingestor, kind, shared(files[kind]), "peps")
        resolved = logbook.resolve(store, ingestor, "peps")
    assert (resolved.resolved + resolved.already, resolved.unresolved) == (1533, 120)
    expected = truth()
    alive = {page for page, *_ in list(expected.values())[-1]}
    for (_, time), corpus in expected.items():
        manifest = archive.create_snapshot(Selector.of(["peps"]), valid_at=parse_instant(time))
        assert [entry for entry in corpus if entry[0] in alive] == held(archive, manifest.snapshot_id)


def test_aawiki_history_ends_where_the_current_dump_of_the_same_run_is() -> None:
    """The last revision of every page is the current dump's; all sha1 claims are exact, none refused."""
    folder = "wikimedia/aawiki-20260101"
    ingestor, archive, _ = opened("aawiki")
    claims = ingest(
        ingestor, "history", shared(f"{folder}/aawiki-20260101-pages-meta-history.xml.7z"), "aawiki"
    )
    # 1,288 texts are not empty; the 19 empty ones state the SHA-1 of nothing, and it is exact too.
    assert (claims["exact"], claims["mismatch"], claims["bytes_mismatch"]) == (1307, 0, 202)
    expected = {}
    current = shared(f"{folder}/aawiki-20260101-pages-meta-current.xml.bz2")
    for item in file_items("history", current, "aawiki"):
        if isinstance(item, Event) and isinstance(item.what, Edit):
            expected[item.page_id] = (item.what.rev_id, item.what.title, item.what.slots[0].text)
    manifest = archive.create_snapshot(Selector.of(["aawiki"]))
    actual = {}
    for entry in archive.read(manifest.snapshot_id):
        slot = entry.slot()
        actual[entry.page_id] = (entry.rev_id, entry.title, slot.text if slot else None)
    assert expected == actual
    assert manifest.parts[0].count == 507
