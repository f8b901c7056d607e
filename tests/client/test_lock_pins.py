"""A lock whose pin has ended: it is told, files that are there stay good, snapshots can be made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.pins import LicenseePins
from recension.archive.reader import Archive
from recension.model.event import Event
from recension.model.instant import parse_instant
from recension.model.manifest import Selector
from recension.model.reading import ProjectInfo
from recension.store.lmdb import LmdbStore
from recension_client import lockfile
from recension_client.cli.main import main
from recension_client.lockfile import PinRecord
from tests.archive.helpers import edit, fixed_salts
from tests.client.processes import run, serving

MADE, ENDED = parse_instant("2020-06-01"), parse_instant("2021-01-01")
AS_OF = "2020-02-01T00:00:00Z"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A store of 2020, with a pin that has ended since."""
    store = LmdbStore.open(tmp_path / "data", create=True)
    ingestor = Ingestor(store, clock=lambda: MADE, salts=fixed_salts)
    ingestor.create_project(ProjectInfo("w", "https://w.example", "en", "CC0-1.0"))
    saved = parse_instant("2020-01-01")
    ingestor.append(
        "w", [Event("w", page, saved, "", edit(page, f"text {page}", f"P{page}")) for page in (1, 2)]
    )
    archive = Archive(store, clock=lambda: MADE)
    made = archive.create_snapshot(Selector.of(["w"]), valid_at=parse_instant(AS_OF))
    LicenseePins(store, clock=lambda: MADE).create("old", made.snapshot_id, ENDED)
    store.close()
    return tmp_path / "data"


Ask = Callable[..., str]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Ask:
    """Run ``recension`` in a folder of the test's own; what it writes."""
    (tmp_path / "repository").mkdir()
    monkeypatch.chdir(tmp_path / "repository")

    def command(*arguments: str, status: int = 0) -> str:
        code = main(arguments)
        shown = b"".join(capfdbinary.readouterr()).decode()
        assert code == status, shown
        return shown

    return command


def reason(said: str) -> str:
    """Return why a command with ``--json`` ended."""
    return str(json.loads(said.splitlines()[-1])["error"]["reason"])


def test_a_pin_that_has_ended(data: Path, tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """``status`` says how; nothing is fetched of a snapshot that was released, and it can be made again."""
    folder = tmp_path / "repository"
    lock = folder / "recension.lock"
    with serving(data) as address:
        monkeypatch.setenv("RECENSION_SERVER", address)
        ask("pin", "w", "--at", AS_OF, "--name", "mine", "--until", "2098-01-01")
        assert "2098-01-01" in ask("status")
        ask("fetch")
        ask("pins", "delete", "mine")
        assert "PIN_NOT_FOUND" == reason(ask("status", "--json", status=3))
        ended = PinRecord("old", "0" * 32, ENDED)
        lockfile.write(lock, replace(lockfile.read(lock), pin=ended))
        assert "PIN_EXPIRED" == reason(ask("status", "--json", status=3))
    run("recension-server", "gc", "--data", str(data), "--unpinned-days", "0", "--delete")
    kept = lock.read_bytes()
    with serving(data) as address:
        monkeypatch.setenv("RECENSION_SERVER", address)
        assert "ok: sha256:" in ask("verify")
        assert "SNAPSHOT_RELEASED" == reason(ask("fetch", "elsewhere", "--json", status=3))
        assert not (folder / "elsewhere" / "data").exists()
        assert kept == lock.read_bytes()
        ask("pin", "w", "--at", AS_OF, "--name", "again", "--until", "2098-01-01")
        ask("fetch", "elsewhere")
        assert "ok\n" == ask("lock", "--check", "elsewhere")
