"""``recension diff --html``: what the page tells, and a real browser that looks at it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from recension.model.difference import DiffLine, LineKind
from recension.model.errors import VerificationError
from recension.model.manifest import OnHidden
from recension.model.reading import Change, ChangeKind, Revision
from recension_client.cli import main as command
from recension_client.report import gather as gathering
from recension_client.report.drawing import _pieces as pieces
from recension_client.report.drawing import draw, size
from recension_client.report.gather import Report, gather
from recension_client.report.page import render
from recension_client.visible import visible
from tests.archive.helpers import World, delete, edit, hide, move
from tests.client.browser import Browser, browsing
from tests.client.processes import BIN, at, serving

PAYLOADS = [
    "<script>window.canary=1</script>",
    "</script><script>window.canary=1</script>",
    "</style><script>window.canary=1</script>",
    "</title><script>window.canary=1</script>",
    '"><img src=x onerror="window.canary=1">',
    "'><img src=x onerror='window.canary=1'>",
    "<svg onload=window.canary=1></svg>",
    "<details open ontoggle=window.canary=1>x</details>",
    "<iframe srcdoc='<script>parent.canary=1</script>'></iframe>",
    "<input autofocus onfocus=window.canary=1>",
    "<!--<img src=x onerror=window.canary=1>-->",
    "]]><img src=x onerror=window.canary=1>",
    "&lt;script&gt;window.canary=1&lt;/script&gt;",
    "{{ 7 * 7 }}{% raw %}",
    "\u202e<b>right to left",
    "x" * 250,
]
RUNNING = PAYLOADS[:10]
"""Those that run where they stand unescaped."""

TITLES = "[...document.querySelectorAll('details:not([hidden]) .title')].map(one => one.textContent)"
"""Of the pages that are shown."""


@pytest.fixture(scope="module")
def hostile() -> tuple[World, bytes, bytes]:
    """Pages whose titles and texts are payloads, and two snapshots with changes of each kind."""
    world = World()
    number = len(PAYLOADS)
    world.add(
        *(
            world.event(page, 1, edit(page, f"Same\n{text} old words\n" * 3, text))
            for page, text in enumerate(PAYLOADS, 1)
        ),
        world.event(100, 1, edit(100, "to be moved", "Old name")),
        world.event(101, 1, edit(101, "to be deleted " + PAYLOADS[0], "Going")),
        world.event(102, 1, edit(102, "secret " * 20, "Withdrawn")),
        world.event(103, 1, edit(103, "long line " * 2_000 + "end", "Long")),
    )
    before = world.snapshot(2, on_hidden=OnHidden.KEEP)
    world.add(
        *(
            world.event(page, 10 + page, edit(200 + page, f"Same\n{text} new words\n" * 3, text))
            for page, text in enumerate(PAYLOADS, 1)
        ),
        world.event(100, 11, move("Old name", "New name")),
        world.event(101, 12, delete("Going")),
        world.event(
            103, 12, edit(303, "long line " * 1_000 + "here " + "long line " * 1_000 + "end", "Long")
        ),
        world.event(104, 13, edit(304, "\n".join(PAYLOADS), "Coming")),
    )
    world.add(world.event(102, 1, hide(102)))
    after = world.snapshot(20 + number, on_hidden=OnHidden.KEEP)
    return world, before, after


@pytest.fixture(scope="module")
def report(hostile: tuple[World, bytes, bytes]) -> Report:
    world, before, after = hostile
    return gather(world.archive, before, after, pages=200)


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(report, "test"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as one:
        yield one


# --- what it tells ---


def test_all_changes_are_counted(report: Report) -> None:
    """Numbers are those of every change, by kind, size and day."""
    edited = len(PAYLOADS) + 1
    assert report.kinds == {
        ChangeKind.EDITED: edited,
        ChangeKind.MOVED: 1,
        ChangeKind.REMOVED: 1,
        ChangeKind.RETRACTED: 1,
        ChangeKind.ADDED: 1,
    }
    assert report.changes == edited + 4 == report.deltas.total()
    assert report.days.total() == edited + 1
    texts = ["\n".join(PAYLOADS), "to be deleted " + PAYLOADS[0]]
    assert (report.bytes_grown, report.bytes_shrunk) == (
        len(texts[0].encode()) + len("here "),
        len(texts[1].encode()),
    )


def test_pages_tell_what_differs(report: Report) -> None:
    """Texts are compared where both are there; what is not told says why."""
    pages = {shown.change.page_id: shown for shown in report.pages}
    edited = pages[1].diff
    assert edited is not None
    assert (edited.lines_removed, edited.lines_added) == (3, 3)
    assert [pages[number].note for number in (100, 102)] == [
        "Its text is the same.",
        "Its text in A was withdrawn.",
    ]
    for number, kind in ((101, LineKind.REMOVED), (104, LineKind.ADDED)):
        diff = pages[number].diff
        assert diff is not None
        assert {line.kind for hunk in diff.hunks for line in hunk.lines} == {kind}
    assert next(shown.change.kind for shown in report.pages) is ChangeKind.RETRACTED


def test_the_pages_shown_are_bounded(hostile: tuple[World, bytes, bytes]) -> None:
    """Of more changes the largest are shown, of both sides and of one, and the page says how many."""
    world, before, after = hostile
    few = gather(world.archive, before, after, pages=4)
    assert [shown.change.page_id for shown in few.pages] == [102, 103, 104, 101]
    assert few.changes == len(PAYLOADS) + 5
    assert f"The 4 largest of {few.changes} changed pages are shown" in render(few, "test")
    assert "largest of" not in render(gather(world.archive, before, after, pages=200), "test")


def test_texts_are_bounded(hostile: tuple[World, bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no room for more text, pages are still told, and say that more differs."""
    world, before, after = hostile
    monkeypatch.setattr(gathering, "ALL_BYTES", 500)
    few = gather(world.archive, before, after, pages=200)
    held = [
        len(line.text.encode())
        for shown in few.pages
        if shown.diff is not None
        for hunk in shown.diff.hunks
        for line in hunk.lines
    ]
    assert sum(held) <= 500
    assert len(few.pages) == few.changes
    assert "More differs than is shown here." in render(few, "test")


def test_hidden_and_lost_texts_are_named() -> None:
    """What was hidden before both snapshots, or lost upstream, is said and never empty."""
    world = World()
    world.add(world.event(1, 1, edit(1, "a", "A")), world.event(2, 1, edit(2, "", "B", lost=True)))
    world.add(world.event(1, 1, hide(1)))
    before = world.snapshot(2, on_hidden=OnHidden.KEEP)
    world.add(world.event(1, 3, edit(3, "c", "A")), world.event(2, 3, edit(4, "d", "B")))
    after = world.snapshot(4, on_hidden=OnHidden.KEEP)
    told = gather(world.archive, before, after, pages=9)
    assert {shown.change.page_id: shown.note for shown in told.pages} == {
        1: "Its text in A was withdrawn.",
        2: "Not compared: in A the text is lost.",
    }


def test_nothing_differs(hostile: tuple[World, bytes, bytes], browser: Browser, tmp_path: Path) -> None:
    """A report of nothing is a page that says so, without a complaint."""
    world, before, _ = hostile
    path = tmp_path / "nothing.html"
    path.write_text(render(gather(world.archive, before, before, pages=9), "test"), encoding="utf-8")
    browser.complaints()
    browser.open(path)
    assert "Nothing differs." in str(browser.ask("document.body.innerText"))
    assert browser.complaints() == []


class Lying:
    """A reader that gives other texts than the snapshot names."""

    def __init__(self, archive: Any) -> None:
        self._archive = archive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._archive, name)

    def revisions(self, project: str, rev_ids: list[int]) -> list[Revision]:
        (other,) = self._archive.revisions(project, [100])
        return [other for _ in rev_ids]


def test_a_text_of_another_revision_is_refused(hostile: tuple[World, bytes, bytes]) -> None:
    """What is shown is what the snapshots name."""
    world, before, after = hostile
    reader: Any = Lying(world.archive)
    with pytest.raises(VerificationError):
        gather(reader, before, after, pages=9)


class Endless(Lying):
    """A reader whose diff never ends."""

    def diff(self, before: bytes, after: bytes) -> Iterator[Change]:
        (change, *_) = self._archive.diff(before, after)
        while True:
            yield change


def test_a_diff_without_an_end_is_refused(hostile: tuple[World, bytes, bytes]) -> None:
    """More pages cannot differ than both snapshots have."""
    world, before, after = hostile
    reader: Any = Endless(world.archive)
    with pytest.raises(VerificationError, match="more changes than"):
        gather(reader, before, after, pages=9)


# --- how it is shown ---


@given(st.text())
def test_nothing_hides_in_what_is_shown(text: str) -> None:
    """No control and no direction character is left, and nothing is dropped."""
    shown = visible(text)
    assert len(shown) == len(text)
    assert not set(shown) & set("\0\x1b\x7f\x85\x9b\u200e\u200f\u202a\u202d\u202e\u2066\u2067\ufeff")


@given(st.text(max_size=60), st.data())
def test_short_lines_are_shown_whole(text: str, data: st.DataObject) -> None:
    """The pieces of a line are the line, and its marks are what differs."""
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    changed = tuple(zip(places[::2], places[1::2], strict=False))
    shown = list(pieces(DiffLine(LineKind.ADDED, text, changed)))
    assert "".join(piece.text for piece in shown) == visible(text)
    assert [piece.text for piece in shown if piece.style == "mark"] == [
        visible(text[start:end]) for start, end in changed
    ]


def test_long_lines_are_cut_between_what_differs() -> None:
    """A word that changed in a long line stands with what is around it."""
    line = DiffLine(LineKind.ADDED, "a" * 5_000 + "WORD" + "b" * 5_000, ((5_000, 5_004),))
    shown = [(piece.style, piece.text) for piece in pieces(line)]
    assert [style for style, _ in shown] == ["cut", "same", "mark", "same", "cut"]
    assert shown[0][1] == "⋯ 4,900 characters ⋯"
    assert shown[2] == ("mark", "WORD")
    whole = list(pieces(DiffLine(LineKind.ADDED, "c" * 5_000)))
    assert [piece.style for piece in whole] == ["same", "cut"]


@pytest.mark.parametrize(
    "number,wanted",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1 kB"),
        (12_345, "12.3 kB"),
        (999_600, "1 MB"),
        (10**16, "10,000 TB"),
    ],
)
def test_sizes(number: int, wanted: str) -> None:
    """Sizes have three digits and the unit that fits."""
    assert wanted == size(number)


def test_columns_hold_all_days(report: Report) -> None:
    """The timeline has a column for each time between the two, and none is higher than the drawing."""
    drawn = draw(report)
    assert 1 < len(drawn.columns) <= 48
    assert max(column.edited + column.added for column in drawn.columns) == 100
    assert all(column.top_of_added >= 0 for column in drawn.columns)


# --- a browser looks at it ---


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_every_screen(browser: Browser, page: Path, width: int, *, dark: bool) -> None:
    """Nothing is wider than the screen, however long a title or a word; it is dark where that is wanted."""
    browser.size(width, dark=dark)
    browser.open(page)
    browser.driver.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    browser.settle()
    assert browser.ask("innerWidth") == width
    assert browser.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    wider = "one => one.getBoundingClientRect().right > innerWidth + 1"
    assert (
        browser.ask(f"[...document.querySelectorAll('main *')].filter({wider}).map(one => one.outerHTML)")
        == []
    )
    back = str(browser.ask("getComputedStyle(document.body).backgroundColor"))
    assert dark == all(int(part) < 60 for part in back.removeprefix("rgb(").removesuffix(")").split(","))


def test_no_script_of_data_runs(browser: Browser, page: Path) -> None:
    """Whatever titles and texts hold is shown as it is and does nothing, also when every part is used."""
    browser.size(1280)
    browser.complaints()
    browser.open(page)
    browser.driver.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    for chip in browser.driver.find_elements(By.CSS_SELECTOR, "button.chip"):
        chip.click()
        chip.click()
    search = browser.driver.find_element(By.ID, "search")
    for payload in RUNNING:
        search.clear()
        search.send_keys(payload)
        browser.settle()
        titles = browser.ask(TITLES)
        assert isinstance(titles, list)
        assert payload in titles
    assert browser.ask("window.canary === undefined") is True
    assert browser.ask("document.scripts.length") == 1
    assert (
        browser.ask("document.querySelectorAll('img, iframe, object, embed, base, a, [style]').length") == 0
    )
    assert browser.ask("document.querySelectorAll('style, input').length") == 2
    # A refused script, style or request would be told here.
    assert browser.complaints() == []
    texts = str(browser.ask("document.querySelector('.pages').textContent"))
    assert all(visible(payload) in texts for payload in PAYLOADS)


@pytest.mark.parametrize("number", range(len(RUNNING)))
def test_the_payloads_would_run(browser: Browser, tmp_path: Path, page: Path, number: int) -> None:
    """The control: the same payload, unescaped, sets the canary, and under the page's policy it does not."""
    payload = RUNNING[number]
    # Each closes the element that it is made for, and needs no more than that to run.
    before = {1: "<script>", 2: "<style>", 3: "<title>", 4: '<p title="', 5: "<p title='"}.get(number, "")
    bare = tmp_path / "bare.html"
    bare.write_text(f"<!DOCTYPE html><body>{before}{payload}", encoding="utf-8")
    browser.open(bare)
    assert browser.ask("window.canary") == 1
    policy = page.read_text(encoding="utf-8").split("<meta http-equiv")[1].split(">")[0]
    bare.write_text(f"<!DOCTYPE html><meta http-equiv{policy}><body>{before}{payload}", encoding="utf-8")
    browser.open(bare)
    assert browser.ask("window.canary === undefined") is True
    browser.complaints()


def test_search_and_kinds_filter(browser: Browser, page: Path, report: Report) -> None:
    """Words of titles and of texts find pages, kinds can be left out, and the count follows."""
    browser.size(1280)
    browser.open(page)
    search = browser.driver.find_element(By.ID, "search")

    def shown() -> list[object]:
        browser.settle()
        titles = browser.ask(TITLES)
        assert isinstance(titles, list)
        assert browser.ask("document.getElementById('shown').value") == f"{len(titles)} shown"
        assert browser.ask("document.getElementById('none').hidden") == bool(titles)
        return titles

    assert len(shown()) == report.changes
    search.send_keys("NEW name")
    assert shown() == ["Old name → New name"]
    search.send_keys(Keys.CONTROL + "a", Keys.DELETE)
    search.send_keys("deleted")
    assert shown() == ["Going"]
    search.send_keys(Keys.CONTROL + "a", Keys.DELETE)
    search.send_keys("nobody wrote this")
    assert shown() == []
    search.send_keys(Keys.CONTROL + "a", Keys.DELETE)
    assert len(shown()) == report.changes
    browser.driver.find_element(By.CSS_SELECTOR, "button.chip.edited").click()
    assert len(shown()) == report.changes - report.kinds[ChangeKind.EDITED]


def test_the_words_that_differ_are_marked(browser: Browser, page: Path) -> None:
    """Of an edited line the new and the old word stand out, and nothing else."""
    browser.open(page)
    marks = browser.ask(
        "[...[...document.querySelectorAll('details')].find(one => one.querySelector('.title').textContent"
        " === '{{ 7 * 7 }}{% raw %}').querySelectorAll('mark')].map(one => one.textContent)"
    )
    assert marks == ["old", "new", "old", "new", "old", "new"]


# --- the command ---


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with serving(tmp_path_factory.mktemp("sample") / "data", "--sample") as address:
        yield at(address)


def made(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run ``recension`` in this process; return its status and what it wrote on both outputs."""
    status = command.main(arguments)
    out, err = capfd.readouterr()
    return status, out, err


def test_the_command_writes_the_page(
    sample: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file appears whole, nothing is written beside it, and a fault leaves an older one as it was."""
    monkeypatch.setenv("RECENSION_SERVER", sample["RECENSION_SERVER"])
    assert BIN.exists()
    a, b = (made(["snapshot", "aawiki", "--at", f"{year}-01-01"], capfd)[1].strip() for year in (2006, 2010))
    path = tmp_path / "report.html"
    assert made(["diff", a, b, "--html", str(path), "--exit-code", "--pages", "3"], capfd) == (1, "", "")
    first = path.read_text(encoding="utf-8")
    assert first.startswith("<!DOCTYPE html>")
    assert first.count("<details") == 3
    assert made(["diff", a, a, "--html", str(path), "--exit-code"], capfd) == (0, "", "")
    second = path.read_text(encoding="utf-8")
    assert "Nothing differs." in second
    status, out, err = made(["diff", a, "sha256:" + "0" * 64, "--html", str(path)], capfd)
    assert (status, out) == (3, "")
    assert err.startswith("error: no snapshot")
    assert path.read_text(encoding="utf-8") == second
    status, out, err = made(["diff", a, b, "--html", str(tmp_path / "none" / "x.html")], capfd)
    assert (status, out) == (3, "")
    assert "cannot write" in err
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


def test_a_report_without_its_extra_is_named(
    sample: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has not installed the extra is told how; the server is not even asked."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "recension_client.report.page")
    some = "sha256:" + "0" * 64
    status, _, err = made(["diff", some, some, "--html", str(tmp_path / "x.html"), "--json"], capfd)
    error = json.loads(err)["error"]
    assert (status, error["reason"], error["metadata"]["module"]) == (3, "EXTRA_MISSING", "jinja2")
    assert error["hint"] == "pip install 'recension[report]'"


def test_changes_without_both_sides_have_sizes() -> None:
    """A page of one side weighs nothing on the other."""
    change = Change(ChangeKind.ADDED, "w", 1, None, None)
    assert (change.text_bytes_before, change.text_bytes_after) == (0, 0)
