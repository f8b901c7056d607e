"""The lock and its commands: written, kept, refused when edited, moved, and true to the files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from recension.model.errors import LockError, LockVersionError
from recension_client import lockfile
from tests.client.corpus import World, ask, made
from tests.client.processes import free_port


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("made")) as served:
        yield served


@pytest.fixture(scope="module")
def pinned(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a lock of 2021, and what was fetched for it."""
    folder = tmp_path_factory.mktemp("repository")
    pin = ("pin", "made", "--at", "2021-01-01", "--on-hidden", "keep")
    ask(world, folder, *pin, "--name", "run-1", "--until", "2099-01-01", "--label", "model=m1")
    ask(world, folder, "fetch")
    return folder


@pytest.fixture
def repository(pinned: Path, tmp_path: Path) -> Path:
    """One that a test may change."""
    return Path(shutil.copytree(pinned, tmp_path / "repository"))


def test_pins_by_command(world: World, tmp_path: Path) -> None:
    """What is held is listed, held longer, and let go; a name that has a typo is told."""
    pin = ("pin", "made", "--at", "2021-01-01", "--name", "mine", "--until", "2098-01-01", "--label", "a=b")
    ask(world, tmp_path, *pin)
    rows = [line.split("\t") for line in ask(world, tmp_path, "pins", "--tsv").splitlines()]
    assert [["2098-01-01T00:00:00Z", "no", "a=b"]] == [
        [row[1], row[2], row[4]] for row in rows if row[0] == "mine"
    ]
    assert "mine  " in ask(world, tmp_path, "pins")
    said = ask(world, tmp_path, "pins", "extend", "mine", "--until", "2099-01-01")
    assert "mine holds until 2099-01-01T00:00:00Z\n" == said
    (found,) = (
        row
        for row in map(json.loads, ask(world, tmp_path, "pins", "--json").splitlines())
        if row["name"] == "mine"
    )
    assert ("2099-01-01T00:00:00Z", {"a": "b"}, False) == (
        found["readable_until"],
        found["labels"],
        found["expired"],
    )
    for wrong in (["extend", "mine"], ["delete"], ["show", "mine"], ["--until", "2099-01-01"]):
        assert "recension pin" in ask(world, tmp_path, "pins", *wrong, status=3)
    assert "no pin 'mind'" in ask(world, tmp_path, "pins", "delete", "mind", status=3)
    assert "mine holds nothing any more\n" == ask(world, tmp_path, "pins", "delete", "mine")
    assert "mine" not in ask(world, tmp_path, "pins", "--tsv")


def test_a_lock_says_everything(world: World, pinned: Path) -> None:
    """What was pinned can be read in it, and it agrees with itself and with the files."""
    text = (pinned / "recension.lock").read_text()
    lock = lockfile.parse(text)
    assert world.address == lock.server
    assert lock.pin is not None
    assert "run-1" == lock.pin.name
    assert lock.export is not None
    assert "corpus" == lock.export.folder
    assert "ok\n" == ask(world, pinned, "lock", "--check")
    assert "ok: sha256:" in ask(world, pinned, "verify")
    assert lockfile.document_of(lock) == json.loads(ask(world, pinned, "lock", "--json"))
    status = json.loads(ask(world, pinned, "status", "--json"))
    assert "2099-01-01T00:00:00Z" == status["readable_until"]


def test_the_same_lock_gives_the_same_files(world: World, repository: Path) -> None:
    """Elsewhere, a year later: the bytes that the lock names."""
    before = (repository / "recension.lock").read_text()
    kept = repository / "corpus" / "data"
    elsewhere = repository / "elsewhere"
    ask(world, repository, "fetch", str(elsewhere))
    for path in kept.rglob("*.*"):
        assert path.read_bytes() == (elsewhere / "data" / path.relative_to(kept)).read_bytes()
    after = (repository / "recension.lock").read_text()
    assert before.replace('folder = "corpus"', 'folder = "elsewhere"') == after


def test_comments_and_order_survive(pinned: Path) -> None:
    """A person's words in the lock stay where they are."""
    text = (pinned / "recension.lock").read_text()
    commented = text.replace("[pin]\n", "# for the run of May\n[pin]\n").replace(
        "[snapshot]\n", "[snapshot]\n# the big one\n"
    )
    lock = lockfile.parse(commented)
    assert commented == lockfile.render(lock, commented)
    assert text == lockfile.render(lock, text)
    assert lock == lockfile.parse(lockfile.render(lock))


def edits(text: str) -> Iterator[tuple[str, str]]:
    """Yield each line of a lock changed in one way, with its number."""
    for number, line in enumerate(text.splitlines()):
        if "=" not in line or line.startswith("#"):
            continue
        key, value = line.split(" = ", 1)
        if key in {"server", "name", "readable_until", "writer", "base_url", "license", "folder", "form"}:
            continue  # nothing else says it, or another value is as good
        other = value.replace("1", "2") if "1" in value else value.replace("0", "1").replace("m", "n")
        lines = text.splitlines()
        if other != value:
            lines[number] = f"{key} = {other}"
            yield f"{number} {key}", "\n".join(lines) + "\n"
        lines[number] = f"{key}x = {value}"
        yield f"{number} {key} renamed", "\n".join(lines) + "\n"


FREE = {"sha256", "leaves_sha256", "rows", "text_bytes", "withheld", "size_bytes", "id"}
"""Keys of files and pins: what they should be only the files and the server can say."""


def test_an_edited_lock_is_refused(pinned: Path) -> None:
    """Whatever the manifest binds cannot be changed beside it, and no key can be added or lost."""
    text = (pinned / "recension.lock").read_text()
    refused = 0
    for name, edited in edits(text):
        if name.split()[1] in FREE and "renamed" not in name:
            continue
        with pytest.raises(LockError):
            lockfile.parse(edited)
        refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    "text,said",
    [
        ("version = 2\n", "version 2"),
        ("version = 1\n", "damaged"),
        ("", "damaged"),
        ("version = ", "not TOML"),
        ("\x00", "not TOML"),
        ("a." * 20_000 + "b = 1", "TOML|damaged"),
    ],
)
def test_what_is_no_lock(text: str, said: str) -> None:
    with pytest.raises(LockError, match=said) as caught:
        lockfile.parse(text)
    assert (said == "version 2") == isinstance(caught.value, LockVersionError)


@pytest.mark.parametrize("folder", ["../up", "/etc", "a/../../b", ".."])
def test_a_lock_does_not_lead_elsewhere(world: World, repository: Path, folder: str) -> None:
    """A lock that someone else wrote cannot have files written outside its folder."""
    path = repository / "recension.lock"
    path.write_text(path.read_text().replace('folder = "corpus"', f'folder = "{folder}"'))
    assert "outside its own" in ask(world, repository, "fetch", status=3)


def test_check_says_what_differs(world: World, repository: Path) -> None:
    """Exit code 1, and the file by name; verify names the page."""
    victim = next((repository / "corpus").rglob("*.jsonl.zst"))
    held = victim.read_bytes()
    victim.write_bytes(held[:100] + bytes([held[100] ^ 1]) + held[101:])
    assert f"{victim.name}: its digest is another" in ask(world, repository, "lock", "--check", status=1)
    assert "DIFFERENT" in ask(world, repository, "verify", status=1)
    victim.unlink()
    assert "No such file" in ask(world, repository, "lock", "--check", status=1)
    ask(world, repository, "fetch")
    assert held == victim.read_bytes()
    path = repository / "recension.lock"
    path.write_text(path.read_text().replace("pages = 6", "pages = 5"))
    assert "edited: projects.made.pages" in ask(world, repository, "lock", "--check", status=1)
    path.unlink()
    assert "there is no recension.lock" in ask(world, repository, "lock", "--check", status=1)


def test_update_says_first_what_it_fetches(world: World, repository: Path) -> None:
    """It moves lock and files together, by the difference, and a comment stays."""
    path = repository / "recension.lock"
    path.write_text(path.read_text().replace("[snapshot]", "# ours\n[snapshot]"))
    before = lockfile.read(path)
    said = ask(world, repository, "update", "--at", "2023-01-01", "--dry-run", "--json")
    quote = json.loads(said)
    assert 7 <= quote["pages_to_fetch"] <= quote["changed"] <= 12
    assert before == lockfile.read(path)
    old, new = f"sha256:{before.manifest.snapshot_id.hex()}", quote.pop("snapshot")
    assert quote == json.loads(ask(world, repository, "quote", old, new, "--json"))
    ask(world, repository, "update", "--at", "2023-01-01")
    after = lockfile.read(path)
    assert new == f"sha256:{after.manifest.snapshot_id.hex()}"
    assert "# ours\n[snapshot]" in path.read_text()
    assert after.pin is None
    assert "ok\n" == ask(world, repository, "lock", "--check")
    assert "ok: sha256:" in ask(world, repository, "verify")


def test_files_of_another_writer(world: World, repository: Path) -> None:
    """A lock made with another version of a library is not quietly replaced."""
    path = repository / "recension.lock"
    lock = lockfile.read(path)
    assert lock.export is not None
    path.write_text(path.read_text().replace(lock.export.writer, "zstd 0.0.1"))
    assert "written by zstd 0.0.1" in ask(world, repository, "fetch", status=3)
    ask(world, repository, "fetch", "--rewrite")
    assert lock == lockfile.read(path)


def test_a_lock_is_not_replaced_by_another_snapshot(world: World, repository: Path) -> None:
    """``pin`` over a lock of another snapshot has to be meant."""
    other = ("pin", "made", "--at", "2023-01-01")
    assert "another snapshot" in ask(world, repository, *other, status=3)
    ask(world, repository, *other, "--force")
    assert lockfile.read(repository / "recension.lock").export is None


def test_pins_that_are_gone(world: World, repository: Path) -> None:
    """A pin that the server does not know is an error with a name."""
    path = repository / "recension.lock"
    path.write_text(path.read_text().replace('name = "run-1"', 'name = "run-2"'))
    assert "run-2" in ask(world, repository, "status", status=3)


def test_doctor(world: World, repository: Path, tmp_path: Path) -> None:
    """It finds everything in order, or says what is amiss."""
    assert "AMISS" not in ask(world, repository, "doctor")
    (repository / "recension.lock").write_text("version = 9\n")
    assert "version 9" in ask(world, repository, "doctor", status=1)
    away = ("doctor", "--json", "--server", f"127.0.0.1:{free_port()}")
    findings = [json.loads(line) for line in ask(world, tmp_path, *away, status=1).splitlines()]
    assert ["server"] == [found["check"] for found in findings if not found["ok"]]
