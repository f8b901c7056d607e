"""One ingest with a fixed clock, and salts that are fixed unless the seed is "random"; prints the head.

Run by ``test_resume``: ``fixed_run.py DATA SEED FILE WORKERS [SORTED]``; with ``SORTED`` rows that come in no
order wait in piles from the start, and few piles are many.
"""

from __future__ import annotations

import sys
from pathlib import Path

from recension.archive.ingest import Ingestor
from recension.model.reading import ProjectInfo
from recension.server.ingest import run_ingest
from recension.store import arrivals, lmdb
from recension.store.lmdb import LmdbStore

NOW = 1_800_000_000_000_000


def main() -> int:
    data, seed, file = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    if len(sys.argv) > 5:
        lmdb._IMPORT_FROM_ROWS, arrivals.FAN = 0, 2
    store = LmdbStore.open(data, create=True)
    try:
        Ingestor(store, clock=lambda: NOW).create_project(
            ProjectInfo("aawiki", "https://aa.wikipedia.org", "aa", "CC-BY-SA-4.0")
        )
        print("ready", flush=True)
        status = run_ingest(
            store,
            "dump",
            "aawiki",
            [file],
            data=data,
            allow_rejected=True,
            json_output=True,
            quiet=True,
            clock=lambda: NOW,
            seed=b"" if seed == "random" else seed.encode(),
            workers=int(sys.argv[4]),
        )
        print(store.log.head().position, store.log.head().hash.hex())
        return status
    finally:
        store.close()


if __name__ == "__main__":
    sys.exit(main())
