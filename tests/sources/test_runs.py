"""Runs: every byte is in one of them, and who reads which does not matter."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from recension.model.errors import SourceError, SourceTruncatedError
from recension.model.event import Event
from recension.sources import runs as module
from recension.sources.items import Item, Rejected, RunEnd, SiteInfo
from recension.sources.mediawiki_xml import read_history
from recension.sources.runs import WHOLE, Runs, Share
from tests.sources.helpers import SITEINFO, dump, page, revision

RUN = 2000
DECLARED = b'<?xml version="1.0" encoding="utf-8"?>\n'


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUN_BYTES", RUN)


def pages(count: int = 40, *, at: int = -1, odd: str = "") -> str:
    """Return pages of two revisions, some of them bad; ``odd`` stands before page ``at``."""
    return "".join(
        f"{odd if number == at else ''}\n"
        + page(
            f"\n{revision(number * 10)}\n{revision('x' if number % 7 == 3 else number * 10 + 1)}<odd/>",
            head=f"<title>Talk:Page {number}</title><id>{number}</id>",
        )
        for number in range(1, count + 1)
    )


class Trickle(io.BytesIO):
    """A source that gives a few bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(self._most, size if size is not None and size >= 0 else self._most))


class Cut(io.BytesIO):
    """A source that is damaged at its end."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if not data:
            raise SourceTruncatedError("cut", hint="fetch it again")
        return data


def split(items: list[Item]) -> list[list[Item]]:
    """Return the items of each run; the last is empty where another share has the end."""
    out: list[list[Item]] = [[]]
    for item in items:
        if isinstance(item, RunEnd):
            out.append([])
        else:
            out[-1].append(item)
    return out


def read(source: io.BytesIO, share: Share = WHOLE) -> tuple[list[list[Item]], str]:
    """Return the items of each run, and the error that ended them."""
    items: list[Item] = []
    try:
        items.extend(read_history(source, Path("d"), "p", share))
    except SourceError as error:
        return split(items), f"{error.reason}: {error.message}"
    return split(items), ""


def taken_in_turn(data: bytes, of: int, kind: type[io.BytesIO] = io.BytesIO) -> tuple[list[list[Item]], str]:
    """Read all shares and take their runs in turn, until one has ended."""
    shares = [read(kind(data), Share(which, of)) for which in range(of)]
    out: list[list[Item]] = []
    while True:
        runs, error = shares[len(out) % of]
        out.append(runs.pop(0))
        if not runs:
            return out, error


def plain(data: bytes, monkeypatch: pytest.MonkeyPatch) -> list[Item]:
    """Return the items of a file that is one run."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "RUN_BYTES", 1 << 40)
        (items,) = read(io.BytesIO(data))[0]
    return items


def records(items: list[Item]) -> list[Item]:
    return [item for item in items if isinstance(item, Event | Rejected | SiteInfo)]


@pytest.mark.parametrize("head", [b"", DECLARED, b"\xef\xbb\xbf" + DECLARED])
def test_runs_hold_what_the_file_holds(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events, rejected records with line, byte and excerpt, namespaces: all as from one document."""
    data = head + dump(pages())
    runs, error = read(io.BytesIO(data))
    assert not error
    assert len(runs) > 3
    expected = records(plain(data, monkeypatch))
    assert expected == [item for run in runs for item in records(run)]
    assert 5 < sum(isinstance(item, Rejected) for item in expected)


@pytest.mark.parametrize("of", [2, 3, 50])
@pytest.mark.parametrize("kind", [io.BytesIO, Cut])
def test_shares_hold_what_one_reader_gets(of: int, kind: type[io.BytesIO]) -> None:
    """Runs taken in turn are the same, item by item, and end with the same error."""
    for data in (dump(pages()), dump(pages())[:-300], dump(pages())[:-12], dump(pages()) + b"<mediawiki>"):
        assert read(kind(data)) == taken_in_turn(data, of, kind)


@pytest.mark.parametrize("most", [1, 5, 1999])
def test_runs_depend_on_the_bytes_alone(most: int) -> None:
    """A source that gives little at a time is cut in the same places."""
    data = dump(pages())
    assert read(io.BytesIO(data)) == read(Trickle(data, most))


@pytest.mark.parametrize("odd", ["<!-- </page> -->", "<odd><![CDATA[</page>]]></odd>", "<?odd </page>?>"])
@pytest.mark.parametrize("at", [1, 2, 20])
def test_what_hides_the_end_of_a_page_ends_the_cutting(
    odd: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comment, CDATA or processing instruction is no end of a page; its run is the last."""
    data = dump(pages(at=at, odd=odd))
    runs, error = read(io.BytesIO(data))
    assert not error
    assert (at > 2) == (len(runs) > 1)
    assert data.count(b"<page>") > 2 * (len(runs) - 1)
    assert records(plain(data, monkeypatch)) == [item for run in runs for item in records(run)]
    for of in (2, 3):
        assert (runs, error) == taken_in_turn(data, of)


@pytest.mark.parametrize(
    "data",
    [
        dump(pages()).decode().encode("utf-16"),
        b'<?xml version="1.0" encoding="iso-8859-1"?>' + dump(pages()),
        dump(pages()).replace(b"mediawiki", b"mw:mediawiki"),
        b"<!-- a dump -->" + dump(pages()),
        dump(pages(at=3, odd=SITEINFO)),
        dump(pages(), siteinfo=f"{SITEINFO}<odd>{'x' * (1 << 20)}</odd>"),
    ],
)
def test_a_file_that_begins_otherwise_is_one_run(data: bytes) -> None:
    """Where the head is not what MediaWiki writes, nothing is cut, and the other shares are empty."""
    runs, error = read(io.BytesIO(data))
    assert (1, "") == (len(runs), error)
    assert ([[]], "") == read(io.BytesIO(data), Share(1, 2))


def test_a_page_inside_a_page_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends inside of an element is not well-formed, for any number of shares."""
    data = dump(f"<page>{pages()}</page>")
    _, error = read(io.BytesIO(data))
    assert "not well-formed: mismatched tag" in error
    assert read(io.BytesIO(data)) == taken_in_turn(data, 2)
    assert records(plain(data, monkeypatch))


def test_the_head_is_what_comes_before_the_first_page() -> None:
    """It is closed, so that it can be parsed by itself."""
    assert dump("") == Runs(io.BytesIO(dump(pages())), WHOLE).head()[:-12].rstrip() + b"</mediawiki>"


def test_pages_without_records_have_a_head() -> None:
    """An empty head is told with the first run, whoever has the first record."""
    empty = "".join(page("", head=f"<title>{number}</title><id>1</id>" + " " * 300) for number in range(20))
    data = dump(empty + page(revision(1)), siteinfo="")
    runs, _ = read(io.BytesIO(data))
    assert [SiteInfo()] == records(runs[0])
    assert 1 == sum(isinstance(item, SiteInfo) for run in runs for item in run)
    assert (runs, "") == taken_in_turn(data, 2)
