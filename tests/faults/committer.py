"""Commit until killed; print each position once it is acknowledged."""

import sys
from pathlib import Path

from recension.model.record import Commit, Head, commit_hash, encode_commit
from recension.store.interface import Outcome
from recension.store.lmdb import LmdbStore

store = LmdbStore.open(Path(sys.argv[1]), create=True, force_mount=True)
while True:
    old = store.log.head()
    position = old.position + 1
    record = encode_commit(Commit(position, position, old.hash, "p", ()))
    key = position.to_bytes(8, "big")
    rows = [(key + bytes([part]), key * 20) for part in range(50)]
    if store.commit(record, Head(position, position, commit_hash(record)), rows, rows[:5]) is Outcome.OK:
        print(position, flush=True)
