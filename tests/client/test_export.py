"""Fetching from a real server: the same bytes however it is done, old or new and never mixed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyarrow import parquet

from recension.model.errors import ExportError, ExportFormatError
from recension.model.instant import parse_instant
from recension_client.client import Client
from recension_client.export import layout
from recension_client.export.checking import check
from recension_client.export.fetching import fetch, read_held
from recension_client.export.folder import Folder
from recension_client.export.jsonl import read
from recension_client.export.layout import Form
from recension_client.export.parquet import read as read_parquet
from recension_client.export.rows import Row, Unreadable
from tests.client.corpus import HIDDEN, LARGE, World, made, page_ids

KILLED_FETCH = """
import os, signal, sys
from pathlib import Path
from recension_client.client import Client
from recension_client.export import layout
from recension_client.export.fetching import fetch
from recension_client.export.folder import Folder
from recension_client.export.jsonl import read

layout.SHARD_PAGES = 128
address, snapshot, target, form, steps = sys.argv[1:]
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

for name in ("create", "sync", "rename", "move", "exchange", "remove"):
    killing(name)
with Client(address) as client:
    manifest = client.snapshot(bytes.fromhex(snapshot))
    fetch(client, manifest, Path(target), layout.Form(form), workers=1)
print(int(steps) - left)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("made")) as served:
        yield served


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards of a small corpus."""
    monkeypatch.setattr(layout, "SHARD_PAGES", 128)


def files_of(target: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in sorted((target / "data").rglob("*"))
        if path.is_file()
    }


def fetched(
    world: World, snapshot: bytes, target: Path, form: Form = Form.JSONL, workers: int = 2
) -> dict[str, bytes]:
    with Client(world.address) as client:
        fetch(client, client.snapshot(snapshot), target, form, workers=workers)
    return files_of(target)


def good(target: Path) -> bool:
    with Folder.at(target) as root:
        return check(root, read_held(root)).ok


@pytest.mark.parametrize("form", Form)
def test_the_same_bytes_with_any_number_of_workers(world: World, tmp_path: Path, form: Form) -> None:
    """Two fetches of one snapshot are equal to the byte, and are the snapshot."""
    one = fetched(world, world.second, tmp_path / "one", form, workers=1)
    assert 8 == len([name for name in one if name.endswith(form.value)])
    assert one == fetched(world, world.second, tmp_path / "many", form, workers=7)
    assert good(tmp_path / "one")
    assert ["lock"] == [path.name for path in (tmp_path / "one" / ".recension").iterdir()]


def test_rows_are_what_the_server_says(world: World, tmp_path: Path) -> None:
    """Every page is there once, with its texts, in both forms alike."""
    fetched(world, world.second, tmp_path / "lines")
    fetched(world, world.second, tmp_path / "columns", Form.PARQUET)
    lines: list[Row | Unreadable] = []
    for path in sorted((tmp_path / "lines").rglob("*.jsonl.zst")):
        with path.open("rb") as file:
            lines += list(read(file))
    rows = [
        row
        for path in sorted((tmp_path / "columns").rglob("*.parquet"))
        for row in parquet.read_table(path).to_pylist()
    ]
    with ExitStack() as stack:
        columns = sorted((tmp_path / "columns").rglob("*.parquet"))
        assert lines == [
            row for path in columns for row in read_parquet(stack.enter_context(path.open("rb")))
        ]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):  # as others read them
        assert isinstance(line, Row)
        assert (line.url, line.text) == (row["url"], row["text"] and row["text"].encode())
    with Client(world.address) as client:
        wanted = {entry.page_id: entry for entry in client.read(world.second)}
    assert wanted.keys() == {line.page_id for line in lines}
    assert {*page_ids(), 4_000} - {15} <= wanted.keys()
    for line in lines:
        assert isinstance(line, Row)
        entry = wanted[int(line.id)]
        slot = entry.slot()
        text = None if slot is None else slot.text
        assert (entry.title, entry.rev_id, text) == (line.title, line.rev_id, line.text)
        if entry.page_id == HIDDEN:
            assert line.text is None
            assert (line.content_salt is None) == (line.content_commitment is not None)


@pytest.mark.parametrize("before,after", [(form, other) for form in Form for other in Form])
def test_an_update_fetches_what_changed_and_gives_the_same_bytes(
    world: World, tmp_path: Path, before: Form, after: Form
) -> None:
    """From an older export, also of another form, the result is that of a fetch from nothing."""
    whole = fetched(world, world.second, tmp_path / "whole", after)
    fetched(world, world.first, tmp_path / "target", before)
    with Client(world.address) as client:
        done = fetch(client, client.snapshot(world.second), tmp_path / "target", after)
        again = fetch(client, client.snapshot(world.second), tmp_path / "target", after)
    assert whole == files_of(tmp_path / "target")
    text = sum(record.text_bytes for record in done.index.files)
    assert done.received_bytes < text / 4  # entries without texts, for the page that was moved away and back
    assert again.was_there


def test_an_update_of_one_page_in_a_hundred_transfers_little(world: World, tmp_path: Path) -> None:
    """A comparison sends what differs: with one page of a hundred edited, under 2 % of a whole fetch."""
    with Client(world.address) as client:
        late = client.snapshot(world.second)
        selector = late.selector
        begun, small = (
            client.create_snapshot(selector, valid_at=parse_instant(day), known_at=late.as_of.known_at)
            for day in ("2021-01-01", "2022-01-01")
        )
        fetch(client, begun, tmp_path / "target", Form.JSONL)
        done = fetch(client, small, tmp_path / "target", Form.JSONL)
        whole = fetch(client, small, tmp_path / "whole", Form.JSONL)
        large = client.article("made", LARGE, text=False).revision.slots[0].size_bytes
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "target")
    # Without the one large page, which would make a whole fetch look larger than it mostly is.
    assert 0 < done.received_bytes < (whole.received_bytes - large) / 50


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damage_in_the_older_files_costs_nothing_but_bytes(world: World, tmp_path: Path, damage: str) -> None:
    """What cannot be taken from the older export is fetched."""
    whole = fetched(world, world.second, tmp_path / "whole")
    fetched(world, world.first, tmp_path / "target")
    victim = next((tmp_path / "target").rglob("00001-*.zst"))
    held = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        at = len(held) // 2
        victim.write_bytes(held[:at] + (b"" if damage == "cut" else bytes([held[at] ^ 1]) + held[at + 1 :]))
    assert not good(tmp_path / "target")
    assert whole == fetched(world, world.second, tmp_path / "target")


def test_a_damaged_export_is_fetched_again(world: World, tmp_path: Path) -> None:
    """Asked for what is there but damaged, it is made whole."""
    whole = fetched(world, world.second, tmp_path / "t")
    next((tmp_path / "t").rglob("00002-*.leaves")).write_bytes(b"")
    next((tmp_path / "t").rglob("00001-*.zst")).write_bytes(b"")
    assert whole == fetched(world, world.second, tmp_path / "t")


def killed(world: World, target: Path, steps: int) -> int:
    """Fetch the second snapshot in a process that is killed before its given step; the steps if it ends."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", KILLED_FETCH, world.address, world.second.hex()),
            *(str(target), "jsonl.zst", str(steps)),
        ],
        capture_output=True,
        check=False,
        timeout=60,
    )
    if done.returncode == 0:
        return int(done.stdout)
    assert -signal.SIGKILL == done.returncode, done.stderr
    return 0


def kill_at(world: World, folder: Path, steps: list[int]) -> None:
    """Kill an update at each of some steps: the old or the new is there, and the next run ends as ever."""
    whole = fetched(world, world.second, folder / "whole")
    old = fetched(world, world.first, folder / "old")
    for step in steps:
        target = folder / f"at-{step}"
        subprocess.run(["cp", "-r", folder / "old", target], check=True)
        assert not killed(world, target, step)
        assert files_of(target) in (old, whole), step
        assert whole == fetched(world, world.second, target), step


def test_a_killed_update_leaves_the_old_or_the_new(world: World, tmp_path: Path) -> None:
    """Killed at steps over the whole run, the last ones among them."""
    fetched(world, world.first, tmp_path / "count")
    steps = killed(world, tmp_path / "count", 1_000_000)
    assert steps > 80
    kill_at(world, tmp_path, [1, steps // 3, steps // 2, *range(steps - 8, steps + 1)])


@pytest.mark.torture
def test_a_fetch_killed_at_every_step(world: World, tmp_path: Path) -> None:
    """Each step of an update in turn."""
    fetched(world, world.first, tmp_path / "count")
    kill_at(world, tmp_path, list(range(1, killed(world, tmp_path / "count", 1_000_000) + 1)))


def test_a_killed_first_fetch_goes_on(world: World, tmp_path: Path) -> None:
    """Shards that were finished are not fetched again."""
    whole = fetched(world, world.second, tmp_path / "whole")
    steps = killed(world, tmp_path / "count", 1_000_000)
    assert not killed(world, tmp_path / "t", steps * 2 // 3)
    assert not (tmp_path / "t" / "data").exists()
    with Client(world.address) as client:
        done = fetch(client, client.snapshot(world.second), tmp_path / "t", Form.JSONL)
        anew = fetch(client, client.snapshot(world.second), tmp_path / "anew", Form.JSONL)
    assert whole == files_of(tmp_path / "t")
    assert done.received_bytes < anew.received_bytes * 2 / 3


def test_a_swap_without_exchange(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where names cannot be swapped in one step, a crash between the two is finished by the next run."""
    monkeypatch.setattr(Folder, "exchange", lambda *_: False)
    fetched(world, world.first, tmp_path / "t")
    whole = fetched(world, world.second, tmp_path / "whole")
    move = Folder.move

    def failing(self: Folder, name: str, to: Folder, new: str) -> None:
        if new == "data":
            raise KeyboardInterrupt
        move(self, name, to, new)

    monkeypatch.setattr(Folder, "move", failing)
    with pytest.raises(KeyboardInterrupt):
        fetched(world, world.second, tmp_path / "t")
    assert not (tmp_path / "t" / "data").exists()
    monkeypatch.setattr(Folder, "move", move)
    assert whole == fetched(world, world.second, tmp_path / "t")


def test_nothing_is_written_elsewhere(world: World, tmp_path: Path) -> None:
    """Links, files and folders in the place of ours are refused or replaced, and never followed."""
    away = tmp_path / "away"
    away.mkdir()
    for number, name in enumerate(("data", ".recension")):
        target = tmp_path / f"t{number}"
        target.mkdir()
        (target / name).symlink_to(away)
        with pytest.raises(ExportError):
            fetched(world, world.second, target)
    target = tmp_path / "inner"
    (target / ".recension").mkdir(parents=True)
    (target / ".recension" / "next").symlink_to(away)
    (target / ".recension" / "job.json").symlink_to(away / "job.json")
    fetch_or_refuse(world, target)
    assert [] == list(away.iterdir())


def fetch_or_refuse(world: World, target: Path) -> None:
    try:
        fetched(world, world.second, target)
    except ExportError:
        return


def test_what_is_not_ours_stays(world: World, tmp_path: Path) -> None:
    """A folder ``data`` that is no export, or one of a newer format, is refused and left as it is."""
    (tmp_path / "t" / "data").mkdir(parents=True)
    (tmp_path / "t" / "data" / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="no export"):
        fetched(world, world.second, tmp_path / "t")
    index = tmp_path / "t" / "data" / "index.json"
    index.write_text(json.dumps({"format": "recension/export/v2"}))
    with pytest.raises(ExportFormatError, match="unknown export format"):
        fetched(world, world.second, tmp_path / "t")
    assert "mine" == (tmp_path / "t" / "data" / "mine.txt").read_text()


def test_one_fetch_at_a_time(world: World, tmp_path: Path) -> None:
    """A folder that another process writes is refused at once."""
    with (
        Folder.at(tmp_path / "t", create=True) as root,
        root.folder(".recension", create=True) as work,
        work.held("lock"),
        pytest.raises(ExportError, match="another process"),
    ):
        fetched(world, world.second, tmp_path / "t")
    assert fetched(world, world.second, tmp_path / "t")


def test_a_folder_that_cannot_be_written(world: World) -> None:
    """It is an error with a name."""
    with pytest.raises(ExportError, match="/proc/corpus"):
        fetched(world, world.second, Path("/proc/corpus"))


@pytest.mark.parametrize(
    "name,folder",
    [("aawiki", "aawiki"), ("con", None), ("..", None), ("a/b", None), ("Aawiki", None), ("project-x", None)],
)
def test_folders_have_harmless_names(name: str, folder: str | None) -> None:
    """What is no plain name on every file system gets one made of its digest."""
    made_of = layout.folder_of(name)
    assert made_of == folder if folder else made_of.startswith("project-") and len(made_of) == 40
