"""Samples over gRPC and from a fetched folder: the same, at any place, and what is wrong has a name."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from itertools import islice
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import pytest

from recension.model import errors
from recension.model.access import Secret
from recension.model.digest import digest_of, format_digest, parse_digest
from recension_client.client import Client
from recension_client.export.fetching import fetch
from recension_client.export.layout import Form
from recension_client.loaders import COLUMNS, Served, Source, State, Unpacked, unpacked, walk
from tests.loaders.conftest import HIDDEN, LARGE, PAGES, TITLE, Corpus
from tests.server.helpers import until


@pytest.fixture(params=["served", "unpacked"])
def source(request: pytest.FixtureRequest, corpus: Corpus) -> Source:
    """Each way to read the same snapshot."""
    made: Source = getattr(corpus, request.param)
    return made


def test_samples_are_the_pages_of_the_snapshot(source: Source, corpus: Corpus) -> None:
    """Each index gives what the snapshot has there: the text as it is, none where it is withheld."""
    with Client(corpus.address) as client:
        entries = list(client.read(parse_digest(corpus.snapshot, "snapshot")))
    indexes = [*reversed(range(len(entries))), 5, 5]
    samples = list(source.read(indexes))
    assert len(entries) == source.order.count
    assert len(indexes) == len(samples)
    for index, sample in zip(indexes, samples, strict=True):
        entry = entries[index]
        text = entry.slots[0].text
        assert set(COLUMNS) == sample.keys()
        assert (entry.page_id, entry.rev_id, entry.title) == (
            sample["page_id"],
            sample["rev_id"],
            sample["title"],
        )
        assert (None if text is None else text.decode()) == sample["text"]
    by_id = {sample["rev_id"]: sample for sample in samples}
    assert by_id[HIDDEN]["text"] is None
    assert by_id[50]["text"] == ""
    assert len(by_id[LARGE]["text"].encode()) == 2_500_000
    shown = [by_id[8][name] for name in ("project", "id", "license", "title", "timestamp")]
    assert shown == ["w", "40", "CC0-1.0", TITLE, "2020-01-02T00:00:00Z"]
    assert by_id[8]["url"] == "https://w.example/wiki/a/b%3Fc%23d%25e_%E2%80%A8_%F0%9F%98%80"


def test_both_ways_give_one_order(corpus: Corpus) -> None:
    """A training may begin over gRPC and go on with files."""
    start = State(3, 1, 17)
    begun = list(islice(walk(corpus.served, start), 40))
    assert begun == list(islice(walk(corpus.unpacked, start), 40))
    ((place, _),) = begun[-1:]
    assert place == State(3, 1, 56)
    assert len(list(walk(corpus.unpacked, start))) == corpus.unpacked.order.count - 17


def test_a_source_goes_to_other_processes(source: Source) -> None:
    """What is pickled reads the same where it is unpickled."""
    first = list(source.read([7, 3]))
    other: Source = pickle.loads(pickle.dumps(source))  # noqa: S301 - its own
    assert first == list(other.read([7, 3]))


def test_leaving_early_leaves_nothing_behind(corpus: Corpus) -> None:
    """No thread outlives a reading that is given up; the next begins anew."""
    served = corpus.served
    served._request = 16
    before = threading.active_count()
    reading = served.read(range(300))
    assert next(iter(reading))["page_id"] > 0
    assert threading.active_count() > before
    reading.close()  # type: ignore[attr-defined] # a generator
    until(lambda: threading.active_count() <= before)
    assert len(list(served.read(range(300)))) == 300


def _read_in_child(served: Served, answers: SimpleQueue[str]) -> None:
    try:
        answers.put(next(iter(served.read([0])))["title"])
    except errors.LoaderForkedError as error:
        answers.put(error.hint)


def test_a_forked_process_is_told_what_to_do(corpus: Corpus) -> None:
    """Connections do not survive a fork: without the error its first answer might never come."""
    context: Any = get_context("fork")
    answers: SimpleQueue[str] = context.SimpleQueue()
    child = context.Process(target=_read_in_child, args=(corpus.served, answers))
    child.start()
    try:
        assert "multiprocessing_context='forkserver'" in answers.get()
    finally:
        child.join()


def test_a_served_snapshot_has_to_be_there(corpus: Corpus) -> None:
    """What the server does not have is refused when the source is made."""
    with pytest.raises(errors.SnapshotNotFoundError):
        Served(corpus.address, format_digest(bytes(32)))
    with pytest.raises(errors.InvalidArgumentError):
        Served(corpus.address, "newest")


@pytest.mark.parametrize("form", [Form.PARQUET, Form.JSONL])
def test_forms_and_shards_make_no_difference(
    corpus: Corpus, form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples come in the order of the snapshot from one shard or many."""
    expected = list(corpus.unpacked.read(range(PAGES)))
    monkeypatch.setattr("recension_client.export.layout.SHARD_PAGES", 30)
    with Client(corpus.address) as client:
        manifest = client.snapshot(parse_digest(corpus.snapshot, "snapshot"))
        fetched = fetch(client, manifest, tmp_path / "corpus", form)
    assert len(fetched.index.files) == 16
    assert expected == list(Unpacked(tmp_path / "corpus", cache=tmp_path / "cache").read(range(PAGES)))


def _own_copy(corpus: Corpus, folder: Path) -> Path:
    return Path(shutil.copytree(corpus.folder, folder / "corpus"))


def test_a_folder_that_is_not_its_snapshot_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    """Files of another snapshot, cut ones, a folder that is none; nothing is left of them in the cache."""
    folder, cache = _own_copy(corpus, tmp_path), tmp_path / "cache"
    with Client(corpus.address) as client:
        other = client.snapshot(parse_digest(corpus.older, "snapshot"))
        fetch(client, other, tmp_path / "other", Form.JSONL)
    name = "data/w/00000-of-00001.jsonl.zst"
    good = (folder / name).read_bytes()
    for wrong in ((tmp_path / "other" / name).read_bytes(), good[:-1], b""):
        (folder / name).write_bytes(wrong)
        with pytest.raises(errors.VerificationError):
            Unpacked(folder, cache=cache)
    with pytest.raises(errors.ExportError):
        Unpacked(tmp_path / "none", cache=cache)
    (folder / name).write_bytes(good)
    assert [".lock"] == [path.name for path in cache.iterdir()]
    assert Unpacked(folder, cache=cache).order.count == corpus.unpacked.order.count


def test_a_damaged_cache_is_named(corpus: Corpus, tmp_path: Path) -> None:
    """A text with another bit, a file that was cut, one of something else: it is to be removed."""
    held = Unpacked(corpus.folder, cache=tmp_path)
    sample = next(iter(held.read([9])))
    good = held.path.read_bytes()
    at = good.index(sample["text"].encode()) + 5
    flipped = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    assert digest_of(flipped) != digest_of(good)
    for wrong in (flipped, good[:-1], good[:10], b"", b"x" + good[1:], good[:-1] + b"\xff"):
        held.path.write_bytes(wrong)
        with pytest.raises(errors.VerificationError, match="is not what was written") as caught:
            list(Unpacked(corpus.folder, cache=tmp_path).read(range(PAGES)))
        assert "remove it" in caught.value.hint
    held.path.unlink()
    assert sample == next(iter(Unpacked(corpus.folder, cache=tmp_path).read([9])))
    with pytest.raises(errors.InvalidArgumentError, match="no sample 400"):
        list(held.read([PAGES]))


def test_a_folder_is_laid_out_once(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several that come at once one does the work; an interrupted one leaves nothing that counts."""
    times = []
    real = unpacked._lay_out

    def counted(*arguments: Any) -> None:
        times.append(threading.get_ident())
        real(*arguments)

    monkeypatch.setattr(unpacked, "_lay_out", counted)
    threads = [
        threading.Thread(target=Unpacked, args=(corpus.folder,), kwargs={"cache": tmp_path}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) == 1
    assert len(list(tmp_path.glob("*.samples"))) == 1
    assert not list(tmp_path.glob("*.part"))


def test_room_is_asked_for_first(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that the samples do not fit on is named before anything is written."""
    monkeypatch.setattr("recension_client.export.folder.Folder.free_bytes", lambda _: 1_000)
    with pytest.raises(errors.DiskFullError, match="the samples take"):
        Unpacked(corpus.folder, cache=tmp_path)


def test_the_cache_is_where_caches_are(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a word it is the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tmp_path / "recension/samples" == Unpacked(corpus.folder).path.parent
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path / ".cache/recension/samples" == Unpacked(corpus.folder).path.parent
    assert os.listdir(tmp_path / ".cache/recension/samples")  # noqa: PTH208 - whatever it is


def test_a_source_shows_no_key(corpus: Corpus) -> None:
    """Neither itself nor what it connects by has it in what is printed of it."""
    served = corpus.served
    served._key = Secret.new().written  # the server here asks for none
    with served._connect() as client:
        assert served._key not in repr(served) + repr(served._connect) + repr(client)
