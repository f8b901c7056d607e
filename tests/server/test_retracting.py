"""The commands ``retract``, ``retractions`` and ``receipts``: from the dry run to the signed receipt."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Collection, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from recension.archive.check.run import Check
from recension.archive.duties import LicenseeDuties
from recension.archive.pins import LicenseePins
from recension.archive.retracting import retractions
from recension.archive.sealed import CONTENT_FIELD, find_sealed, open_sealed
from recension.archive.texts.reading import load, texts_of
from recension.model.event import Comment, Contributor, Edit, Presence, SlotText
from recension.model.note import read_key
from recension.model.retraction import read_receipt
from recension.model.seal import (
    CONTENT,
    SALT_BYTES,
    SlotState,
    commitment,
    content_value,
    field_salt,
)
from recension.server.main import main
from recension.server.searching import Searched, Searcher
from recension.store import keys
from recension.store.directory import DataDirectory
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from tests.archive.helpers import NOW, World

TEXT, COMMENT, WHO = "canary-text-94ab", "canary-comment-51cd", "canary-person-77ef"
CANARIES = [TEXT, COMMENT, WHO]
FILLER = "".join(random.Random(8).choices("abcdefghijklmnop \n", k=4000))


def by(rev: int, text: str, who: str = "Ann", comment: str = "") -> Edit:
    """Return an edit."""
    slot = SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, text.encode())
    said = Comment(Presence.PRESENT, comment) if comment else Comment(Presence.ABSENT)
    return Edit(rev, 0, "A", 0, False, Contributor.named(who), said, minor=False, slots=(slot,))  # noqa: FBT003


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A page whose second revision has canaries, among others; sealed."""
    with closing(LmdbStore.open(tmp_path / "data", create=True)) as store:
        world = World(store)
        edits = [by(rev, f"{FILLER}{rev}") for rev in range(1, 40)]
        edits[1] = by(2, f"{FILLER}born 0004711 {TEXT}", WHO, COMMENT)
        world.add(*(world.event(1, rev, edit) for rev, edit in enumerate(edits, 1)))
        world.ingestor.settle()
        world.snapshot(2.5)
    return tmp_path / "data"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that succeeds; return what it writes."""
    status = main([str(argument) for argument in arguments])
    written = capsys.readouterr()
    assert status == 0, written.err
    return written.out


def retract(capsys: pytest.CaptureFixture[str], data: Path, *arguments: object) -> dict[str, object]:
    """Run ``retract`` on the second revision."""
    what = ("retract", "w", "--revision", 2, "--parts", "text,comment,contributor", "--reason", "privacy")
    said = run(capsys, *what, "--case", "c-1", "--data", data, "--json", *arguments)
    document: dict[str, object] = json.loads(said)
    return document


def readings(data: Path) -> Iterator[bytes]:
    """Yield all bytes of all files, and what they hold when it is decompressed."""
    for path in sorted(data.rglob("*")):
        if path.is_file():
            yield path.read_bytes()
    with closing(LmdbStore.open(data)) as store:
        yield from decompressed(store)


def decompressed(store: Store) -> Iterator[bytes]:
    """Yield every record of the log, every sealed value and every text, and every row of the index."""
    position = 1
    while records := store.log.read(position, 100):
        yield from records
        position += len(records)
    with store.view() as view:
        for key, value in view.scan(b"\0", b"\xff" * 8):
            yield key + b"|" + value
        blob: bytes | None = b"u"
        while blob is not None and (blob := view.last_blob_key(b"s", blob)) is not None:
            raw = view.blob(blob) or b""
            if blob.startswith(b"t"):
                yield from texts_of(view, load(view, int.from_bytes(blob[1:], "big")))
            else:
                for one in open_sealed(raw):
                    yield b"|".join(value or b"" for value in (one.salt, *one.values, *one.salts))


def found(canaries: Collection[str], data: Path) -> set[str]:
    """Return which canaries are somewhere, as UTF-8 or UTF-16."""
    out = set()
    for content in readings(data):
        for canary in canaries:
            forms = canary.encode(), canary.encode("utf-16-le"), canary.encode("utf-16-be")
            if any(form in content for form in forms):
                out.add(canary)
    return out


def guesses(count: int) -> Iterator[bytes]:
    """Yield candidates of what was withdrawn, the true one among them."""
    for number in range(count):
        yield f"{FILLER}born {number:07} {TEXT}".encode()


def kept_values(store: Store) -> set[bytes]:
    """Return every 16 bytes of the index and of the heads of sealed values: wherever a digest may lie."""
    out: set[bytes] = set()
    with store.view() as view:
        for key, value in view.scan(b"\0", b"\xff" * 8):
            for content in (key[1:], value):
                out.update(content[at : at + 16] for at in range(len(content) - 15))
    for content in decompressed(store):
        out.update(content[at : at + 16] for at in range(min(len(content), 1000) - 15))
    return out


def guessed(data: Path, count: int) -> set[str]:
    """Return by what of all that is kept candidates can be told right."""
    with closing(LmdbStore.open(data)) as store:
        values = kept_values(store)
        with store.view() as view:
            (row,) = view.scan(keys.revision(1, 2), keys.revision(1, 3))
            sealed = find_sealed(view, *keys.read_revision(row[0])[1:])
        committed = sealed.sealings([CONTENT_FIELD], [CONTENT])[0][1]
        salts = {salt for salt in (sealed.salt, *sealed.salts) if len(salt) == SALT_BYTES}
    salts |= {field_salt(salt, CONTENT) for salt in salts}
    hits = set()
    for text in guesses(count):
        digest = sha256(text).digest()
        if digest[:16] in values:
            hits.add("digest")
        state = SlotState("main", "wikitext", "text/x-wiki", Presence.PRESENT, len(text), digest)
        value = content_value([state])
        if any(commitment(salt, CONTENT, value) == committed for salt in salts):
            hits.add("commitment")
    return hits


def test_dry_run_changes_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It tells what would be done; nothing is recorded."""
    with closing(LmdbStore.open(data)) as store:
        head = store.log.head()
    said = retract(capsys, data)
    assert (said["dry_run"], said["left"], said["texts"]) == (
        True,
        1,
        {"erased": 1, "erased_bytes": len(FILLER) + len(f"born 0004711 {TEXT}")},
    )
    assert len(said["snapshots"]) == 1  # type: ignore[arg-type]
    with closing(LmdbStore.open(data)) as store:
        assert store.log.head() == head
    human = run(capsys, "retract", "w", "--revision", 2, "--reason", "other", "--case", "c", "--data", data)
    assert "nothing was changed" in human


def test_from_canaries_to_a_receipt(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Found everywhere before, in free pages until the file is written anew, and nowhere after."""
    assert found(CANARIES, data) == set(CANARIES)
    assert guessed(data, 10_000) == {"digest", "commitment"}
    run(capsys, "key", "create", "example.org/log", "--data", data)
    run(capsys, "backup", data.with_name("backup"), "--data", data)
    said = retract(capsys, data, "--yes")
    assert said["erased"] == {"texts": 1, "values": 3}
    assert json.loads(run(capsys, "receipts", "show", "--data", data, "--json")) == []
    assert json.loads(run(capsys, "compact", "--data", data, "--json"))["receipts"] == ["c-1"]
    assert found(CANARIES, data) == set()
    assert guessed(data, 10_000) == set()

    (document,) = json.loads(run(capsys, "receipts", "show", "--data", data, "--json"))
    encoded = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    receipt = read_receipt(encoded)
    assert (receipt.revisions, receipt.fields, receipt.texts, len(receipt.backups)) == (1, 3, 1, 1)
    assert receipt.values_searched >= 4  # a digest, and the salts of three fields
    text, _, signature = receipt.note.rpartition("\n\n")
    key = read_key(json.loads(run(capsys, "key", "list", "--data", data, "--json"))[0]["key"])
    raw = base64.b64decode(signature.split()[2])
    Ed25519PublicKey.from_public_bytes(key.public).verify(raw[4:], f"{text}\n".encode())

    folder = data.with_name("out")
    (path,) = json.loads(run(capsys, "receipts", "export", "c-1", folder, "--data", data, "--json"))
    assert Path(path).read_text() == receipt.note
    (listed,) = json.loads(run(capsys, "retractions", "list", "--data", data, "--json"))
    assert (listed["case"], listed["receipt"], listed["reason"]) == ("c-1", True, "privacy")
    with closing(LmdbStore.open(data)) as store:
        check = Check(store)
        check.run()
        assert check.state.shown == []
    assert "nothing is left to do" in run(
        capsys, "retract", "w", "--revision", 2, "--reason", "other", "--case", "c", "--data", data
    )


def test_values_are_looked_for_and_then_forgotten(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The search can fail: a file with a salt, in hex, stands against the receipt until it is removed."""
    run(capsys, "key", "create", "example.org/log", "--data", data)
    retract(capsys, data, "--yes")
    (values,) = (data / "retractions").glob("*.values")
    salt = next(line.split()[1] for line in values.read_text().splitlines() if line.startswith("salts"))
    (data / "notes.txt").write_text(f"something {salt} else")
    assert main(["compact", "--data", str(data)]) == 3
    assert "a digest or a salt" in capsys.readouterr().err
    (data / "notes.txt").unlink()
    run(capsys, "compact", "--data", data)
    assert not values.exists()


@pytest.mark.torture
def test_a_million_guesses_confirm_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As above, with all candidates."""
    assert guessed(data, 5_000) == {"digest", "commitment"}
    retract(capsys, data, "--yes")
    run(capsys, "compact", "--data", data)
    assert guessed(data, 1_000_000) == set()


def test_without_a_key_nothing_is_signed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The erasure is done; the receipt comes with the next compaction once there is a key."""
    retract(capsys, data, "--yes")
    assert main(["compact", "--data", str(data)]) == 0
    assert "no signing key" in capsys.readouterr().err
    run(capsys, "key", "create", "example.org/log", "--data", data)
    assert json.loads(run(capsys, "compact", "--data", data, "--json"))["receipts"] == ["c-1"]
    assert json.loads(run(capsys, "compact", "--data", data, "--json"))["receipts"] == []


def test_beside_an_ingest_it_is_hidden_and_erased_later(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hiding waits for nobody; a compaction does what is left."""
    with DataDirectory(data.resolve()).exclusive_writer():
        said = retract(capsys, data, "--yes")
    assert (len(said["positions"]), said["erased"]) == (1, None)  # type: ignore[arg-type]
    with closing(LmdbStore.open(data)) as store:
        revision = World(store).archive.revision("w", 2).revision
        assert revision.contributor.presence is Presence.HIDDEN
    run(capsys, "key", "create", "example.org/log", "--data", data)
    assert json.loads(run(capsys, "compact", "--data", data, "--json"))["receipts"] == ["c-1"]
    assert found(CANARIES, data) == set()


def test_escrow_and_the_way_back(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of it is legible without the secret; with it all is as it was, and may be withdrawn anew."""
    secret, public, bundle = tmp_path / "secret.pem", tmp_path / "public.pem", tmp_path / "bundle"
    key = X25519PrivateKey.generate()
    pem = Encoding.PEM
    secret.write_bytes(key.private_bytes(pem, PrivateFormat.PKCS8, NoEncryption()))
    secret.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(pem, PublicFormat.SubjectPublicKeyInfo))
    escrow = ("--escrow-key", public, "--escrow-out", bundle)
    with closing(LmdbStore.open(data)) as store:
        before = World(store).archive.revision("w", 2).revision
    retract(capsys, data, *escrow)
    assert not bundle.exists()
    retract(capsys, data, "--yes", *escrow)
    assert not any(canary.encode() in bundle.read_bytes() for canary in CANARIES)
    run(capsys, "compact", "--data", data)
    assert found(CANARIES, data) == set()

    back = ("retract", "w", "--reverse", "c-1", "--bundle", bundle, "--data", data, "--escrow-secret", secret)
    assert "would be shown" in run(capsys, *back)
    run(capsys, *back, "--yes")
    with closing(LmdbStore.open(data)) as store:
        again = World(store)
        assert again.archive.revision("w", 2).revision == before
        edit = by(2, f"{FILLER}born 0004711 {TEXT}", WHO, COMMENT)
        assert again.ingestor.append("w", [again.event(1, 2, edit)]).rejected == ()
        check = Check(store)
        check.run()
        assert check.state.shown == []
    assert main([*map(str, back), "--yes"]) == 3
    assert "not taken back" in capsys.readouterr().err
    run(capsys, "key", "create", "example.org/log", "--data", data)
    assert json.loads(run(capsys, "compact", "--data", data, "--json"))["receipts"] == []
    assert found(CANARIES, data) == set(CANARIES)
    assert retract(capsys, data, "--yes")["erased"] == {"texts": 1, "values": 3}


def test_escrow_that_cannot_be(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key of another kind, a bundle in the data directory, one that is there, another secret: named."""
    public, signing = tmp_path / "public.pem", tmp_path / "signing.pem"
    pem, form = Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(X25519PrivateKey.generate().public_key().public_bytes(pem, form))
    signing.write_bytes(Ed25519PrivateKey.generate().public_key().public_bytes(pem, form))
    taken, bundle, other = tmp_path / "taken", tmp_path / "bundle", tmp_path / "other.pem"
    taken.touch()
    what = [
        "retract",
        "w",
        "--revision",
        "2",
        "--reason",
        "other",
        "--case",
        "c",
        "--data",
        str(data),
        "--yes",
    ]
    for arguments, said in (
        (("--escrow-key", signing, "--escrow-out", bundle), "no X25519 key"),
        (("--escrow-key", public, "--escrow-out", data / "bundle"), "in the data directory"),
        (("--escrow-key", public, "--escrow-out", taken), "exists"),
        (("--escrow-key", public), "--escrow-out"),
    ):
        assert main([*what, *map(str, arguments)]) == 3
        assert said in capsys.readouterr().err
    with closing(LmdbStore.open(data)) as store, store.view() as view:
        assert list(retractions(view)) == []
    assert main([*what, "--escrow-key", str(public), "--escrow-out", str(bundle)]) == 0
    form_ = PrivateFormat.PKCS8
    other.write_bytes(X25519PrivateKey.generate().private_bytes(pem, form_, NoEncryption()))
    other.chmod(0o600)
    back = ["retract", "w", "--reverse", "c", "--bundle", str(bundle), "--data", str(data)]
    capsys.readouterr()
    assert main([*back, "--escrow-secret", str(other)]) == 3
    assert "cannot be opened" in capsys.readouterr().err
    assert main(back) == 3


def test_who_has_not_answered(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By licensee and pin, until the answer is there; the report of the retraction names the same."""
    with closing(LmdbStore.open(data)) as store:
        snapshot = next(World(store).archive.snapshots()).snapshot_id
        LicenseePins(store, "acme").create("run", snapshot, NOW + 10**12)
    assert run(capsys, "retractions", "outstanding", "--data", data) == ""
    said = retract(capsys, data, "--yes")
    assert json.loads(Path(str(said["report"])).read_text())["licensees"] == [{"owner": "acme", "pins": 1}]
    (row,) = json.loads(run(capsys, "retractions", "outstanding", "--data", data, "--json"))
    assert (row["owner"], row["pin"], row["entries"], row["answered_through"]) == ("acme", "run", 1, 0)
    assert "acme\trun\t1 entries" in run(capsys, "retractions", "outstanding", "--data", data)
    with closing(LmdbStore.open(data)) as store:
        LicenseeDuties(store, "acme").acknowledge("run", row["since"])
    assert run(capsys, "retractions", "outstanding", "--data", data) == ""
    listed = run(capsys, "retractions", "list", "--data", data)
    assert listed.startswith(f"{row['since']}\tc-1\tprivacy\tw\t1 revisions\tno receipt")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--revision", 99), "no revision 99"),
        (("--page", 99), "no page 99"),
        (("--contributor", "Nobody"), "no revision in 'w' names"),
        ((), "nothing is named"),
        (("--file", "/nowhere/list"), "cannot be read"),
    ],
)
def test_what_does_not_exist_has_a_name(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], said: str
) -> None:
    """Also with --yes, and then nothing is recorded."""
    what = ("retract", "w", "--reason", "other", "--case", "c", "--data", data, "--yes", *arguments)
    assert main([str(one) for one in what]) == 3
    assert said in capsys.readouterr().err


def test_list_in_a_file(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Revisions, pages and contributors, a line each; a line that is none of them is named."""
    listed = tmp_path / "list"
    listed.write_text(f"# a case\n3\n\nuser:{WHO}\n")
    what = ("retract", "w", "--reason", "other", "--case", "c", "--data", data, "--file", listed)
    said = json.loads(run(capsys, *what, "--json"))
    assert [one["rev_id"] for one in said["revisions"]] == [2, 3]
    listed.write_text("three")
    assert main([str(one) for one in what]) == 3
    assert "line 1" in capsys.readouterr().err


def test_values_are_found_wherever_they_lie(tmp_path: Path) -> None:
    """At odd and even places, at the ends of a file and across pieces; in hex; and not where they are not."""
    numbers = random.Random(3)
    values = {numbers.randbytes(16) for _ in range(50)}
    path = tmp_path / "file"
    searcher = Searcher(values, piece_bytes=4096)
    for value in list(values)[:5]:
        for form in (value, value.hex().encode()):
            for at in (0, 1, 777, 4096 - 9, 4096 + 1, 8192):
                content = bytearray(numbers.randbytes(9000))
                content[at : at + len(form)] = form
                path.write_bytes(content)
                assert searcher.search(tmp_path, (), Searched()) == path
    path.write_bytes(numbers.randbytes(1 << 20))
    searched = Searched()
    assert searcher.search(tmp_path, (), searched) is None
    assert (searched.files, searched.bytes) == (1, 1 << 20)


DUMP = """\
<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">
  <siteinfo><namespaces><namespace key="0" case="first-letter" /></namespaces></siteinfo>
  <page><title>A</title><ns>0</ns><id>1</id>{revisions}</page>
</mediawiki>
"""
REVISION = """\
<revision><id>{rev}</id><timestamp>2020-01-{day:02}T00:00:00Z</timestamp>
<contributor><username>Ann</username><id>7</id></contributor><model>wikitext</model>
<format>text/x-wiki</format><text xml:space="preserve">{text}</text></revision>
"""


def test_dump_and_events_bring_nothing_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same dump again, and another source: both are taken but for what was withdrawn, which is told."""
    data, dump, events = tmp_path / "data", tmp_path / "dump.xml", tmp_path / "events.ndjson"
    project = ("project", "create", "w", "--base-url", "https://w.example", "--language", "en")
    run(capsys, *project, "--license", "CC0-1.0", "--data", data)
    texts = {rev: f"{FILLER}{rev}{TEXT if rev == 2 else ''}" for rev in range(1, 5)}
    made = [REVISION.format(rev=rev, day=rev, text=text) for rev, text in texts.items()]
    dump.write_text(DUMP.format(revisions="".join(made)))
    run(capsys, "ingest", "dump", "w", dump, "--data", data, "--workers", 1, "--quiet")
    retract(capsys, data, "--yes")
    run(capsys, "compact", "--data", data)

    made.append(REVISION.format(rev=5, day=5, text="new"))
    dump.write_text(DUMP.format(revisions="".join(made)))
    slot = {"role": "main", "model": "wikitext", "format": "text/x-wiki", "text": texts[2]}
    edit = {"revId": "2", "title": "A", "contributor": {"name": "Ann", "id": "7"}, "slots": [slot]}
    event = {"project": "w", "pageId": "1", "time": "2020-01-02T00:00:00Z", "sourceId": "z", "edit": edit}
    events.write_text(json.dumps(event) + "\n")
    for kind, path in (("dump", dump), ("events", events)):
        ingest = ("ingest", kind, "w", path, "--data", data, "--workers", 1, "--quiet", "--json")
        assert main([str(one) for one in ingest]) == 1
        assert json.loads(capsys.readouterr().out)["rejected"] == {"RETRACTED": 1}
    with closing(LmdbStore.open(data)) as store:
        world = World(store)
        slots = [world.archive.revision("w", rev).revision.slot() for rev in (2, 5)]
        assert [slot and slot.text for slot in slots] == [None, b"new"]
    assert found([TEXT], data) == set()
    again = retract(capsys, data)
    assert len(again["quarantine"]) == 2  # type: ignore[arg-type]
