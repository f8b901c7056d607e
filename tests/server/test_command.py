"""The whole product as a person uses it: two commands, real files, a real server, two workers."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archive.helpers import shared
from tests.client.processes import BIN, make_project, run, serving

EMPTY = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bundled sample, served by two workers; the address."""
    with serving(tmp_path_factory.mktemp("sample") / "data", "--sample", "--workers", "2") as address:
        yield address


def test_the_sample_shows_logs_and_lists(sample: str) -> None:
    """The walk of the README works and says what the real wiki said."""
    text = run("recension", "show", "aawiki", "Main Page", "--at", "2006-01-01", "--server", sample)
    assert "Afar" in text
    log = run("recension", "log", "aawiki", "Main Page", "--json", "--server", sample)
    assert len(log.splitlines()) > 10
    first = run("recension", "snapshot", "aawiki", "--at", "2006-01-01", "--server", sample).strip()
    last = run("recension", "snapshot", "aawiki", "--at", "2026-01-01", "--server", sample).strip()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", first)
    assert first == run("recension", "snapshot", "aawiki", "--at", "2006-01-01", "--server", sample).strip()
    listed = run("recension", "ls", last, "--tsv", "--server", sample).splitlines()
    assert len(listed) == 507
    assert all(re.fullmatch(r"\d+\t[^\t]+\t\d+\tsha256:[0-9a-f]{64}", line) for line in listed)
    shards = [
        run("recension", "cat", last, "--shard", f"{n}/3", "--server", sample).splitlines() for n in range(3)
    ]
    pages = sorted(json.loads(line)["page_id"] for shard in shards for line in shard)
    assert len(pages) == 507
    changes = run("recension", "diff", first, last, "--tsv", "--server", sample).splitlines()
    assert {line.split("\t")[0] for line in changes} <= {
        "added",
        "removed",
        "edited",
        "moved",
        "edited+moved",
    }
    assert all(line.count("\t") == 5 for line in changes)


@pytest.mark.parametrize(
    "arguments,reason",
    [
        (("show", "nowiki", "Main Page"), "no project"),
        (("show", "aawiki", "No such page"), "no page"),
        (("show", "aawiki", "id:999999999"), "no page"),
        (("show", "aawiki", "Main Page", "--at", "2000-01-01"), "no page"),
        (("show", "aawiki", "Main Page", "--at", "2099-01-01"), "future"),
        (("show", "aawiki", "Main Page", "--known-at", "999"), "position 999"),
        (("ls", EMPTY), "no snapshot"),
        (("snapshot", "aawiki", "--at", "1999-01-01"), "before the first event"),
        (("show", "aawiki", "x" * 20_000), "no page"),
        (("show", "aawiki", "\u202e\U0001f600"), "no page"),
        (("show", "aawiki", "id:0"), "not a page id"),
        (("show", "aawiki", "\udcff"), "not UTF-8"),
        (("show", "aawiki", "Main Page", "--at", "yesterday"), "not a time"),
        (("show", "aawiki", "Main Page", "--at", "2026-13-01"), "not a time"),
        (("log", "aawiki", "Main Page", "--at", "2026-01-01T25:00:00Z"), "not a time"),
        (("snapshot", "aawiki", "--at", ""), "not a time"),
        (("log", "aawiki", "No such page"), "no page"),
        (("log", "nowiki", "Main Page"), "no project"),
        (("snapshot", "aawiki", "nowiki", "--at", "2026-01-01"), "no project"),
        (("ls", "sha256:abc"), "not a digest"),
        (("cat", EMPTY), "no snapshot"),
        (("diff", EMPTY, EMPTY), "no snapshot"),
        (("diff", EMPTY, EMPTY.upper()), "not a digest"),
    ],
)
def test_what_cannot_be_answered_is_named(sample: str, arguments: tuple[str, ...], reason: str) -> None:
    """A wrong question is an error with a name, what to do, and status 3, never a traceback."""
    done = subprocess.run(
        [BIN / "recension", *arguments, "--server", sample], capture_output=True, check=False
    )
    assert (3, b"") == (done.returncode, done.stdout)
    said = done.stderr.decode()
    assert re.fullmatch(r"error: .+\nhint: .+\n", said)
    assert reason in said


def test_a_named_error_is_json_where_json_was_asked_for(sample: str) -> None:
    """With ``--json`` a program finds reason, message and hint on stderr, wherever the option stands."""
    for arguments, reason in (
        (("--json", "show", "nowiki", "Main Page"), "PROJECT_NOT_FOUND"),
        (("show", "aawiki", "Main Page", "--at", "yesterday", "--json"), "INVALID_TIME"),
        (("ls", EMPTY, "--json"), "SNAPSHOT_NOT_FOUND"),
    ):
        error = json.loads(run("recension", *arguments, "--server", sample, status=3))["error"]
        assert reason == error["reason"]
        assert error["message"]
        assert error["hint"]


@pytest.mark.parametrize("reflection", ["grpc-v1", "grpc-v1alpha"])
def test_a_grpc_tool_reads_readable_json_by_reflection(sample: str, reflection: str) -> None:
    """A client that knows only the address calls a method and reads the answer."""
    done = subprocess.run(
        [
            *(BIN / "buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge"),
            *("--reflect-protocol", reflection, "-d", '{"project": "aawiki", "title": "Main Page"}'),
            f"http://{sample}/recension.v1.RevisionService/GetArticle",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    revision = json.loads(done.stdout)["revision"]
    assert (revision["title"], revision["pageId"]) == ("Main Page", "1269")
    assert revision["slots"][0]["digest"].startswith("sha256:")


def test_ingest_again_beside_a_server_changes_nothing(tmp_path: Path) -> None:
    """What is ingested beside a server is served at once; again, it changes nothing; bad lines are kept."""
    data = tmp_path / "data"
    make_project("w", data)
    events = tmp_path / "events.ndjson"
    edit = {
        "project": "w",
        "pageId": "1",
        "time": "2020-01-01T00:00:00Z",
        "sourceId": "a",
        "edit": {
            "revId": "1",
            "title": "A",
            "contributor": {"name": "Ann"},
            "slots": [{"role": "main", "model": "wikitext", "format": "text/x-wiki", "text": "hello"}],
        },
    }
    bad = [b'{"project": "w"', b"\xff", b'{"project":"w","project":"w"}', b'{"pageId": NaN}']
    events.write_bytes(b"\n".join([json.dumps(edit).encode(), *bad]) + b"\n")
    ingest = ("ingest", "events", "w", str(events), "--data", str(data), "--json")
    with serving(data) as address:
        first = json.loads(run("recension-server", *ingest, status=1))
        assert run("recension", "show", "w", "A", "--server", address) in {"hello", "hello\n"}
        again = json.loads(run("recension-server", *ingest, "--allow-rejected"))
    assert (first["accepted"], again["accepted"], again["known"]) == (1, 0, 1)
    assert first["head"] == again["head"]
    assert sum(first["rejected"].values()) == 4
    (kept,) = (data / "quarantine" / "w").iterdir()
    assert len(kept.read_text().splitlines()) == 4


def test_a_truncated_dump_is_named_and_what_was_complete_stays(tmp_path: Path) -> None:
    """Half a file gives status 3, a named error, and the pages before the cut; the whole file goes on."""
    whole = shared("wikimedia/aawiki-20260101/aawiki-20260101-pages-meta-current.xml.bz2").read_bytes()
    data = tmp_path / "data"
    make_project("aawiki", data)
    path = tmp_path / "part.xml.bz2"
    path.write_bytes(whole[: len(whole) // 2])
    output = run("recension-server", "ingest", "dump", "aawiki", str(path), "--data", str(data), status=3)
    assert "error:" in output
    path.write_bytes(whole)
    done = json.loads(
        run("recension-server", "ingest", "dump", "aawiki", str(path), "--data", str(data), "--json")
    )
    assert done["accepted"] + done["known"] == 507


def test_a_directory_that_is_no_store_is_named(tmp_path: Path) -> None:
    """Pointing at the wrong directory says so and touches nothing."""
    (tmp_path / "notes.txt").write_text("mine")
    output = run("recension-server", "project", "list", "--data", str(tmp_path), status=3)
    assert "hint:" in output
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
