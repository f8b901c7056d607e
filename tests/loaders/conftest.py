from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from recension.archive.ingest import Ingestor
from recension.model.digest import format_digest
from recension.model.event import Event
from recension.model.manifest import OnHidden
from recension.server.build import make_server
from recension.server.config import ServeConfig
from recension_client.client import Client
from recension_client.export.fetching import fetch
from recension_client.export.layout import Form
from recension_client.loaders import Served, Unpacked
from tests.archive.helpers import World, edit, hide

PAGES = 400
HIDDEN = 77
"""A page whose text is withheld."""
LARGE = 40
"""A page whose text comes in pieces."""
TITLE = "a/b?c#d%e \u2028 \U0001f600"
"""Of page 8."""


@dataclass(frozen=True)
class Corpus:
    """A snapshot on a server, and the same in a folder."""

    address: str
    snapshot: str
    older: str
    """Another snapshot of the same project."""
    folder: Path
    cache: Path

    @property
    def served(self) -> Served:
        """Its samples over gRPC."""
        return Served(self.address, self.snapshot)

    @property
    def unpacked(self) -> Unpacked:
        """Its samples from the folder."""
        return Unpacked(self.folder, cache=self.cache)


def _page(world: World, page: int) -> Event:
    text = "wort \U0001f600 " * 250_000 if page == LARGE else f"text {page} " * (page % 50)
    return world.event(5 * page, 1, edit(page, text, TITLE if page == 8 else f"Page {page}"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    """Serve some pages: one without its text, a large one, one with an odd title, empty ones."""
    base = tmp_path_factory.mktemp("loaders")
    world = World()
    world.add(*(_page(world, page) for page in range(1, PAGES + 1)))
    older = world.snapshot(2)
    world.add(world.event(5, 3, edit(1_000, "newer", "Page 1")), world.event(5 * HIDDEN, 3, hide(HIDDEN)))
    newer = world.snapshot(4, on_hidden=OnHidden.KEEP)
    server = make_server(world.archive, Ingestor(world.store), world.store, ServeConfig(data=base))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with Client(address) as client:
        fetch(client, client.snapshot(newer), base / "corpus", Form.JSONL)
    yield Corpus(address, format_digest(newer), format_digest(older), base / "corpus", base / "cache")
    server.stop(None).wait()
