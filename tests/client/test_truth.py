"""A real history through the commands alone, against the truth that git computed (../shared/data)."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from tests.archive.helpers import rows, shared
from tests.client.processes import BIN, at, make_project, run, serving


def table(env: dict[str, str], *arguments: str) -> list[list[str]]:
    """Run ``recension`` and return its lines as fields."""
    done = subprocess.run([BIN / "recension", *arguments], capture_output=True, check=True, env=env)
    assert done.stderr == b""
    return [line.split("\t") for line in done.stdout.decode().split("\n")[:-1]]


@pytest.mark.timeout(300)
def test_the_commands_reproduce_every_corpus_and_every_difference(tmp_path: Path) -> None:
    """Ingest, serve, snapshot, ls and diff give git's own answers: all 12 corpora, all pairs of them."""
    events = shared("peps/peps-events.ndjson.zst")
    corpora: dict[tuple[str, str], list[list[str]]] = defaultdict(list)
    for commit, time, page, title, rev, digest in rows(shared("peps/peps-truth-asof.tsv.zst")):
        corpora[commit, time].append([page, title, rev, f"sha256:{digest}"])
    diffs: dict[tuple[str, str], list[list[str]]] = defaultdict(list)
    for commit_a, commit_b, *change in rows(shared("peps/peps-truth-diff.tsv.zst")):
        diffs[commit_a, commit_b].append(change)
    assert (12, 12) == (len(corpora), len(diffs))

    data = tmp_path / "data"
    make_project("peps", data)
    run("recension-server", "ingest", "events", "peps", str(events), "--data", str(data), "--quiet")
    ids = {}
    with serving(data) as address:
        env = at(address)
        for (commit, time), expected in corpora.items():
            ((ids[commit],),) = table(env, "snapshot", "peps", "--at", time)
            assert expected == table(env, "ls", ids[commit], "--tsv")
        for (commit_a, commit_b), expected in diffs.items():
            assert expected == table(env, "diff", ids[commit_a], ids[commit_b], "--tsv")
