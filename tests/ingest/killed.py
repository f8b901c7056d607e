"""An ingest with a fixed clock, and salts fixed or random: the process that ``test_kill`` kills."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from recension.archive.clock import random_salts
from recension.model.reading import ProjectInfo
from recension.server.ingest import run_ingest
from recension.store.lmdb import LmdbStore
from tests.archive.helpers import NOW, fixed_salts


def main() -> None:
    """Arguments: data directory, file, "fixed" or "random"."""
    data, path, salts = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    with closing(LmdbStore.open(data, create=True)) as store:
        from recension.archive.ingest import Ingestor  # noqa: PLC0415 - beside its use

        Ingestor(store, clock=lambda: NOW).create_project(
            ProjectInfo("w", "https://w.example", "en", "CC0-1.0")
        )
        chosen = fixed_salts if salts == "fixed" else random_salts
        run_ingest(
            store,
            "events",
            "w",
            [path],
            data=data,
            quiet=True,
            json_output=True,
            clock=lambda: NOW,
            salts=chosen,
        )


if __name__ == "__main__":
    main()
