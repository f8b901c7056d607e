"""Texts as they are stored, before callers with a licence."""

from __future__ import annotations

from recension.model.digest import digest_of
from recension.model.event import Presence
from recension.model.reading import Entry, Slot
from recension.server.scope import withheld
from recension.v1 import snapshot_service_pb2 as pb
from recension.wire import convert
from recension.wire.frames import encoded
from recension.wire.splice import EntryBatch

TEXT = b"a text that is not granted " * 9


def test_what_a_licence_withholds_leaves_in_no_frame() -> None:
    """Of an entry whose text is withheld neither the frame nor the digest is sent; of another both are."""
    slot = Slot("main", "wikitext", "", Presence.PRESENT, len(TEXT), digest_of(TEXT), frame=encoded(TEXT))
    entry = Entry("w", 1, 1, 0, "T", 0, False, (slot,), b"s" * 16, b"c" * 16, b"")  # noqa: FBT003
    for shown, there in ((entry, True), (withheld(entry, ["main"]), False)):
        batch = EntryBatch()
        batch.add(shown, convert.TextBudget())
        raw = batch.message(pb.ReadSnapshotResponse, "")
        assert there == (encoded(TEXT) in raw)
        assert there == (digest_of(TEXT).hex().encode() in raw)
        assert batch.text_bytes == (len(TEXT) if there else 0)
