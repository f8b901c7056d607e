from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.durations import DURATIONS, Duration
from tests.ingest.test_run import GOOD, SAMPLE
from tests.sources.helpers import SHARED, dump, logitem
from tests.sources.test_enterprise import record, tar

LEAST = 600
_MOST_BYTES = 700_000
REAL = {
    "history": ("wikimedia/*/*.xml*", "wikimedia/*/*.bz2"),
    "log": ("wikimedia/mwxml/logging*", "peps/*logging*"),
    "events": ("peps/peps-events.ndjson.zst", "wikimedia/events/sdk-go/page-*.json"),
    "enterprise": ("wikimedia/wme/sdk-python/*.ndjson", "wikimedia/wme/main-dataset/articles/*/*.json"),
}


def inputs(folder: Path) -> list[str]:
    """Kinds and paths of small real files, and of one file of each kind that is always there."""
    lines = [json.dumps({**GOOD, "sourceId": str(n)}) for n in range(20)]
    (folder / "events.ndjson").write_text("\n".join(lines))
    (folder / "log.xml").write_bytes(dump(logitem("move", "move", 'a:1:{s:9:"4::target";s:1:"B";}') * 20))
    articles = [json.dumps(record(identifier=page)).encode() + b"\n" for page in range(1, 9)]
    (folder / "articles.tar.gz").write_bytes(gzip.compress(tar(*articles)))
    (folder / "articles.tar").write_bytes(tar(*articles))
    chosen = ["enterprise", str(folder / "articles.tar.gz"), "enterprise", str(folder / "articles.tar")]
    chosen += [
        "history",
        str(SAMPLE),
        "events",
        str(folder / "events.ndjson"),
        "log",
        str(folder / "log.xml"),
    ]
    for kind, patterns in REAL.items():
        files = sorted({path for pattern in patterns for path in SHARED.glob(pattern)})
        for path in files:
            if path.stat().st_size <= _MOST_BYTES or kind == "events":
                chosen += [kind, str(path)]
    return chosen


@pytest.mark.parametrize("duration", DURATIONS)
def test_mutated_files(duration: Duration, tmp_path: Path) -> None:
    """Of a damaged file come items or a named error, in bounded time and memory: never a traceback."""
    limits = (duration.seed, str(duration.seconds), str(LEAST), str(tmp_path / "case"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz_parsers", *limits, *inputs(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    print(done.stdout)
