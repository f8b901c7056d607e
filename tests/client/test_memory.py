"""What fetch and verify hold of a corpus that is larger than they may be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recension.model.digest import format_digest
from recension.model.manifest import Selector
from recension_client.client import Client
from recension_client.export.layout import Form
from tests.client.processes import at, make_project, serving

pytestmark = pytest.mark.torture

LIMIT_BYTES = 300 * 2**20
PAGES = 10_000
LONGEST_BYTES = 64 * 1024
MEASURED = """
import sys
from pathlib import Path
from recension_client.cli.main import main
status = main(sys.argv[1:])
held = Path("/proc/self/status").read_text().splitlines()
print(*(line for line in held if line.startswith("VmHWM")))
sys.exit(status)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server with more text than the limit; its address and a snapshot of it all."""
    folder = tmp_path_factory.mktemp("large")
    events, data = folder / "events.ndjson", folder / "data"
    with events.open("w") as file:
        for page in range(1, PAGES + 1):
            line = f"line of page {page}, which is not that of any other: {page * 7919}\n"
            count = page * 7919 % LONGEST_BYTES // len(line) + 1
            text = "".join(f"{number} {line}" for number in range(count))
            slot = {"role": "main", "model": "wikitext", "format": "text/x-wiki", "text": text}
            edit = {"revId": str(page), "title": f"Page {page}", "contributor": {"name": "Ann"}}
            event = {"project": "large", "pageId": str(page), "time": "2020-01-01T00:00:00Z"}
            file.write(json.dumps(event | {"sourceId": str(page), "edit": edit | {"slots": [slot]}}) + "\n")
    make_project("large", data)
    subprocess.run(
        [sys.executable, "-m", "recension.server.main", "ingest", "events", "large", events, "--data", data],
        check=True,
        capture_output=True,
    )
    with serving(data) as address, Client(address) as client:
        made = client.create_snapshot(Selector.of(["large"]))
        assert made.parts[0].text_bytes > LIMIT_BYTES
        yield address, format_digest(made.snapshot_id)


@pytest.mark.parametrize("form", Form)
def test_memory_stays_below_the_limit(large: tuple[str, str], tmp_path: Path, form: Form) -> None:
    """A whole fetch, and a verification of what it wrote, as processes of their own."""
    address, snapshot = large
    name = form.value.split(".", maxsplit=1)[0]
    target = str(tmp_path / "corpus")
    assert most_held(address, "fetch", snapshot, target, "--form", name) < LIMIT_BYTES
    assert most_held(address, "verify", target) < LIMIT_BYTES


def most_held(address: str, *arguments: str) -> int:
    """Run a command; return the most that it held, with the pages of its libraries."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        capture_output=True,
        check=False,
        env=at(address),
        text=True,
        timeout=600,
    )
    assert 0 == done.returncode, done.stderr
    print(arguments[0], done.stdout.splitlines()[-1])
    return int(done.stdout.split("VmHWM:")[1].split()[0]) * 1024
