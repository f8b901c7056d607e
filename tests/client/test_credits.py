"""Credits beside an export: the same in each form, harmless to whoever reads them, and whole or not there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
import yaml
from markdown_it import MarkdownIt
from pyarrow import parquet

from recension.archive.agreements import Agreements
from recension.archive.keyring import Keyring
from recension.model.access import Role
from recension.model.agreement import parse_document
from recension.model.credit import Attribution, read_periods
from recension.model.digest import format_digest
from recension.model.errors import RecensionError, VerificationError
from recension.model.event import HIDDEN_CONTRIBUTOR, NOBODY, Contributor, Edit
from recension.model.instant import parse_instant
from recension.model.licensee import Licensee
from recension.model.manifest import Manifest
from recension.server.build import make_server
from recension.server.config import ServeConfig
from recension.server.pepper import Pepper
from recension.store.directory import PEPPER_FILE
from recension_client.cli.main import main
from recension_client.client import Client
from recension_client.credits import writing
from recension_client.credits.html import HtmlBook
from recension_client.credits.markdown import MarkdownBook
from recension_client.credits.writing import write
from recension_client.export.checking import check
from recension_client.export.fetching import fetch, read_held
from recension_client.export.folder import Folder
from recension_client.export.layout import Form
from recension_client.streams import AttributionStream
from tests.archive.helpers import World, edit, hide, move

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HOSTILE = [
    "<script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    "\"onmouseover='alert(1)",
    "[click](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "<https://evil.example>",
    "www.evil.example",
    "`code` *bold* _it_ ~~s~~ | pipe | # head",
    "&lt;b&gt; &amp;copy;",
    "\u202etxt.exe\u202c and \u2028 line",
    "Ünï ж 中 \U0001f600",
    "a\\b \\[x\\]",
    "---",
    "1. one",
]
PAGES = 40


def by(rev: int, title: str, who: Contributor) -> Edit:
    return replace(edit(rev, f"text {rev}", title), contributor=who)


@pytest.fixture(scope="module")
def world() -> World:
    """Pages whose titles and contributors are all that anybody could think of."""
    world = World()
    world.ingestor.set_licenses("w", read_periods(["CC-BY-SA-3.0", "CC0-1.0@2020-01-04"]))
    for page in range(1, PAGES + 1):
        title = HOSTILE[page % len(HOSTILE)] if page <= 2 * len(HOSTILE) else f"Page {page}"
        name = HOSTILE[(page + 5) % len(HOSTILE)]
        people = [
            Contributor.named(name, page),
            Contributor.named("192.0.2.1"),
            Contributor.named("en>Zoë", 0),
        ]
        world.add(
            *(world.event(page, 1 + at / 10, by(10 * page + at, title, who)) for at, who in enumerate(people))
        )
    world.add(
        world.event(1, 2, by(19, HOSTILE[1], HIDDEN_CONTRIBUTOR)),
        world.event(2, 2, by(29, HOSTILE[2], NOBODY)),
    )
    return world


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[Client]:
    server = make_server(world.archive, world.ingestor, world.store, ServeConfig(data=Path("unused")))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"127.0.0.1:{port}") as made:
        yield made
    server.stop(None).wait()


@pytest.fixture(scope="module")
def manifest(world: World) -> Manifest:
    return world.archive.snapshot(world.snapshot(4))


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in zstd.decompress(path.read_bytes()).splitlines()]


def named(found: list[Attribution]) -> list[tuple[int, int, str, list[tuple[str, int]]]]:
    return [
        (one.page_id, one.rev_id, one.license, [(share.person.name, share.edits) for share in one.shares])
        for one in found
    ]


def test_an_export_says_the_licences_of_the_credits(
    client: Client, manifest: Manifest, tmp_path: Path
) -> None:
    """Those of the days of its revisions, by a licence that is not the project's of today; it verifies."""
    expected = {one.page_id: one.license for one in client.attributions(manifest.snapshot_id)}
    assert {"CC-BY-SA-3.0"} == set(expected.values()) != {client.project("w").license}
    fetch(client, manifest, tmp_path, Form.JSONL)
    rows = [row for path in sorted(tmp_path.rglob("*.jsonl.zst")) for row in lines(path)]
    assert expected == {row["page_id"]: row["license"] for row in rows}
    with Folder.at(tmp_path) as root:
        assert check(root, read_held(root)).ok


def test_rows_say_what_the_server_says(
    client: Client, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON Lines and Parquet hold the same, over any number of files, and the index lists them by digest."""
    monkeypatch.setattr(writing, "FILE_PAGES", 15)
    expected = list(client.attributions(manifest.snapshot_id))
    made = write(client, manifest, tmp_path / "a", Form.JSONL)
    folder = tmp_path / "a/credits"
    paths = sorted((folder / "rows").iterdir())
    assert ["w-00001.jsonl.zst", "w-00002.jsonl.zst", "w-00003.jsonl.zst"] == [path.name for path in paths]
    rows = [row for path in paths for row in lines(path)]
    assert named(expected) == [
        (
            row["page_id"],
            row["rev_id"],
            row["license"],
            [(one["name"], one["edits"]) for one in row["contributors"]],
        )
        for row in rows
    ]
    assert [(1, 0), (0, 1), (0, 0)] == [(row["hidden_edits"], row["unstated_edits"]) for row in rows[:3]]
    assert ["registered", "address", "imported"] == [one["kind"] for one in rows[0]["contributors"]]
    assert {"name": "Zoë", "origin": "en", "id": 0, "edits": 1}.items() <= rows[0]["contributors"][2].items()
    assert "https://w.example/w/index.php?title=Page_40&oldid=402" == rows[-1]["url"]
    index = json.loads((folder / "index.json").read_bytes())
    assert format_digest(manifest.snapshot_id) == index["snapshot"]
    for each in index["files"]:
        content = (folder / each["path"]).read_bytes()
        assert (sha256(content).hexdigest(), len(content)) == (each["sha256"], each["size_bytes"])
    assert (PAGES, 3 * PAGES + 2, 1, 1) == (made.pages, made.edits, made.hidden_edits, made.unstated_edits)
    assert {"CC-BY-SA-3.0": PAGES} == dict(made.licenses)
    write(client, manifest, tmp_path / "b", Form.PARQUET)
    tables = [parquet.read_table(path) for path in sorted((tmp_path / "b/credits/rows").iterdir())]
    columns = [row for table in tables for row in table.to_pylist()]
    for row, column in zip(rows, columns, strict=True):
        times = {
            name: column[name].isoformat().replace("+00:00", "Z") for name in ("timestamp", "first_edit_at")
        }
        assert row == column | times


class Reading(HTMLParser):
    """What a browser makes of a page: its elements, and its text by element."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)


ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "nav", "a", "h1", "p"),
    *("section", "h2", "bdi", "table", "tr", "th", "td"),
}


def test_pages_for_people_are_harmless(
    client: Client, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Titles and names are text and nothing else, in HTML and in Markdown; parts lead to one another."""
    monkeypatch.setattr(writing, "BOOK_PAGES", 25)
    write(client, manifest, tmp_path, Form.JSONL, books=[HtmlBook(), MarkdownBook()])
    folder = tmp_path / "credits"
    names = ["00001.html", "00002.html", "index.html"]
    assert names == sorted(path.name for path in (folder / "html").iterdir())
    titles: list[str] = []
    for name in names:
        page = Reading()
        page.feed((folder / "html" / name).read_text())
        assert ELEMENTS >= {tag for tag, _ in page.elements}
        policies = [one["content"] or "" for tag, one in page.elements if "http-equiv" in one]
        assert [True] == [policy.startswith("default-src 'none'; style-src 'sha256-") for policy in policies]
        for tag, attributes in page.elements:
            assert not any(key.startswith("on") for key in attributes)
            if "href" in attributes:
                link = attributes["href"] or ""
                assert tag == "a"
                assert (
                    link.startswith(("https://w.example/w/index.php?", "https://creativecommons.org/"))
                    or link in names
                )
        if name != "index.html":
            titles += page.texts["bdi"]
    for title in HOSTILE:
        shown = title.translate({0x202E: 0xFFFD, 0x202C: 0xFFFD, 0x2028: 0xFFFD})
        assert titles.count(shown) >= 2  # as a title, and as a name
    parser = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    texts: list[str] = []
    for path in sorted((folder / "markdown").iterdir()):
        for token in parser.parse(path.read_text()):
            assert token.type not in {"html_block", "fence", "code_block"}
            for inner in token.children or ():
                assert inner.type in {"text", "link_open", "link_close", "softbreak", "text_special"}
                if inner.type == "link_open":
                    href = str(inner.attrs["href"])
                    assert href.startswith(
                        ("https://w.example/", "https://creativecommons.org/")
                    ) or href.endswith(".md")
            texts.append("".join(inner.content for inner in token.children or ()))
    for title in HOSTILE:
        shown = title.translate({0x202E: 0xFFFD, 0x202C: 0xFFFD, 0x2028: 0xFFFD})
        assert any(text.startswith(shown) for text in texts)


def test_links_lead_to_the_revision(client: Client, manifest: Manifest) -> None:
    """Whatever the title, its address has it and the revision."""
    for one in client.attributions(manifest.snapshot_id):
        query = parse_qs(urlsplit(one.link("https://w.example")).query)
        assert [one.title.replace(" ", "_")] == query.pop("title")
        # The test of increments may have hidden one, whose own address leads nowhere.
        assert query == {"oldid": [str(one.rev_id)]} or (one.rev_id, query) == (322, {"action": ["history"]})


class Lying(Client):
    """A client of a server that sends other pages than the snapshot's, or not all of them."""

    def attributions(self, *arguments: Any, **options: Any) -> Iterator[Attribution]:
        found = list(super().attributions(*arguments, **options))
        yield from self.changed(found)

    changed: Callable[[list[Attribution]], list[Attribution]]


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda found: [*found, found[-1]._replace(page_id=41)], "41 pages came"),
        (lambda found: [*found[:20], found[20]._replace(project="x")], "not in the snapshot"),
    ],
)
def test_credits_are_whole_or_as_they_were(
    client: Client,
    manifest: Manifest,
    tmp_path: Path,
    change: Callable[[list[Attribution]], list[Attribution]],
    said: str,
) -> None:
    """A run that fails leaves the older credits and nothing else; the next one takes their place."""

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "credits").rglob("*") if path.is_file()}

    write(client, manifest, tmp_path, Form.JSONL, books=[MarkdownBook()])
    before = files()
    with Lying(client.target) as liar, pytest.raises(VerificationError, match=said):
        liar.changed = change
        write(liar, manifest, tmp_path, Form.JSONL)
    assert before == files()
    write(client, manifest, tmp_path, Form.JSONL)
    assert not (tmp_path / "credits/markdown").exists()
    assert not list((tmp_path / ".recension").glob("credits-[no]*"))


def test_pages_outside_of_what_is_granted_are_counted(
    client: Client, manifest: Manifest, tmp_path: Path
) -> None:
    """A licensee who may not read all of a snapshot gets the credits of the rest, and is told."""
    with Lying(client.target) as less:
        less.changed = lambda found: found[:-3]
        made = write(less, manifest, tmp_path, Form.JSONL)
    assert (PAGES - 3, 3) == (made.pages, made.uncredited)
    assert 3 == json.loads((tmp_path / "credits/index.json").read_bytes())["uncredited"]


def test_an_increment_has_the_changed_pages(world: World, client: Client, tmp_path: Path) -> None:
    """Since another snapshot: only pages whose entry is another now."""
    before = world.snapshot(4)
    world.add(world.event(30, 5, by(309, "Page 30", Contributor.named("Eve", 99))))
    world.add(world.event(31, 5, move("Page 31", "Moved")), world.event(32, 5, hide(322)))
    after = world.archive.snapshot(world.snapshot(6))
    made = write(client, after, tmp_path, Form.JSONL, since=before)
    rows = lines(tmp_path / "credits/rows/w-00001.jsonl.zst")
    assert [(30, "Page 30", "CC0-1.0"), (31, "Moved", "CC-BY-SA-3.0")] == [
        (row["page_id"], row["title"], row["license"]) for row in rows
    ]
    assert (2, before) == (made.pages, made.since)


def test_a_stream_that_does_not_fit_is_refused(client: Client, manifest: Manifest) -> None:
    """Contributors out of range, pages out of order, ends that count others, pages that are not alone."""
    call = AttributionStream(manifest.snapshot_id)
    messages = list(call.method(client._open())(call.request()))

    def taken(*changed: Any) -> list[Attribution]:
        stream = AttributionStream(manifest.snapshot_id)
        return [one for message in changed for one in stream.take(message)]

    def with_batch(**fields: Any) -> Any:
        message = type(messages[0])()
        message.CopyFrom(messages[0])
        for name, value in fields.items():
            if name == "page":
                value(message.batch.pages[0])
            else:
                del getattr(message.batch, name)[:]
        return message

    assert PAGES == len(taken(*messages))
    end = type(messages[-1])()
    end.CopyFrom(messages[-1])
    end.end.edits += 1
    wrong = {
        "batch": [with_batch(contributors=None)],
        "batch ": [with_batch(page=lambda page: page.contributors.append(10**6))],
        "batch  ": [with_batch(page=lambda page: page.contributors.__setitem__(0, -1))],
        "empty": [with_batch(pages=None)],
        "went back": [messages[0], messages[0]],
        "counted": [messages[0], end],
        "not alone": [_continued(messages[0])],
    }
    for what, some in wrong.items():
        with pytest.raises(VerificationError, match=what.strip()):
            taken(*some)


def _continued(message: Any) -> Any:
    made = type(message)()
    made.CopyFrom(message)
    made.batch.pages[-1].continued = True
    return made


def said_of(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a command wrote, without what the server in this process logged."""
    lines = capsys.readouterr().out.splitlines()
    return "\n".join(line for line in lines if not re.match(r"\d{4}-\d\d-\d\d ", line))


def command(client: Client, *arguments: str) -> int:
    return main(["--server", client.target, *arguments])


def test_commands(
    client: Client, manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person asks for one page, for a revision, and for the files; a lock says of which snapshot."""
    assert 0 == command(client, "attribution", "w", "Page 40")
    said = said_of(capsys)
    assert "“Page 40”, revision 402" in said
    assert "Zoë (of en)" in said
    assert 0 == command(client, "attribution", "w", "rev:10", "--json")
    document = json.loads(said_of(capsys))
    assert (HOSTILE[1], "CC BY-SA 3.0") == (
        document["essential"]["title"],
        document["essential"]["license"]["short"],
    )
    assert (1, 0, None) == (document["edits"], document["hidden_edits"], document["agreement"])
    snapshot = format_digest(manifest.snapshot_id)
    assert 0 == command(client, "credits", snapshot, str(tmp_path / "c"), "--html", "--markdown", "--json")
    document = json.loads(said_of(capsys))
    assert (PAGES, {"CC-BY-SA-3.0": PAGES}) == (document["pages"], document["licenses"])
    lock = tmp_path / "recension.lock"
    assert 0 == command(client, "pin", "w", "--at", "2020-01-05", "--lock", str(lock))
    assert 0 == command(client, "credits", str(tmp_path / "d"), "--lock", str(lock), "--form", "parquet")
    assert (tmp_path / "d/credits/rows/w-00001.parquet").exists()
    assert 0 == command(client, "credits", snapshot, str(tmp_path / "e"), "--since", str(lock), "--json")
    refused = [
        ["attribution", "w", "rev:10", "--at", "2020-01-05"],
        ["credits", snapshot, str(tmp_path / "e"), "--card"],
        ["credits", snapshot, str(tmp_path / "e"), "--since", snapshot, "--card"],
        ["credits", snapshot, str(tmp_path / "e"), "more"],
        ["attribution", "w", "rev:99"],
    ]
    capsys.readouterr()
    for arguments in refused:
        assert 3 == command(client, *arguments)
        assert "error: " in capsys.readouterr().err


VALIDATE = """
import json, warnings
warnings.simplefilter("ignore")
import mlcroissant
found = {}
for form, names in (("parquet", ("w", "w-credits")), ("jsonl", ())):  # it reads no zstd
    dataset = mlcroissant.Dataset(f"{form}/croissant.json")
    records = {name: sum(1 for _ in dataset.records(name)) for name in names}
    found[form] = [sorted(dataset.metadata.issues.errors), sorted(dataset.metadata.issues.warnings), records]
print(json.dumps(found))
"""


def test_descriptions_of_a_dataset(
    client: Client, manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The card is what the hub reads, Croissant what its validator takes; the files stay what they were."""
    snapshot = format_digest(manifest.snapshot_id)
    for form, name in ((Form.PARQUET, "parquet"), (Form.JSONL, "jsonl")):
        target = tmp_path / name
        fetch(client, manifest, target, form)
        for _ in range(2):
            assert 0 == command(client, "credits", snapshot, str(target), "--card", "--form", name)
        assert 0 == command(client, "verify", str(target))
        _, front, body = (target / "README.md").read_text().split("---\n", 2)
        said = yaml.safe_load(front)
        assert (["cc-by-sa-3.0"], ["en"], ["n<1K"]) == (
            said["license"], said["language"], said["size_categories"]
        )  # fmt: skip
        assert [{"config_name": "w", "data_files": f"data/w/*.{form}"}] == said["configs"]
        for needed in (
            snapshot, format_digest(manifest.parts[0].root), "122 edits", "2020-01-05", "signs nothing"
        ):  # fmt: skip
            assert needed in body
        described = json.loads((target / "croissant.json").read_bytes())
        files = {one["@id"]: one for one in described["distribution"] if one["@type"] == "cr:FileObject"}
        assert {f"data/w/00000-of-00001.{form}", f"credits/rows/w-00001.{form}"} == set(files)
        for path, one in files.items():
            assert sha256((target / path).read_bytes()).hexdigest() == one["sha256"]
        assert (False, "http://mlcommons.org/croissant/1.1") == (
            described["isLiveDataset"], described["conformsTo"]
        )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", VALIDATE], capture_output=True, check=False, cwd=tmp_path, text=True
    )
    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"parquet": [[], [], {"w": PAGES, "w-credits": PAGES}], "jsonl": [[], [], {}]} == found
    mine = tmp_path / "jsonl/README.md"
    mine.write_text("mine")
    capsys.readouterr()
    assert 3 == command(client, "credits", snapshot, str(mine.parent), "--card")
    assert "written by somebody else" in capsys.readouterr().err
    assert "mine" == mine.read_text()


def test_no_link_is_made_of_an_address_that_is_none(
    client: Client, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that says another kind of address than http is refused before anything is written."""
    for url in ("javascript:alert(1)", 'https://w.example/"><script>', "https://w.example/ x", "https://"):
        info = replace(client.project("w"), base_url=url)
        with monkeypatch.context() as patch:
            patch.setattr(Client, "project", lambda *_, info=info: info)
            with pytest.raises(RecensionError, match="linked"):
                write(client, manifest, tmp_path, Form.JSONL)
    assert not (tmp_path / "credits").exists()


def test_a_licensee_credits_what_it_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pages that its agreement covers and no others, under terms that the card names."""
    world = World()
    zoe, eve = Contributor.named("Zoë", 8), Contributor.named("Eve", 9)
    world.add(world.event(1, 3, by(1, "A", zoe)), world.event(2, 1, by(2, "Old", eve)))
    pepper = Pepper(tmp_path / PEPPER_FILE)
    pepper.make()
    agreements = Agreements(world.store)
    agreements.add_licensee(Licensee("acme", 1))
    document = {
        "grants": [{"projects": ["w"], "freshness": "realtime", "earliest": "2020-01-03"}],
        "valid_from": "2020-01-01",
        "terms": {"url": "https://w.example/terms?a=(b)", "sha256": "sha256:" + "ab" * 32},
        "attribution": {"duties": ["permalink"], "statement": "Name *us* <b>everywhere</b>."},
    }
    version, _ = agreements.add(parse_document(document, "acme"))
    key = Keyring(world.store, pepper).make("acme", Role.LICENSEE, parse_instant("2999-01-01"))
    monkeypatch.setenv("RECENSION_KEY", key.written)
    manifest = world.archive.snapshot(world.snapshot(4))
    server = make_server(world.archive, world.ingestor, world.store, ServeConfig(data=tmp_path))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    address = ("--server", f"127.0.0.1:{port}")
    target, snapshot = tmp_path / "c", format_digest(manifest.snapshot_id)
    assert 0 == main([*address, "fetch", snapshot, str(target)])
    assert 0 == main([*address, "credits", snapshot, str(target), "--card", "--html", "--markdown"])
    assert "1 pages lie outside" in capsys.readouterr().err
    assert ["A"] == [row["title"] for row in lines(target / "credits/rows/w-00001.jsonl.zst")]
    card = (target / "README.md").read_text()
    for needed in (version.name, "<https://w.example/terms?a=(b)>", "sha256:abab", "with it: permalink."):
        assert needed in card
    assert "<b>" not in "".join(
        token.content for token in MarkdownIt().parse(card) if token.type == "html_block"
    )
    for path in target.rglob("*"):
        assert not path.is_file() or b"Eve" not in path.read_bytes()
    assert 0 == main([*address, "attribution", "w", "A", "--json"])
    told = json.loads(said_of(capsys))["agreement"]
    assert (version.name, ["permalink"]) == (told["version"], told["duties"])
    assert 3 == main([*address, "attribution", "w", "rev:2"])
    assert "Eve" not in capsys.readouterr().err
    server.stop(None).wait()
