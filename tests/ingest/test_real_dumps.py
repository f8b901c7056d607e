"""Every real XML dump of the shared data, from the file to the answers of a store on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.event import Presence
from recension.model.reading import ProjectInfo
from recension.server.ingest import run_ingest
from recension.sources.mediawiki_xml import read_history
from recension.store.lmdb import LmdbStore
from tests.sources.helpers import edits, read_file
from tests.sources.test_real_data import FILES, OTHERWISE

SHARED = Path(__file__).parents[2] / "../shared/data/wikimedia"
SCRIPTS = ("am", "ar", "el", "he", "hi", "ja", "ka", "ru", "ta", "th", "zh")
REJECTED = {
    "refinery-content-export/mediawiki-dump-test.xml": {"MISSING_ID": 3},
    "gensim/testcorpus.xml.bz2": {"REVISION_CONFLICT": 8},
}
"""Two files were made by hand: revisions without an id, and nine pages with one id of a revision."""
NAMES = [*FILES, *OTHERWISE, *(f"dbpedia-minidumps/{name}.xml.bz2" for name in SCRIPTS)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    with closing(LmdbStore.open(tmp_path / "data", create=True)) as made:
        Ingestor(made).create_project(ProjectInfo("p", "https://t.example", "en", "CC0-1.0"))
        yield made


def path_of(name: str) -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"NOT TESTED: real dumps; {SHARED} does not exist")
    return SHARED / name


@pytest.mark.parametrize("name", NAMES)
def test_real_dump(name: str, store: LmdbStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each dump is held whole, text by text, or ends with the named error of its parser."""
    path = path_of(name)
    status = run_ingest(store, "dump", "p", [path], data=tmp_path, json_output=True, quiet=True)
    report = json.loads(capsys.readouterr().out)
    items, fault = read_file(path, read_history)
    expected = edits(items)
    if name in FILES:
        _, revisions, _, error = FILES[name]
        assert (revisions, error) == (len(expected), type(fault) if fault else None)
    assert ([fault.reason] if fault else []) == [said["reason"] for said in report["faults"]]
    rejected = REJECTED.get(name, {})
    assert (3 if fault else 1 if rejected else 0, rejected) == (status, report["rejected"])
    taken = {edit.rev_id: edit for edit in reversed(expected)}
    archive = Archive(store)
    assert len(taken) == report["accepted"] == archive.project("p").revisions
    for edit in taken.values():
        for slot in edit.slots:
            if slot.presence is Presence.PRESENT:
                assert slot.text == archive.text("p", edit.rev_id, slot.role)


def test_no_dump_is_forgotten() -> None:
    """Every XML dump of the shared data is in the list."""
    folder = path_of(".")
    found = {path for path in folder.rglob("*xml*") if path.is_file()}
    assert set(NAMES) == {path.relative_to(folder).as_posix() for path in found}
