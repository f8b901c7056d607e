"""Files of documents of EventStreams: read as any file is, with texts from the wiki."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recension.archive.check.run import Check
from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.reading import ProjectInfo, Revision
from recension.server import streamfiles
from recension.server.ingest import ingest_files
from recension.server.main import main
from recension.server.quarantine import kept_files, read_kept
from recension.server.retrying import retry
from recension.server.taking import Summary
from recension.sources.contents import MediaWikiContent
from recension.sources.http import Http
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.eventstreams import STREAM, Service, Wiki, history
from tests.server.test_eventstreams import check_against_wiki
from tests.sources.helpers import shared
from tests.upstream import Asked, Upstream


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamfiles, "_PAUSES", (0.0,))


class Place:
    """A wiki that is served, and a store that is filled from files of what it told."""

    def __init__(self, wiki: Wiki, folder: Path) -> None:
        self.wiki, self.folder, self.store = wiki, folder, MemoryStore()
        self.service = Service(wiki)
        self.upstream = self.service.serve()

    def ingest(self, *paths: Path) -> Summary:
        content = MediaWikiContent(Http(self.upstream.origin))
        return ingest_files(
            self.store, "eventstreams", "p", paths, data=self.folder / "data", quiet=True, content=content
        )

    def write(self, name: str, lines: Sequence[Any]) -> Path:
        path = self.folder / name
        texts = (one if isinstance(one, str) else json.dumps(one) for one in lines)
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(history(3, events=150), tmp_path)
    with place.upstream as upstream:
        Ingestor(place.store).create_project(ProjectInfo("p", upstream.origin, "en", "CC-BY-SA-4.0"))
        yield place
    assert not Check(place.store).run().kinds


def test_documents_of_a_file_are_the_wiki(place: Place, tmp_path: Path) -> None:
    """All that happened, in batches; read again nothing is new and no text is asked for."""
    path = place.write("events.ndjson", place.wiki.documents)
    summary = place.ingest(path)
    assert ([], {}) == (summary.faults, dict(summary.rejected))
    assert len(place.wiki.documents) > 2 * streamfiles.BATCH_DOCUMENTS
    check_against_wiki(place.store, place.wiki)
    told = Archive(place.store).provenance("p", place.wiki.pages[1].revs[0].rev_id)
    digest = hashlib.sha256(path.read_bytes()).digest()
    assert ("eventstreams", "events.ndjson", digest) == (told.form, told.source, told.digest)
    head, asked = place.store.log.head(), len(place.service.texts_asked)
    assert 0 == place.ingest(path).accepted
    assert (head, asked) == (place.store.log.head(), len(place.service.texts_asked))


def test_an_answer_that_was_saved_is_read_too(place: Place, tmp_path: Path) -> None:
    """Frames of an event stream, packed, with what holds them together; canaries are passed over."""
    frames = [":ok\n"]
    for number, document in enumerate([*place.wiki.documents, {"meta": {"domain": "canary"}}]):
        frames += ["event: message", f'id: [{{"topic":"{STREAM}","partition":0,"offset":{number}}}]']
        frames += [f"data: {json.dumps(document)}", ""]
    path = tmp_path / "answer.gz"
    path.write_bytes(gzip.compress("\n".join(frames).encode()))
    summary = place.ingest(path)
    assert ({}, 1) == (dict(summary.rejected), summary.skipped["canary"])
    check_against_wiki(place.store, place.wiki)


def test_what_cannot_be_taken_is_in_quarantine(place: Place, tmp_path: Path) -> None:
    """A text that is not there, a line that is none: the rest is stored, and a retry takes what it can."""
    wiki = Wiki(random.Random(1))
    page = wiki.create()
    wiki.edit(page)
    place.wiki.texts |= wiki.texts
    lost = page.revs[0].rev_id
    place.service.text_status[lost] = 404
    other = {**wiki.documents[0], "wiki_id": "other"}
    path = place.write("events.ndjson", [wiki.documents[0], "{", wiki.documents[1], other])
    summary = place.ingest(path)
    assert {"TEXT_UNAVAILABLE": 1, "INVALID_JSON": 1} == dict(summary.rejected)
    assert {"other projects": 1} == dict(summary.skipped)
    (file,) = kept_files(tmp_path / "data", "p")
    assert {
        "line 1, byte 0": "TEXT_UNAVAILABLE",
        f"line 2, byte {len(json.dumps(wiki.documents[0])) + 1}": "INVALID_JSON",
    } == {one.position: one.reason for one in read_kept(file)}
    place.service.text_status.clear()
    taken = retry(place.store, "p", file, data=tmp_path / "data")
    assert (1, {"INVALID_JSON": 1}) == (taken.accepted, dict(taken.rejected))
    check_against_wiki(place.store, wiki)


def test_a_wiki_that_is_down_ends_it(place: Place, tmp_path: Path) -> None:
    """With a named fault, after it was asked again; what was stored stays, and the next run goes on."""
    path = place.write("events.ndjson", place.wiki.documents)
    last = max(rev.rev_id for page in place.wiki.pages.values() for rev in page.revs)
    place.service.text_status[last] = 500
    summary = place.ingest(path)
    assert ["UPSTREAM_UNREACHABLE"] == [fault.reason for fault in summary.faults]
    assert summary.accepted
    assert 2 == place.service.texts_asked.count(last)
    place.service.text_status.clear()
    assert not place.ingest(path).faults
    check_against_wiki(place.store, place.wiki)


def test_real_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of one page of a real wiki, by the command: it was made, edited, deleted and brought back."""
    folder = shared("wikimedia/events/page_change")
    kinds = ("create", "edit", "delete", "undelete")
    documents = [json.loads((folder / f"wikibase-item-{kind}.json").read_bytes()) for kind in kinds]
    path = tmp_path / "events.ndjson"
    path.write_text("".join(json.dumps(one) + "\n" for one in documents))
    data = str(tmp_path / "data")

    def answer(asked: Asked) -> None:
        asked.reply(200, {"id": int(asked.path.rpartition("/")[2]), "source": "{}"})

    made = "project create testwikidatawiki --base-url https://t.example --language en --license CC0-1.0"
    assert 0 == main([*made.split(), "--data", data])
    with Upstream(answer) as upstream:
        ingest = ["ingest", "eventstreams", "testwikidatawiki", str(path), "--data", data, "--json"]
        capsys.readouterr()
        assert 0 == main([*ingest, "--content", upstream.origin, "--contact", "somebody@t.example"])
    summary = json.loads(capsys.readouterr().out)
    assert ({}, 3) == (summary["rejected"], summary["revisions"])
    with closing(LmdbStore.open(tmp_path / "data")) as store:
        items = [item.what for item in Archive(store).timeline("testwikidatawiki", 330_275)]
        assert [686_138, 686_139, 686_140] == [one.rev_id for one in items if isinstance(one, Revision)]
        assert {"Delete", "Restore"} < {type(one).__name__ for one in items}
        assert "Q235989" == Archive(store).article("testwikidatawiki", 330_275).revision.title
    assert 3 == main(
        ["ingest", "dump", "testwikidatawiki", str(path), "--data", data, "--content", "https://x"]
    )
