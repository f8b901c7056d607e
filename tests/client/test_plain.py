"""Plain text beside fetched wikitext: what a reader sees, the same to the byte, and no page that stops it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from pyarrow import parquet

from recension.model.errors import ExportDiffersError, ExportError, ExportFormatError, ExtraMissingError
from recension_client import lockfile
from recension_client.client import Client
from recension_client.export import layout, rendition
from recension_client.export.fetching import fetch, read_held
from recension_client.export.folder import Folder
from recension_client.export.layout import Form
from recension_client.export.plaintext import render
from recension_client.export.rendition import Renderer
from tests.client.corpus import HIDDEN, World, ask, made
from tests.client.processes import at

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMITED = """
from recension_client.export import plaintext
plaintext.CPU_SECONDS, plaintext.MEMORY_BYTES = {}, {} * 1024**2
plaintext.main()
"""
KILLED_RENDER = """
import os, signal, sys
from pathlib import Path
from recension_client.export import rendition
from recension_client.export.fetching import read_held
from recension_client.export.folder import Folder

target, steps = sys.argv[1:]
left = int(steps)

def killing(name):
    whole = getattr(Folder, name)
    def step(*arguments):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments)
    setattr(Folder, name, step)

with Folder.at(Path(target)) as root:
    export = read_held(root)
    for name in ("create", "rename", "move", "exchange", "remove"):
        killing(name)
    rendition.render(root, export, workers=1)
print(int(steps) - left)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("made")) as served:
        yield served


@pytest.fixture(scope="module")
def fetched(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose lock names files and their plain text."""
    folder = tmp_path_factory.mktemp("repository")
    ask(world, folder, "pin", "made", "--at", "2023-01-01", "--on-hidden", "keep")
    ask(world, folder, "fetch", "--plain")
    return folder


@pytest.fixture
def repository(fetched: Path, tmp_path: Path) -> Path:
    """One that a test may change."""
    return Path(shutil.copytree(fetched, tmp_path / "repository"))


def lines(folder: Path) -> list[dict[str, object]]:
    rows = []
    for path in sorted(folder.rglob("*.jsonl.zst")):
        rows += [json.loads(line) for line in zstd.decompress(path.read_bytes()).splitlines()]
    return rows


@pytest.mark.parametrize(
    "wikitext, plain",
    [
        ("'''Aa''' is [[town|a small town]].<ref>no</ref>", "Aa is a small town."),
        ("{{Box|a={{b}}}}\n\n\n\ntext {{x}}end", "text end"),
        ("[[File:A.jpg|thumb|a [[b]] c]]seen [[category:C]]", "seen"),
        ("a\n{|\n| cell [[d]]\n|}\nb", "a\n\nb"),
        ("* ''one''\n* two &amp; more<!-- not --> __NOTOC__", "one\n two & more"),
        ("== H ==\nH<sub>2</sub>O [http://x.org site]", "H \nH2O site"),
        ("'''[[File:A.jpg|in bold]]b'''", "b"),
        ("", ""),
        ("[[[{{{''<ref", "[[[{{{''<ref"),
    ],
)
def test_what_a_reader_sees(wikitext: str, plain: str) -> None:
    """Running text stays, what is not running text goes."""
    assert plain == render(wikitext)


@pytest.mark.parametrize(
    "limits, hostile, reasons",
    [
        ((0.5, 2_048), "<a b=" * 5_000, {"time"}),
        ((20, 96), "''a'''b" * 500_000, {"memory", "parser"}),
        ((20, 2_048), "<a b=" * 50, {None}),
    ],
    ids=["time", "memory", "neither"],
)
def test_a_page_that_takes_too_much(
    limits: tuple[float, int], hostile: str, reasons: set[str | None]
) -> None:
    """It gets no plain text, with the reason; the pages around it get theirs."""
    with Renderer((sys.executable, "-c", LIMITED.format(*limits))) as renderer:
        assert ("a", None) == renderer.render("''a''")
        assert renderer.render(hostile)[1] in reasons
        assert ("b", None) == renderer.render("''b''")


def test_plain_text_beside_its_wikitext(fetched: Path) -> None:
    """Each page has its row; one without text says why; the lock names the files and the library."""
    wikitext = {row["page_id"]: row for row in lines(fetched / "corpus" / "data")}
    plain = lines(fetched / "corpus" / "plain")
    assert list(wikitext) == [row["page_id"] for row in plain]
    for row in plain:
        source = wikitext[row["page_id"]]
        assert source["digest"] == row["digest"]
        if row["page_id"] == HIDDEN:
            assert (None, "withheld") == (row["text"], row["without"])
        else:
            assert (render(str(source["text"])), None) == (row["text"], row["without"])
    lock = lockfile.read(fetched / "recension.lock")
    assert lock.rendition is not None
    assert rendition.renderer_name() == lock.rendition.renderer
    assert [(len(plain), 1)] == [(file.rows, file.without) for file in lock.rendition.files]
    assert sum(len(str(row["text"] or "").encode()) for row in plain) == lock.rendition.files[0].text_bytes


def test_the_same_bytes_in_both_forms(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of workers makes the same files, and both forms say the same."""
    monkeypatch.setattr(layout, "SHARD_PAGES", 128)

    def rendered(name: str, form: Form, workers: int) -> dict[str, bytes]:
        with Client(world.address) as client, Folder.at(tmp_path / name, create=True) as root:
            done = fetch(client, client.snapshot(world.second), tmp_path / name, form)
            rendition.render(root, done.index, workers=workers)
        files = sorted((tmp_path / name / "plain").rglob("*.*"))
        return {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files}

    one = rendered("one", Form.JSONL, 1)
    assert 9 == len(one)
    assert one == rendered("many", Form.JSONL, 5)
    rendered("columns", Form.PARQUET, 2)
    rows = [
        row
        for path in sorted((tmp_path / "columns" / "plain").rglob("*.parquet"))
        for row in parquet.read_table(path).to_pylist()
    ]
    for row, line in zip(rows, lines(tmp_path / "one" / "plain"), strict=True):
        assert line == row | {"timestamp": line["timestamp"]}


def test_verify_looks_at_plain_text_too(world: World, repository: Path) -> None:
    """What was changed, taken away or put there is found; ``--plain`` renders everything again."""
    assert "ok: sha256:" in ask(world, repository, "verify", "--plain")
    assert "ok" in ask(world, repository, "verify", "corpus")
    plain = repository / "corpus" / "plain"
    path = next(plain.rglob("*.zst"))
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "its digest is another" in ask(world, repository, "verify", status=1)
    assert "its digest is another" in ask(world, repository, "lock", "--check", status=1)
    path.unlink()
    with Folder.at(repository / "corpus") as root:
        export = read_held(root)
        held = rendition.read_rendition(root, export)
        assert held is not None
        assert path.name in next(rendition.differing(root, export, held))
        path.write_bytes(good)
        assert not list(rendition.differing(root, export, held))
        (plain / "more").write_text("")
        assert "not a file of the rendition" in next(rendition.differing(root, export, held))
        (plain / "more").rename(path.with_name("more"))
        assert "not a file of the rendition" in next(rendition.differing(root, export, held))
        shutil.rmtree(plain)
        assert "plain is missing" in next(rendition.differing(root, export, held))
    ask(world, repository, "fetch")
    assert "ok: sha256:" in ask(world, repository, "verify")


def test_plain_text_that_is_not_that_of_the_files(world: World, repository: Path) -> None:
    """A text that was put there with all its digests set right is found by rendering again."""
    with Folder.at(repository / "corpus") as root:
        export = read_held(root)
        held = rendition.read_rendition(root, export)
    assert held is not None
    path = next((repository / "corpus" / "plain").rglob("*.zst"))
    rows = lines(path.parent)
    rows[3]["text"] = "another"
    path.write_bytes(zstd.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    lied = replace(
        held.files[0], sha256=sha256(path.read_bytes()).hexdigest(), size_bytes=path.stat().st_size
    )
    (repository / "corpus" / "plain" / "index.json").write_bytes(replace(held, files=(lied,)).encoded)
    assert "ok" in ask(world, repository, "verify", "corpus")
    assert "rendered again it is otherwise" in ask(world, repository, "verify", "corpus", "--plain", status=1)
    assert "its digest is another" in ask(world, repository, "verify", status=1)


def test_update_renders_what_it_fetched(world: World, tmp_path: Path) -> None:
    """A lock that has plain text keeps having it, of the newer pages."""
    ask(world, tmp_path, "pin", "made", "--at", "2021-01-01", "--on-hidden", "keep")
    ask(world, tmp_path, "fetch", "--plain", "--form", "parquet")
    before = lockfile.read(tmp_path / "recension.lock")
    ask(world, tmp_path, "update", "--at", "2023-01-01")
    after = lockfile.read(tmp_path / "recension.lock")
    assert before.rendition is not None
    assert after.rendition is not None
    assert before.rendition.sources != after.rendition.sources
    assert "ok\n" == ask(world, tmp_path, "lock", "--check")
    assert "plain text" in ask(world, tmp_path, "lock")


def test_another_version_of_the_library(
    repository: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files made by another one are refused by name unless they are to be made anew."""
    lock = repository / "recension.lock"
    lock.write_text(lock.read_text().replace(rendition.renderer_name(), "mwparserfromhell 0.0.1"))
    assert "made by mwparserfromhell 0.0.1" in ask(world, repository, "fetch", status=3)
    ask(world, repository, "fetch", "--rewrite")
    assert rendition.renderer_name() in lock.read_text()

    def gone(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(rendition, "version", gone)
    with pytest.raises(ExtraMissingError, match="mwparserfromhell"):
        rendition.renderer_name()


def test_a_damaged_list_is_refused(world: World, repository: Path) -> None:
    """Neither the lock nor the folder can name other files, or say other things than were made."""
    index = repository / "corpus" / "plain" / "index.json"
    good = json.loads(index.read_bytes())
    with Folder.at(repository / "corpus") as root:
        export = read_held(root)
        changes: tuple[dict[str, object], ...] = (
            {"format": "recension/rendition/v2"},
            {"more": 1},
            {"form": "parquet"},
            {"files": []},
            {"files": [good["files"][0] | {"path": "../a"}]},
            {"files": [good["files"][0] | {"sha256": "0"}]},
            {"files": [good["files"][0] | {"rows": -1}]},
            {"renderer": 1},
        )
        for change in changes:
            index.write_text(json.dumps(good | change))
            with pytest.raises(
                ExportFormatError, match=r"rendition format|list of plain text is damaged|has no files"
            ):
                rendition.read_rendition(root, export)
        index.write_text("[" * 100_000)
        with pytest.raises(ExportFormatError, match="damaged"):
            rendition.read_rendition(root, export)
    assert "damaged" in ask(world, repository, "verify", "corpus", status=1)
    lock = repository / "recension.lock"
    lock.write_text(lock.read_text().replace('format = "recension/rendition/v1"', 'format = "x"'))
    assert "rendition format" in ask(world, repository, "lock", status=3)


def test_killed_anywhere(repository: Path) -> None:
    """After SIGKILL there is the plain text as before or as it is to be, and the next run ends it."""
    target = repository / "corpus"
    with Folder.at(target) as root:
        export = read_held(root)
        good = rendition.render(root, export)
    steps = 0
    while True:
        shutil.rmtree(target / "plain")
        if steps % 2:
            shutil.copytree(target / "data", target / "plain")  # another one, which is no rendition at all
        steps += 2 if steps % 4 else 3
        done = subprocess.run(
            [sys.executable, "-c", KILLED_RENDER, str(target), str(steps)], check=False, capture_output=True
        )
        if done.returncode == 0:
            break
        assert -9 == done.returncode, done.stderr
        with Folder.at(target) as root:
            assert good == rendition.render(root, export)
            assert [] == list(rendition.differing(root, export, good))
    assert 15 < steps


def test_what_was_begun_for_other_files(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed leaves nothing to one of fewer files; the folder has the latter's alone."""
    target = tmp_path / "corpus"
    with Client(world.address) as client, Folder.at(target, create=True) as root:
        manifest = client.snapshot(world.second)
        with monkeypatch.context() as smaller:
            smaller.setattr(layout, "SHARD_PAGES", 128)
            begun = fetch(client, manifest, target, Form.JSONL).index
            smaller.setattr(rendition, "_swap", lambda *_: None)  # as if it was killed just before
            assert 8 == len(rendition.render(root, begun).files)
        shutil.rmtree(target / "data")
        export = fetch(client, manifest, target, Form.JSONL).index
        made = rendition.render(root, export)
        assert 1 == len(made.files)
        assert [] == list(rendition.differing(root, export, made))
        assert 1 == len(list((target / "plain").rglob("*.zst")))


@pytest.mark.parametrize("index", [None, "{", '{"format": 1}', "[]", "[" * 100_000])
def test_what_is_somebody_elses_stays(repository: Path, index: str | None) -> None:
    """A folder of that name which no recension wrote is neither overwritten nor removed."""
    plain = repository / "corpus" / "plain"
    shutil.rmtree(plain)
    plain.mkdir()
    (plain / "notes").write_text("mine")
    if index is not None:
        (plain / "index.json").write_text(index)
    with Folder.at(repository / "corpus") as root:
        export = read_held(root)
        with pytest.raises(ExportError, match="made here"):
            rendition.render(root, export)
        assert "mine" == (plain / "notes").read_text()
        shutil.rmtree(plain)
        plain.symlink_to(repository)
        with pytest.raises(ExportError, match="link"):
            rendition.render(root, export)


def test_modules_where_one_stands_are_not_run(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository may have a ``re.py`` or a ``resource.py`` of its own."""
    (repository / "resource.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(repository)
    with Renderer() as renderer:
        assert ("b", None) == renderer.render("''b''")


def test_refused_for_other_libraries(repository: Path) -> None:
    """Rendering again needs the very libraries."""
    with Folder.at(repository / "corpus") as root:
        export = read_held(root)
        held = rendition.read_rendition(root, export)
        assert held is not None
        with pytest.raises(ExportDiffersError, match=r"0\.1"):
            list(rendition.rendered_otherwise(root, export, replace(held, renderer="mwparserfromhell 0.1")))


KILLED = """
import os, sys
from recension_client.cli import exports
exports.rendered = lambda *_: os._exit(9)
from recension_client.cli.main import main
main(sys.argv[1:])
"""
"""Ends where plain text would be made, without another word, as a kill does."""


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_update_that_is_killed_before_it_renders(world: World, tmp_path: Path, form: str) -> None:
    """The lock says that plain text is wanted: it is told as missing, and the next fetch makes it."""
    ask(world, tmp_path, "pin", "made", "--at", "2021-01-01", "--on-hidden", "keep")
    ask(world, tmp_path, "fetch", "--plain", "--form", form)
    command = [sys.executable, "-c", KILLED, "update", "--at", "2023-01-01"]
    done = subprocess.run(command, check=False, cwd=tmp_path, env=at(world.address), capture_output=True)
    assert done.returncode == 9, done.stderr
    lock = lockfile.read(tmp_path / "recension.lock")
    assert lock.rendition is not None
    assert not lock.rendition.made
    assert "not made yet" in ask(world, tmp_path, "lock")
    for command in (["lock", "--check"], ["verify"]):
        assert "the plain text was not made yet" in ask(world, tmp_path, *command, status=1)
    ask(world, tmp_path, "fetch")
    assert "ok\n" == ask(world, tmp_path, "lock", "--check")
    made = lockfile.read(tmp_path / "recension.lock").rendition
    assert made is not None
    assert made.made
    index = tmp_path / "corpus" / "plain" / "index.json"
    index.write_bytes(lock.rendition.encoded)
    assert "its list has no files" in ask(world, tmp_path, "verify", "corpus", status=1)
