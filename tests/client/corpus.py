"""A made corpus with everything that an export has to carry, in a real store behind a real server."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from recension.model.instant import parse_instant
from recension.model.manifest import OnHidden, Selector
from recension_client.client import Client
from tests.client.processes import BIN, at, make_project, run, serving

PAGES = 600
EDITED = (300, 303, 600, 900, 1_200, 1_500)
"""Pages that another text is saved for in 2022: one of a hundred."""
LARGE = 40
"""A page whose text comes in pieces."""
HIDDEN = 77
TITLES = {
    5: "../../etc/passwd",
    6: "\u2028line\u202e",
    7: "<script>\"'\\",
    8: "a/b?c#d%e",
    9: "Ünï ж 中 \U0001f600",
}


@dataclass(frozen=True)
class World:
    """A server and what it was filled with."""

    address: str
    first: bytes
    """Snapshot of 2021."""
    second: bytes
    """Snapshot of 2023: some pages edited, one moved, one deleted, one hidden, one new."""


def _event(page: int, time: str, **kind: object) -> dict[str, object]:
    source = f"{page}-{time}-{next(iter(kind))}"
    return {"project": "made", "pageId": str(page), "time": time, "sourceId": source, **kind}


def _edit(page: int, rev: int, text: str) -> dict[str, object]:
    slots = [{"role": "main", "model": "wikitext", "format": "text/x-wiki", "text": text}]
    if page % 50 == 0:
        slots.append({"role": "notes", "model": "json", "format": "application/json", "text": f'"{page}"'})
    return {
        "revId": str(rev),
        "title": TITLES.get(page, f"Page {page}"),
        "contributor": {"name": "Ann"},
        "slots": slots,
    }


def page_ids() -> list[int]:
    """Return the ids: spread over many blocks of 256, some of them far away."""
    return [3 * number + (2**40 if number > PAGES - 5 else 0) for number in range(1, PAGES + 1)]


def events() -> Iterator[dict[str, object]]:
    """Yield the history."""
    words = random.Random(1)
    # Six words alone would leave next to nothing of a text that is compressed, unlike any language.
    ordinary = ["".join(words.choices("aeinorst", k=words.randrange(3, 9))) for _ in range(500)]
    odd = ["wort", "ünï", 'q"uote', "b\\s", "tab\t", "nul\x01"]
    for page in sorted({*page_ids(), *EDITED, *TITLES, LARGE, HIDDEN}):
        length = 300_000 if page == LARGE else words.randrange(50, 400)
        text = " ".join(words.choices(odd if page == LARGE else [*ordinary, *odd], k=length))
        yield _event(page, "2020-01-01T00:00:00Z", edit=_edit(page, 10 * page, text))
    for page in EDITED:
        text = " ".join(words.choices(["neu", *ordinary], k=225))
        yield _event(page, "2022-01-01T00:00:00Z", edit=_edit(page, 10 * page + 1, text))
    yield _event(12, "2022-01-02T00:00:00Z", move={"fromTitle": "Page 12", "toTitle": "Twelve"})
    yield _event(15, "2022-01-02T00:00:00Z", delete={"title": "Page 15"})
    yield _event(HIDDEN, "2022-01-03T00:00:00Z", visibility={"revId": str(10 * HIDDEN), "textHidden": True})
    yield _event(4_000, "2022-01-04T00:00:00Z", edit=_edit(4_000, 40_000, "a new page"))
    # Moved away and back: another event gives the title, so the leaf is another and a diff has nothing.
    yield _event(18, "2022-01-05T00:00:00Z", move={"fromTitle": "Page 18", "toTitle": "Away"})
    yield _event(18, "2022-01-06T00:00:00Z", move={"fromTitle": "Away", "toTitle": "Page 18"})


@contextmanager
def made(folder: Path) -> Iterator[World]:
    """Serve the corpus."""
    data = folder / "data"
    make_project("made", data)
    before, after = folder / "before.ndjson", folder / "after.ndjson"
    for path, wanted in ((before, "2020"), (after, "2022")):
        lines = [json.dumps(event) for event in events() if str(event["time"]).startswith(wanted)]
        path.write_text("\n".join(lines) + "\n")
    run("recension-server", "ingest", "events", "made", str(before), "--data", str(data))
    run("recension-server", "ingest", "events", "made", str(after), "--data", str(data))
    with serving(data) as address, Client(address) as client:
        selector = Selector.of(["made"], on_hidden=OnHidden.KEEP)
        first = client.create_snapshot(selector, valid_at=parse_instant("2021-01-01"), known_at=3)
        second = client.create_snapshot(selector, valid_at=parse_instant("2023-01-01"))
        yield World(address, first.snapshot_id, second.snapshot_id)


def ask(world: World, folder: Path, *arguments: str, status: int = 0) -> str:
    """Run ``recension`` in a folder; what it writes."""
    done = subprocess.run(
        [BIN / "recension", *arguments],
        capture_output=True,
        check=False,
        env=at(world.address),
        cwd=folder,
        text=True,
    )
    assert status == done.returncode, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr
