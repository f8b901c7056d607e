"""Limits on a real server: what a licensee's agreement says binds its calls, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recension.archive.agreements import Agreements
from recension.archive.keyring import Keyring
from recension.model import errors
from recension.model.access import Role, Secret
from recension.model.agreement import parse_document
from recension.model.instant import parse_instant
from recension.model.licensee import make_licensee
from recension.server.pepper import Pepper
from recension.store.directory import PEPPER_FILE
from recension.store.memory import MemoryStore
from recension.v1 import catalog_service_pb2 as catalog_pb
from tests.server.helpers import Served, fill, refused, serving, until
from tests.server.test_door import shown

LATER = parse_instant("2999-01-01")


class Licensing:
    """A server with a licensee, its key and that of an operator."""

    def __init__(self, served: Served, store: MemoryStore, keyring: Keyring) -> None:
        self.served = served
        self.agreements = Agreements(store)
        self.agreements.add_licensee(make_licensee("acme", 1))
        self.key: Secret = keyring.make("acme", Role.LICENSEE, LATER)
        self.operator: Secret = keyring.make("jane", Role.OPERATOR, LATER)
        manifest = next(served.archive.snapshots())
        self.snapshot = f"sha256:{manifest.snapshot_id.hex()}"

    def agree(self, **terms: Any) -> None:
        """Put a version in force."""
        grant = {"projects": ["demo"], "freshness": "realtime"}
        said = {"grants": [grant], "valid_from": "2020-01-01T00:00:00Z", **terms}
        self.agreements.add(parse_document(said, "acme"))

    def ask(self, key: Secret | None = None) -> Any:
        request = catalog_pb.GetServerInfoRequest()
        return self.served.catalog.GetServerInfo(request, metadata=shown(key or self.key))

    def read(self, key: Secret | None = None) -> Any:
        return self.served.read(self.snapshot, metadata=shown(key or self.key))


@pytest.fixture
def licensing(tmp_path: Path) -> Iterator[Licensing]:
    store = MemoryStore()
    fill(store)
    pepper = Pepper(tmp_path / PEPPER_FILE)
    pepper.make()
    with serving(store, tmp_path) as served:
        yield Licensing(served, store, Keyring(store, pepper))
        served.service.limits.close()


def test_the_rate_of_an_agreement(licensing: Licensing) -> None:
    """Refused with whose limit it is and when to come again; others ask on."""
    licensing.agree(rates={"requests_per_second": 1, "burst": 1})
    assert licensing.ask().version
    error = refused(licensing.ask)
    assert isinstance(error, errors.RateLimitedError)
    assert 0 < float(error.metadata["retryDelaySeconds"]) <= 1
    assert "acme" == error.metadata["subject"]
    for _ in range(5):
        assert licensing.ask(licensing.operator).version
    licensing.agree()
    for _ in range(5):
        assert licensing.ask().version


def test_the_streams_of_an_agreement(licensing: Licensing) -> None:
    """Another one begins when one has ended; an operator's are not counted."""
    licensing.agree(rates={"concurrent_streams": 1})
    first = licensing.read()
    next(first)
    assert isinstance(refused(lambda: next(licensing.read())), errors.StreamsExhaustedError)
    others = licensing.read(licensing.operator)
    next(others)
    assert licensing.ask().version
    first.cancel()

    def begins() -> bool:
        stream = licensing.read()
        try:
            next(stream)
        except Exception:  # noqa: BLE001 - not yet
            return False
        stream.cancel()
        return True

    until(begins)
    others.cancel()


def test_counters_that_cannot_be_used(licensing: Licensing, tmp_path: Path) -> None:
    """Nobody is served uncounted, nor told where the files are; an operator is served."""
    licensing.agree(rates={"requests_per_second": 100, "burst": 100})
    (tmp_path / "counters").write_text("in the way")
    error = refused(licensing.ask)
    assert isinstance(error, errors.StoreError)
    assert str(tmp_path) not in error.message + error.hint
    assert licensing.ask(licensing.operator).version
    (tmp_path / "counters").unlink()
    assert licensing.ask().version


def test_nothing_is_made_where_nobody_is_counted(licensing: Licensing, tmp_path: Path) -> None:
    """A server whose callers are all operators has no counters."""
    assert licensing.ask(licensing.operator).version
    assert not (tmp_path / "counters" / "rates").exists()
