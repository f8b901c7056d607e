"""The command ``recension diff`` on revisions, against a real server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.processes import BIN, at, make_project, run, serving
from tests.client.test_cli import ask, snapshot, watched

STEERING = "\x1b]0;title\x07\x9b31m"
TEXTS = [
    "== Head ==\nThe quick brown fox\njumps\n",
    f"== Head ==\nThe slow brown fox{STEERING}\njumps\nover it",
    "x y z w\n" * 100_000,
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of the commands beside a server of one project with one page."""
    folder = tmp_path_factory.mktemp("diffs")
    make_project("w", folder / "data")
    with (folder / "events.ndjson").open("w") as events:
        for number, text in enumerate(TEXTS, 1):
            slot = {"role": "main", "model": "wikitext", "format": "text/x-wiki", "text": text}
            edit = {"revId": str(number), "title": "\x9b31mPage", "slots": [slot]}
            event = {"project": "w", "pageId": "1", "time": f"2020-01-0{number}T00:00:00Z", "edit": edit}
            events.write(json.dumps(event | {"sourceId": f"s{number}"}) + "\n")
    run("recension-server", "ingest", "events", "w", str(events.name), "--data", str(folder / "data"))
    with serving(folder / "data") as address:
        yield at(address)


def told(world: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run ``recension diff`` and return its status and what it says about its answer."""
    done = subprocess.run(
        [BIN / "recension", "diff", *arguments], capture_output=True, check=False, env=world, text=True
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("options", [(), ("--unified",)])
def test_a_pipe_gets_a_unified_diff(world: dict[str, str], options: tuple[str, ...], tmp_path: Path) -> None:
    """What is written into a pipe is the exact diff, which git applies."""
    shown = ask(world, "diff", "w:1", "w:2", *options)
    assert shown.startswith("--- revision 1\t2020-01-01T00:00:00Z\n+++ revision 2\t2020-01-02T00:00:00Z\n@@ ")
    (tmp_path / "page").write_text(TEXTS[0])
    patch = shown.replace("revision 1\t", "a/page\t").replace("revision 2\t", "b/page\t")
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=patch.encode(), check=True)
    assert TEXTS[1] == (tmp_path / "page").read_text()


def test_a_terminal_gets_colours_for_words(world: dict[str, str]) -> None:
    """The words that differ stand out, and nothing of a text or a title steers the terminal."""
    shown = watched(world, "diff", "1", "2")
    assert "\x1b[1;7;31mquick\x1b[0m" in shown
    assert "\x1b[1;7;32mslow\x1b[0m" in shown
    assert "(no newline at the end)" in shown
    assert "\x9b" not in shown
    assert "\x1b]" not in shown
    plain = watched(world | {"NO_COLOR": "1"}, "diff", "1", "2")
    assert "\x1b[31" not in plain
    assert "+The slow brown fox" in plain.replace("\x1b[1;7m", "").replace("\x1b[0m", "")
    assert "\x9b" not in watched(world, "diff", "1", "2", "--unified")


def test_json_says_everything(world: dict[str, str]) -> None:
    """One object: both revisions, hunks, ranges in code points."""
    row = json.loads(ask(world, "diff", "w:1", "2", "--json", "--context", "0"))
    assert (row["before"]["rev_id"], row["after"]["rev_id"], row["known_at"] > 0) == (1, 2, True)
    assert (row["lines_removed"], row["lines_added"], row["coarse"], row["truncated"]) == (1, 2, False, False)
    first, second = row["hunks"]
    assert first["lines"][0] == {"kind": "removed", "text": "The quick brown fox", "changed": [[4, 9]]}
    assert second["lines"] == [{"kind": "added", "text": "over it", "no_newline": True}]


def test_what_was_left_out_is_said(world: dict[str, str]) -> None:
    """A diff that is too large says so to a pipe's owner too, unless he wants quiet."""
    status, said = told(world, "w:1", "w:3")
    assert status == 0
    assert "warning: too large to be told whole: 3 lines were removed, 100000 added" in said
    assert "compared closely" in said
    assert told(world, "w:1", "w:3", "--quiet") == (0, "")


def test_the_status_says_whether_they_differ(world: dict[str, str]) -> None:
    """``--exit-code`` is for revisions too; a diff that has no room for a line still differs."""
    assert told(world, "1", "2", "--exit-code")[0] == 1
    assert told(world, "1", "1", "--exit-code") == (0, "")
    assert told(world, "1", "3", "--exit-code")[0] == 1


@pytest.mark.parametrize(
    "arguments,reason",
    [
        (("1", "99"), "REVISION_NOT_FOUND"),
        (("none:1", "2"), "PROJECT_NOT_FOUND"),
        (("w:1", "v:2"), "INVALID_ARGUMENT"),
        (("w:1", "nonsense"), "INVALID_ARGUMENT"),
        (("w:0", "w:1"), "INVALID_ARGUMENT"),
        (("w:1", "w:9999999999999999999"), "INVALID_ARGUMENT"),
        (("w:1", "w:2", "--tsv"), "INVALID_ARGUMENT"),
    ],
)
def test_faults_are_named(world: dict[str, str], arguments: tuple[str, ...], reason: str) -> None:
    """What cannot be compared is a named error with a hint, never a traceback."""
    status, said = told(world, *arguments, "--json")
    assert status == 3
    assert json.loads(said)["error"]["reason"] == reason


def test_snapshots_and_revisions_do_not_mix(world: dict[str, str]) -> None:
    """Options of one kind are refused for the other, and so is one of each."""
    id_ = snapshot(world, "w", "2020-01-02")
    for arguments in ((id_, "w:1"), (id_, id_, "--unified"), (id_, id_, "--context", "2")):
        status, said = told(world, *arguments)
        assert status == 3
        assert said.startswith("error: ")
        assert "hint: " in said
