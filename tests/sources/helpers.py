"""Small dumps written on the spot, and the way to the shared real data."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recension.archive.intake.child import PARSERS
from recension.model.errors import SourceError
from recension.model.event import Edit, Event, LogEntry
from recension.sources.containers import open_container
from recension.sources.events_ndjson import read_events
from recension.sources.items import ByteSource, Item, Rejected
from recension.sources.mediawiki_log import read_log
from recension.sources.mediawiki_xml import read_history

SHARED = Path(__file__).parents[2] / "../shared/data"

SITEINFO = (
    "<siteinfo><sitename>Test</sitename><dbname>testwiki</dbname><base>https://t.example/wiki/Main</base>"
    "<case>first-letter</case><namespaces><namespace key='0' /><namespace key='1'>Talk</namespace>"
    "<namespace key='3'>Benutzer Diskussion</namespace></namespaces></siteinfo>"
)

Reader = Callable[[ByteSource, Path, str], Iterator[Item]]


def shared(name: str) -> Path:
    """Path of a file of the shared data; skips the test where a checkout has none."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no shared data here: {path} does not exist")
    return path


def file_items(kind: str, path: Path, project: str) -> Iterator[Item]:
    """Yield the items of a file, parsed in this process."""
    with open_container(path) as container:
        yield from PARSERS[kind](container, path, project, {})


def dump(body: str, *, siteinfo: str = SITEINFO, version: str = "0.11") -> bytes:
    namespace = f"http://www.mediawiki.org/xml/export-{version}/"
    return f'<mediawiki xmlns="{namespace}" version="{version}">{siteinfo}{body}</mediawiki>'.encode()


def page(revisions: str, *, head: str = "<title>Apple</title><ns>0</ns><id>7</id>") -> str:
    return f"<page>{head}{revisions}</page>"


def revision(
    rev_id: int | str = 1,
    *,
    text: str = '<text bytes="5">Hello</text>',
    time: str = "2001-01-15T13:15:00Z",
    rest: str = "",
) -> str:
    return f"<revision><id>{rev_id}</id><timestamp>{time}</timestamp>{rest}{text}</revision>"


def logitem(kind: str, action: str, params: str = "", *, title: str = "Apple", rest: str = "") -> str:
    return (
        f"<logitem><id>5</id><timestamp>2005-01-01T00:00:00Z</timestamp>{rest}<type>{kind}</type>"
        f"<action>{action}</action><logtitle>{title}</logtitle><params>{params}</params></logitem>"
    )


class Dribble:
    """A source that gives a few bytes at a time, to put a chunk's end everywhere."""

    def __init__(self, data: bytes, step: int) -> None:
        self._file = io.BytesIO(data)
        self._step = step

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._step))


def history(data: bytes) -> list[Item]:
    return list(read_history(io.BytesIO(data), Path("a.xml"), "p"))


def log(data: bytes) -> list[Item]:
    return list(read_log(io.BytesIO(data), Path("a.xml"), "p"))


def events(data: bytes, namespaces: dict[str, int] | None = None) -> list[Item]:
    return list(read_events(io.BytesIO(data), Path("a.ndjson"), "p", namespaces))


def edits(items: list[Item]) -> list[Edit]:
    return [item.what for item in items if isinstance(item, Event) and isinstance(item.what, Edit)]


def entries(items: list[Item]) -> list[LogEntry]:
    return [item.what for item in items if isinstance(item, Event) and isinstance(item.what, LogEntry)]


def rejections(items: list[Item]) -> list[Rejected]:
    return [item for item in items if isinstance(item, Rejected)]


def reasons(items: list[Item]) -> list[str]:
    return [item.reason for item in rejections(items)]


def until_fault(items: Iterator[Item]) -> tuple[list[Item], SourceError | None]:
    """Everything that comes before the named error, and the error."""
    seen: list[Item] = []
    try:
        seen.extend(items)
    except SourceError as error:
        return seen, error
    return seen, None


def read_file(path: Path, reader: Reader) -> tuple[list[Item], SourceError | None]:
    try:
        with open_container(path) as container:
            return until_fault(reader(container, path, "p"))
    except SourceError as error:
        return [], error
