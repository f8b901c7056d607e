"""A lying server: a fetch never ends well, says what is wrong, and writes nothing under a final name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard

from recension.model.errors import InvalidArgumentError, RecensionError, UnreachableError, VerificationError
from recension.model.reading import MAX_FRAME_TEXT
from recension.v1 import snapshot_service_pb2 as pb
from recension.v1.revision_service_pb2 import Slot
from recension_client import retrying
from recension_client.client import Client
from recension_client.export import layout
from recension_client.export.fetching import fetch
from recension_client.export.layout import Form
from tests.client.corpus import World, made
from tests.client.lying import Lie, Messages, lying


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("made")) as served:
        yield served


HASTY = retrying.Retry(first_pause_seconds=0.001, longest_pause_seconds=0.01)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "DEFAULT", HASTY)
    monkeypatch.setattr(layout, "SHARD_PAGES", 256)


def on_batch(*changes: Callable[[pb.EntryBatch], object]) -> Lie:
    """Lie in the first batch of each stream."""

    def lie(messages: Messages) -> Messages:
        told = False
        for message in messages:
            if message.HasField("batch") and not told and len(message.batch.entries) > 2:
                told = True
                for change in changes:
                    change(message.batch)
            yield message

    return lie


def dropping(messages: Messages) -> Messages:
    """Withhold a page, and count accordingly."""
    dropped = 0
    for message in messages:
        if message.HasField("batch") and not dropped:
            del message.batch.entries[1]
            dropped = 1
        if message.HasField("end"):
            message.end.entries -= dropped
        yield message


def adding(messages: Messages) -> Messages:
    """Add a page at the end."""
    last = pb.Entry()
    for message in messages:
        if message.HasField("batch"):
            last.CopyFrom(message.batch.entries[-1])
        if message.HasField("end"):
            last.page_id += 1
            yield pb.ReadSnapshotResponse(batch=pb.EntryBatch(entries=[last], cursor="x"))
            message.end.entries += 1
        yield message


def endless(messages: Messages) -> Messages:
    """Make up pages for ever."""
    message = next(messages)
    del message.batch.entries[2:]
    entry = message.batch.entries[-1]
    yield message
    shard = (entry.page_id >> 8) % 4
    while True:
        entry.page_id += 1
        while (entry.page_id >> 8) % 4 != shard:
            entry.page_id += 256
        yield pb.ReadSnapshotResponse(batch=pb.EntryBatch(entries=[entry], cursor="x"))


def silence(messages: Messages) -> Messages:
    """Send batches of nothing for ever."""
    while True:
        yield pb.ReadSnapshotResponse(batch=pb.EntryBatch(cursor="x"))


def draining(messages: Messages) -> Messages:
    """Shut down for ever."""
    yield pb.ReadSnapshotResponse(end=pb.ReadEnd(complete=False))


def early(messages: Messages) -> Messages:
    """Say at once that all was sent."""
    yield pb.ReadSnapshotResponse(end=pb.ReadEnd(complete=True))


def miscounted(messages: Messages) -> Messages:
    for message in messages:
        if message.HasField("end"):
            message.end.entries += 1
        yield message


def another_text(batch: pb.EntryBatch) -> None:
    slot = batch.entries[1].slots[0]
    plain(slot, told(slot) + b"!")


def another_text_with_its_digest(batch: pb.EntryBatch) -> None:
    slot = batch.entries[1].slots[0]
    plain(slot, told(slot) + b"!")
    sized(slot, slot.text.encode())


def told(slot: Slot) -> bytes:
    """Return a text, however it comes."""
    return zstandard.decompress(slot.text_zstd) if slot.text_zstd else slot.text.encode()


def plain(slot: Slot, text: bytes) -> None:
    """Say a text, and no frame."""
    slot.text = text.decode()
    slot.ClearField("text_zstd")


def framed(slot: Slot, frame: bytes) -> None:
    """Say a frame, and no text."""
    slot.text_zstd = frame
    slot.ClearField("text")


def sized(slot: Slot, text: bytes) -> None:
    """Say of a slot that it has a text."""
    slot.digest = f"sha256:{sha256(text).hexdigest()}"
    slot.size_bytes = len(text)


def in_frame(
    change: Callable[[bytes], bytes], *, and_digest: bool = False
) -> Callable[[pb.EntryBatch], None]:
    """Say what is made of a text in place of its frame; with ``and_digest`` as if it were the text's."""

    def lie(batch: pb.EntryBatch) -> None:
        slot = batch.entries[1].slots[0]
        frame = change(told(slot))
        framed(slot, frame)
        if and_digest:
            sized(slot, zstandard.ZstdDecompressor().decompressobj().decompress(frame))

    return lie


def flipped(text: bytes) -> bytes:
    """Damage the frame where its content lies."""
    frame = bytearray(zstandard.compress(text))
    frame[len(frame) // 2] ^= 1
    return bytes(frame)


def against_another(text: bytes) -> bytes:
    """Compress against what the client has not."""
    dictionary = zstandard.ZstdCompressionDict(text, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(dict_data=dictionary).compress(text)


def without_size(text: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(text)


def a_bomb(batch: pb.EntryBatch) -> None:
    """Announce a petabyte in some bytes: the magic number, a size of eight bytes, an empty last block."""
    slot = batch.entries[1].slots[0]
    framed(slot, b"\x28\xb5\x2f\xfd\xe0" + (2**50).to_bytes(8, "little") + b"\x01\0\0")
    slot.size_bytes = 2**50


def many_bombs(batch: pb.EntryBatch) -> None:
    """Let each be small enough, and all of them be too much."""
    text = bytes(MAX_FRAME_TEXT)
    for entry in batch.entries[:3]:
        framed(entry.slots[0], zstandard.compress(text))
        sized(entry.slots[0], text)


def both(batch: pb.EntryBatch) -> None:
    slot = batch.entries[1].slots[0]
    text = told(slot)
    slot.text, slot.text_zstd = text.decode(), zstandard.compress(text)


def swapped_texts(batch: pb.EntryBatch) -> None:
    one, two = batch.entries[0].slots[0], batch.entries[1].slots[0]
    kept = type(one)()
    kept.CopyFrom(one)
    one.CopyFrom(two)
    two.CopyFrom(kept)


def twice(batch: pb.EntryBatch) -> None:
    batch.entries[1].CopyFrom(batch.entries[0])


def back(batch: pb.EntryBatch) -> None:
    batch.entries[1].page_id, batch.entries[0].page_id = batch.entries[0].page_id, batch.entries[1].page_id


def huge(batch: pb.EntryBatch) -> None:
    plain(batch.entries[1].slots[0], b"x" * 9_000_000)


def a_flood(batch: pb.EntryBatch) -> None:
    batch.entries[-1].slots[0].text_omitted = True
    batch.entries[-1].slots[0].size_bytes = 2**50


def negative(batch: pb.EntryBatch) -> None:
    batch.entries[1].slots[0].size_bytes = -1


def hidden(batch: pb.EntryBatch) -> None:
    withheld(batch, bytes(32))


def cut_short(batch: pb.EntryBatch) -> None:
    withheld(batch, b"x")


def withheld(batch: pb.EntryBatch, commitment: bytes) -> None:
    del batch.entries[1].slots[:]
    batch.entries[1].content_salt = b""
    batch.entries[1].content_commitment = commitment


def sets(path: str, value: object) -> Callable[[pb.EntryBatch], None]:
    return lambda batch: setattr(batch.entries[1], path, value)


LIES: dict[str, tuple[Lie, str]] = {
    "text": (on_batch(another_text), "does not match its digest"),
    "text and digest": (on_batch(another_text_with_its_digest), "root is another"),
    "swapped texts": (on_batch(swapped_texts), "root is another"),
    "withheld page": (dropping, "pages came, the snapshot has"),
    "added page": (adding, "pages came|does not belong|root is another"),
    "same page twice": (on_batch(twice), "went back"),
    "out of order": (on_batch(back), "went back"),
    "pages without end": (endless, "sends more than|pages came"),
    "empty batches without end": (silence, "empty batch"),
    "nothing": (early, "0 pages came"),
    "wrong count": (miscounted, "the server counted"),
    "negative size": (on_batch(negative), "does not say"),
    "text of a petabyte": (on_batch(a_flood), "sends more than"),
    "withheld content": (on_batch(hidden), "root is another"),
    "other title": (on_batch(sets("title", "../../../../etc/passwd")), "root is another"),
    "endless title": (on_batch(sets("title", "x" * 20_000)), "title is too long"),
    "other revision": (on_batch(sets("rev_id", 1)), "root is another"),
    "other namespace": (on_batch(sets("namespace", 1)), "root is another"),
    "foreign salt": (on_batch(sets("title_salt", bytes(16))), "root is another"),
    "no salt": (on_batch(sets("title_salt", b"")), "salt of its title is missing"),
    "no content salt": (on_batch(sets("content_salt", b"")), "salt of its content is missing"),
    "long salt": (on_batch(sets("title_salt", bytes(1_000))), "salt of its title"),
    "short commitment": (on_batch(cut_short), "has not 32 bytes"),
    "hostile project": (on_batch(sets("project", "../../up")), "does not belong|went back|pages came"),
    "other page": (on_batch(sets("page_id", 2**62)), "does not belong|went back"),
    "page 0": (on_batch(sets("page_id", 0)), "went back"),
    "damaged frame": (on_batch(in_frame(flipped)), "holds no text|not match its digest"),
    "frame of another text": (on_batch(in_frame(lambda _: zstandard.compress(b"x"))), "does not say"),
    "frame of as large a text": (
        on_batch(in_frame(lambda text: zstandard.compress(bytes(len(text))))),
        "not match its digest",
    ),
    "frame and digest": (
        on_batch(in_frame(lambda text: zstandard.compress(text + b"!"), and_digest=True)),
        "root is another",
    ),
    "half a frame": (on_batch(in_frame(lambda text: zstandard.compress(text)[:-9])), "holds no text"),
    "no frame": (on_batch(in_frame(lambda text: text)), "does not say|holds no text"),
    "something behind a frame": (
        on_batch(in_frame(lambda text: zstandard.compress(text) + b"x")),
        "holds no text",
    ),
    "frame without a size": (on_batch(in_frame(without_size)), "does not say"),
    "frame without a size, of -1 bytes": (on_batch(in_frame(without_size), negative), "does not say"),
    "frame against a text": (on_batch(in_frame(against_another)), "holds no text|not match its digest"),
    "frame that is not UTF-8": (
        on_batch(in_frame(lambda _: zstandard.compress(b"\xff"), and_digest=True)),
        "holds no text",
    ),
    "frame of a petabyte": (on_batch(a_bomb), "sends more than|too large"),
    "large frame": (
        on_batch(in_frame(lambda _: zstandard.compress(bytes(MAX_FRAME_TEXT + 1)), and_digest=True)),
        "sends more than|too large",
    ),
    "many large frames": (on_batch(many_bombs), "sends more than|too large"),
    "text and frame": (on_batch(both), "comes twice"),
}


def refused(world: World, address: str, target: Path, snapshot: bytes) -> RecensionError:
    """Fetch from a liar; what it says."""
    with Client(address) as client, pytest.raises(RecensionError) as caught:
        fetch(client, client.snapshot(snapshot), target, Form.JSONL)
    assert not (target / "data").exists()
    beside = {path.name for path in target.parent.iterdir()} if target.parent.exists() else set()
    assert beside <= {target.name}
    return caught.value


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_named_and_nothing_is_kept(world: World, tmp_path: Path, name: str) -> None:
    lie, said = LIES[name]
    with lying(world.address, lie) as address:
        error = refused(world, address, tmp_path / "in" / "t", world.second)
    assert isinstance(error, VerificationError), error
    assert re.search(said, error.message)


def test_the_double_tells_the_truth_without_a_lie(world: World, tmp_path: Path) -> None:
    """The control: what the lies are refused for is the lies."""
    with lying(world.address) as address, Client(address) as client:
        fetch(client, client.snapshot(world.second), tmp_path / "t", Form.JSONL)
    assert (tmp_path / "t" / "data" / "index.json").exists()


def test_a_message_beyond_the_limit(world: World, tmp_path: Path) -> None:
    """It is not taken into memory."""
    with lying(world.address, on_batch(huge)) as address:
        error = refused(world, address, tmp_path / "in" / "t", world.second)
    assert isinstance(error, InvalidArgumentError)
    assert "too large" in error.message


def test_a_server_that_drains_for_ever(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up when patience is at its end."""
    monkeypatch.setattr(retrying, "DEFAULT", replace(HASTY, patience_seconds=0.1))
    with lying(world.address, draining) as address:
        assert isinstance(refused(world, address, tmp_path / "in" / "t", world.second), UnreachableError)


def test_another_snapshot(world: World, tmp_path: Path) -> None:
    """A manifest is the one of its id or none."""
    with lying(world.address, other=f"sha256:{world.first.hex()}") as address:
        error = refused(world, address, tmp_path / "in" / "t", world.second)
    assert "another snapshot than was asked for" in error.message


@pytest.mark.parametrize("name", ["base_url", "license"])
def test_endless_terms(world: World, tmp_path: Path, name: str) -> None:
    """What stands in every row has a limit."""
    with lying(world.address, terms={name: "x" * 100_000}) as address:
        error = refused(world, address, tmp_path / "in" / "t", world.second)
    assert "endless" in error.message


def test_a_lie_about_an_update_leaves_the_old(world: World, tmp_path: Path) -> None:
    """An older export stays as it is when the newer one does not fit."""
    target = tmp_path / "t"
    with Client(world.address) as client:
        done = fetch(client, client.snapshot(world.first), target, Form.JSONL)
    with (
        lying(world.address, dropping) as address,
        Client(address) as client,
        pytest.raises(VerificationError, match="pages came"),
    ):
        fetch(client, client.snapshot(world.second), target, Form.JSONL)
    with Client(world.address) as client:
        again = fetch(client, client.snapshot(world.first), target, Form.JSONL)
        assert again.was_there
        assert done.index == again.index
        assert not fetch(client, client.snapshot(world.second), target, Form.JSONL).was_there


@pytest.mark.parametrize("lie", [a_bomb, many_bombs], ids=["one", "many"])
def test_a_bomb_is_not_decoded_whoever_reads(world: World, lie: Callable[[pb.EntryBatch], None]) -> None:
    """Also a reader who has no manifest to compare sizes with makes room for a batch's share alone."""
    with (
        lying(world.address, on_batch(lie)) as address,
        Client(address) as client,
        pytest.raises(VerificationError, match="too large, or was not asked for"),
    ):
        list(client.read(world.second))


@pytest.mark.parametrize("text", [True, False])
def test_chosen_pages_bring_no_more_than_the_snapshot_has(world: World, text: bool) -> None:  # noqa: FBT001
    """A size that is announced is refused before it is taken, also where pages are asked for twice."""

    def lie(messages: Messages) -> Messages:
        for message in messages:
            if message.HasField("batch"):
                a_flood(message.batch)
            yield message

    with lying(world.address, lie) as address, Client(address) as client:
        snapshot = client.open(world.second)
        with pytest.raises(VerificationError, match="sends more than"):
            list(snapshot.read([3, 4, 3], text=text))
    with lying(world.address) as address, Client(address) as client:
        assert len(list(client.open(world.second).read([3] * 5, text=text))) == 5
