from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from recension.model.errors import InvalidArgumentError, SourceError, StoreError
from recension.server import quarantine as module
from recension.server.quarantine import NOT_KEPT, Quarantine
from recension.sources.items import Rejected

BAD = Rejected("line 2, byte 10", "INVALID_JSON", "not an object", b"\xff\x00[")


def write(quarantine: Quarantine, source: Path, *records: Rejected) -> None:
    with quarantine.writing(source, "events") as kept:
        for record in records:
            kept.add(record)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in put.ndjson"
    path.write_bytes(b"12345")
    return path


@pytest.mark.parametrize("name", ["", "..", ".", "../x", "a/b", "A", "-a", "a\n", "a" * 64, "ä"])
def test_a_project_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    """Only a name of the allowed characters becomes a folder."""
    with pytest.raises(InvalidArgumentError):
        Quarantine(tmp_path, name)


def test_a_record_is_kept_with_its_reason(tmp_path: Path, source: Path) -> None:
    """A line says where the record was, why it was rejected, and how it began, to the byte."""
    quarantine = Quarantine(tmp_path, "p")
    write(quarantine, source, BAD)
    (line,) = lines(quarantine.path(source))
    assert BAD.excerpt == base64.b64decode(line.pop("excerpt_base64"))
    expected = {"form": "events", "source": source.name, "path": str(source)}
    expected |= {"position": BAD.position, "reason": BAD.reason, "message": BAD.message}
    assert expected == line


def test_only_the_owner_reads_it(tmp_path: Path, source: Path) -> None:
    """What upstream may want back is not shown to other users."""
    quarantine = Quarantine(tmp_path, "p")
    before = os.umask(0)
    try:
        write(quarantine, source, BAD)
    finally:
        os.umask(before)
    assert 0o600 == stat.S_IMODE(quarantine.path(source).stat().st_mode)


def test_the_second_run_changes_nothing(tmp_path: Path, source: Path) -> None:
    """A run replaces what the run before left, and leaves nothing else behind."""
    quarantine = Quarantine(tmp_path, "p")
    write(quarantine, source, BAD, BAD)
    first = quarantine.path(source).read_bytes()
    write(quarantine, source, BAD, BAD)
    assert first == quarantine.path(source).read_bytes()
    assert [quarantine.path(source)] == list((tmp_path / "quarantine/p").iterdir())


def test_a_clean_run_empties_it(tmp_path: Path, source: Path) -> None:
    """Once every record is taken, the file is gone."""
    quarantine = Quarantine(tmp_path, "p")
    write(quarantine, source, BAD)
    write(quarantine, source)
    assert [] == list((tmp_path / "quarantine/p").iterdir())


def test_a_run_that_breaks_off_leaves_the_earlier_file(tmp_path: Path, source: Path) -> None:
    """An interrupt in the middle neither shortens nor doubles what is there."""
    quarantine = Quarantine(tmp_path, "p")
    write(quarantine, source, BAD, BAD)
    with pytest.raises(KeyboardInterrupt), quarantine.writing(source, "events") as kept:
        kept.add(BAD)
        raise KeyboardInterrupt
    assert [quarantine.path(source)] == list((tmp_path / "quarantine/p").iterdir())
    assert 2 == len(lines(quarantine.path(source)))


def test_files_of_one_name_and_size_are_apart(tmp_path: Path, source: Path) -> None:
    """Another file of the same name and size keeps its own records, whatever becomes of the other's."""
    quarantine = Quarantine(tmp_path, "p")
    other = tmp_path / "other" / source.name
    other.parent.mkdir()
    other.write_bytes(source.read_bytes()[::-1])
    write(quarantine, source, BAD)
    write(quarantine, other, BAD, BAD)
    assert [1, 2] == [len(lines(quarantine.path(path))) for path in (source, other)]
    write(quarantine, other)
    assert [quarantine.path(source)] == list((tmp_path / "quarantine/p").iterdir())


def test_the_same_bytes_under_another_name_are_the_same_file(tmp_path: Path, source: Path) -> None:
    """A file that was renamed replaces what it left under its old name."""
    quarantine = Quarantine(tmp_path, "p")
    write(quarantine, source, BAD)
    renamed = source.rename(tmp_path / "renamed.ndjson")
    write(quarantine, renamed, BAD, BAD)
    assert [quarantine.path(renamed)] == list((tmp_path / "quarantine/p").iterdir())
    assert 2 == len(lines(quarantine.path(renamed)))


def test_a_file_that_is_gone_before_the_end_is_named(tmp_path: Path, source: Path) -> None:
    """Its records cannot be filed, so that is an error and no half file stays."""
    with pytest.raises(SourceError), Quarantine(tmp_path, "p").writing(source, "events") as kept:
        kept.add(BAD)
        source.unlink()
    assert [] == list((tmp_path / "quarantine/p").iterdir())


def test_a_strange_file_name_stays_inside(tmp_path: Path) -> None:
    """No byte of a file name but letters, digits, '-' and '_' becomes part of a path."""
    path = tmp_path / os.fsdecode(b"..\xff \n;[/red].xml".replace(b"/", b""))
    path.write_bytes(b"x")
    quarantine = Quarantine(tmp_path, "p")
    write(quarantine, path, BAD)
    (kept,) = (tmp_path / "quarantine/p").iterdir()
    assert kept.name.replace("-", "").replace(".", "").replace("_", "").isalnum()
    assert "\ufffd" in lines(kept)[0]["source"]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, source: Path) -> None:
    """A link where the lines are collected is refused and what it leads to stays."""
    quarantine = Quarantine(tmp_path, "p")
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    part = quarantine.path(source).with_name("ingest-1.part")
    part.parent.mkdir(parents=True)
    part.symlink_to(precious)
    with pytest.raises(StoreError):
        write(quarantine, source, BAD)
    assert b"mine" == precious.read_bytes()


def test_a_flood_is_counted_and_not_kept(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit the last line says how many more there were."""
    monkeypatch.setattr(module, "MAX_KEPT", 3)
    quarantine = Quarantine(tmp_path, "p")
    write(quarantine, source, *[BAD] * 8)
    found = lines(quarantine.path(source))
    assert [BAD.reason] * 3 + [NOT_KEPT] == [line["reason"] for line in found]
    assert found[-1]["message"].startswith("5 more")
