"""Writes the bundles of ``tests/conformance/bundles``: exports with their locks, good ones and bad ones.

Run by hand when the export format changes: ``python -m tests.conformance.make_bundles``. Salts are fixed, so
the same script writes the same bytes with the same zstd. A bad bundle is bad in one way, and its lock agrees
with it as far as it can: what an adversary could make who may rewrite everything but the snapshot's id.
"""

from __future__ import annotations

import json
import shutil
import sys
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from recension.model.digest import digest_of
from recension.model.event import Presence
from recension.model.manifest import AsOf, Manifest, ProjectPart, Selector, make_manifest
from recension.model.note import VerifierKey
from recension.model.reading import Entry, Slot
from recension.model.seal import CONTENT, commitment, content_value
from recension.model.tree import RECORD
from recension_client import lockfile
from recension_client.export import jsonl
from recension_client.export.layout import FileRecord, Form, Index, Job, Terms, shard_files
from recension_client.export.roots import ShardTree, root_of
from recension_client.export.rows import leaf_of, row_of, size_of, withheld
from recension_client.lockfile import Lock

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BUNDLES = Path(__file__).parent / "bundles"
TERMS = Terms("https://w.example", "CC0-1.0")
WRITER = "zstd of the bundles"
PAGES = (1, 2, 15, 16, 17, 40, 255, 256, 300, 5_000, 2**40)
KEY = VerifierKey("example.org/recension", bytes(range(32)))
_ID = sha256(b"example.org/recension\n\x02" + KEY.public).hexdigest()[:8]
OTHER_TYPE = f"example.org/recension+{_ID}+{b64encode(bytes([2]) + KEY.public).decode()}"
"""A key of another algorithm, well written."""


def slot(text: str, role: str = "main") -> Slot:
    """Return a slot with its text."""
    raw = text.encode()
    return Slot(role, "wikitext", "text/x-wiki", Presence.PRESENT, len(raw), digest_of(raw), raw)


def entry(page: int, project: str = "w") -> Entry:
    """Return a page with fixed salts."""
    slots: tuple[Slot, ...] = (slot(f'Text of {page}: "ünï" \\ \t\n\u2028\x01 {"x" * (page % 50)}'),)
    if page == 40:
        slots += (slot("", "notes"), Slot("old", "wikitext", "text/x-wiki", Presence.HIDDEN))
    title = {2: "A/ä ?#%", 15: "<script>\u202e"}.get(page, f"Page {page}")
    salts = sha256(f"{project} {page}".encode()).digest()
    made = Entry(
        project,
        page,
        7 * page,
        10**15 + page,
        title,
        page % 3,
        title_inferred=False,
        slots=slots,
        title_salt=salts[:16],
        content_salt=salts[16:],
        content_commitment=b"",
    )
    if page == 300:  # withheld
        kept = commitment(salts[16:], CONTENT, content_value(made.slots))
        return made._replace(slots=(), content_salt=b"", content_commitment=kept)
    return made


@dataclass
class Bundle:
    """What is written; a case changes it before that."""

    manifest: Manifest
    entries: dict[str, list[Entry]]
    lines: dict[str, list[bytes]] = field(default_factory=dict)
    lock: Callable[[str], str] = lambda text: text
    packed: Callable[[bytes], bytes] = lambda raw: raw
    leaves: Callable[[bytes], bytes] = lambda raw: raw
    after: Callable[[Path], object] = lambda _: None


def manifest_of(entries: dict[str, list[Entry]]) -> Manifest:
    """Return the manifest that these entries are the snapshot of."""
    parts = []
    for project, own in entries.items():
        tree = ShardTree()
        for each in own:
            tree.add(each.page_id, each.rev_id, leaf_of(each))
        tree.close()
        size = sum(map(size_of, own)) + 70 * any(each.content_commitment for each in own)
        parts.append(ProjectPart(project, tree.count, size, root_of([tree])))
    return make_manifest(Selector.of(list(entries)), AsOf(10**15, 5), tuple(parts))


def good() -> Bundle:
    """Return a snapshot of two projects, one of them empty."""
    entries = {"empty": list[Entry](), "w": [entry(page) for page in PAGES]}
    return Bundle(manifest_of(entries), entries)


def write(bundle: Bundle, folder: Path) -> None:
    """Write a bundle; its lock is true to its files."""
    records = []
    for file in shard_files(bundle.manifest, Form.JSONL):
        own = bundle.entries.get(file.part.project, [])
        lines = bundle.lines.get(file.part.project) or [
            jsonl.encode_line(row_of(each, TERMS)) for each in own
        ]
        packer = zstd.ZstdCompressor(level=jsonl.LEVEL)
        packed = bundle.packed(packer.compress(b"".join(lines)) + packer.flush())
        leaves = bundle.leaves(b"".join(RECORD.pack(each.page_id, each.rev_id, _leaf(each)) for each in own))
        at = folder / "corpus" / "data" / file.folder
        at.mkdir(parents=True)
        (at / file.name).write_bytes(packed)
        (at / file.leaves).write_bytes(leaves)
        text, less = sum(map(size_of, own)), sum(map(withheld, own))
        digests = sha256(packed).hexdigest(), sha256(leaves).hexdigest()
        records.append(FileRecord(f"{file.folder}/{file.name}", len(own), text, less, len(packed), *digests))
    terms = {part.project: TERMS for part in bundle.manifest.parts}
    index = Index(Job(bundle.manifest, Form.JSONL, WRITER, terms), tuple(records))
    lock = Lock("127.0.0.1:7777", bundle.manifest, terms).with_files(index, "corpus")
    (folder / "recension.lock").write_text(bundle.lock(lockfile.render(lock)), encoding="utf-8", newline="\n")
    bundle.after(folder)


def _leaf(each: Entry) -> bytes:
    try:
        return leaf_of(each)
    except Exception:  # noqa: BLE001 - a bad entry has none
        return bytes(32)


# --- ways to be bad -------------------------------------------------------------------------------

Row = dict[str, Any]
"""As JSON has it."""
Change = Callable[[Bundle], object]


def pages(change: Callable[[list[Entry]], object]) -> Change:
    """Change the list of entries."""
    return lambda bundle: change(bundle.entries["w"])


def page(at: int, **changes: Any) -> Change:
    """Change one entry."""

    def apply(bundle: Bundle) -> None:
        own = bundle.entries["w"]
        own[at] = own[at]._replace(**changes)

    return apply


def row(at: int, change: Callable[[Row], object]) -> Change:
    """Change one row as JSON, still written in the format's way."""
    return line(at, lambda each: _changed(each, change))


def _changed(raw: bytes, change: Callable[[Row], object]) -> bytes:
    value = json.loads(raw)
    change(value)
    return encode_row(value)


def encode_row(value: Row) -> bytes:
    """Return what may be no row in the format's way."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def line(at: int, change: Callable[[bytes], bytes]) -> Change:
    """Change one line's bytes."""

    def apply(bundle: Bundle) -> None:
        lines = [jsonl.encode_line(row_of(each, TERMS)) for each in bundle.entries["w"]]
        lines[at] = change(lines[at])
        bundle.lines["w"] = lines

    return apply


def lock(old: str, new: str) -> Change:
    """Edit the lock."""

    def apply(bundle: Bundle) -> None:
        def edit(text: str) -> str:
            assert old in text, old
            return text.replace(old, new, 1)

        bundle.lock = edit

    return apply


def after(change: Callable[[Path], object]) -> Change:
    """Change files after the lock was written."""
    return lambda bundle: setattr(bundle, "after", change)


def shard(folder: Path) -> Path:
    return folder / "corpus" / "data" / "w" / "00000-of-00001.jsonl.zst"


def leaves(folder: Path) -> Path:
    return shard(folder).with_name("00000-of-00001.leaves")


def swap(own: list[Entry]) -> None:
    one, two = own[0], own[1]
    own[0], own[1] = one._replace(slots=two.slots), two._replace(slots=one.slots)


def swap_with_salts(own: list[Entry]) -> None:
    one, two = own[0], own[1]
    own[0] = one._replace(slots=two.slots, content_salt=two.content_salt)
    own[1] = two._replace(slots=one.slots, content_salt=one.content_salt)


def level_confusion(bundle: Bundle) -> None:
    """Pass a node of the tree off as the root of fewer pages."""
    bundle.entries["w"] = bundle.entries["w"][:1]


def foreign_manifest(bundle: Bundle) -> None:
    """Keep the id, and put the manifest of other pages beside it."""
    old = bundle.manifest.encoded.decode()
    other = manifest_of({"empty": [], "w": bundle.entries["w"][1:]}).encoded.decode()
    bundle.lock = lambda text: text.replace(old, other)


def text_without_digest(own: list[Entry]) -> None:
    first = own[0].slots[0]
    own[0] = own[0]._replace(slots=(first._replace(text=b"another"),))


def renamed(value: Row) -> None:
    value["Text"] = value.pop("text")


def ints(name: str, value: object) -> Callable[[Row], object]:
    return lambda each: each.update({name: value})


def in_slot(at: int, **changes: object) -> Callable[[Row], object]:
    return lambda each: each["slots"][at].update(changes)


S0 = entry(1).slots[0]
BAD: dict[str, Change] = {
    # pages
    "page-dropped-first": pages(lambda own: own.pop(0)),
    "page-dropped-last": pages(lambda own: own.pop()),
    "page-dropped-block": pages(lambda own: own.__delitem__(slice(0, 3))),
    "pages-none": pages(lambda own: own.clear()),
    "page-twice": lambda bundle: bundle.lines.update(
        w=[jsonl.encode_line(row_of(each, TERMS)) for each in [bundle.entries["w"][0], *bundle.entries["w"]]]
    ),
    "page-added": pages(lambda own: own.append(entry(2**41))),
    "page-added-inside": pages(lambda own: own.insert(5, entry(41))),
    "pages-reordered": lambda bundle: bundle.lines.update(
        w=[jsonl.encode_line(row_of(each, TERMS)) for each in reversed(bundle.entries["w"])]
    ),
    "pages-swapped": pages(lambda own: own.__setitem__(slice(0, 2), own[1::-1])),
    "page-of-other-project": pages(lambda own: own.__setitem__(0, entry(1, "v")._replace(project="w"))),
    "page-replaced": pages(lambda own: own.__setitem__(0, entry(3))),
    "level-confusion": level_confusion,
    # values of pages
    "texts-swapped": pages(swap),
    "texts-swapped-with-salts": pages(swap_with_salts),
    "text-other": page(0, slots=(slot("another"),)),
    "text-without-digest": pages(text_without_digest),
    "text-empty": page(0, slots=(slot(""),)),
    "text-size": page(0, slots=(S0._replace(size_bytes=S0.size_bytes + 1),)),
    "text-missing": page(0, slots=(S0._replace(text=None),)),
    "text-hidden": page(0, slots=(Slot("main", "wikitext", "text/x-wiki", Presence.HIDDEN),)),
    "text-lost": page(0, slots=(Slot("main", "wikitext", "text/x-wiki", Presence.LOST),)),
    "hidden-as-lost": row(5, in_slot(2, presence="lost")),
    "model-other": page(0, slots=(S0._replace(model="json"),)),
    "format-other": page(0, slots=(S0._replace(format=""),)),
    "slot-added": page(0, slots=(S0, slot("more", "more"))),
    "slot-dropped": page(5, slots=entry(40).slots[:1]),
    "slot-renamed": page(0, slots=(S0._replace(role="maim"),)),
    "title-other": page(0, title="Page 2"),
    "title-normalised": page(1, title="A/a\u0308 ?#%"),
    "title-space": page(0, title="Page_1"),
    "namespace-other": page(0, namespace=0),
    "revision-other": page(0, rev_id=8),
    "time-other": page(0, timestamp=10**15),
    "salt-foreign-title": page(0, title_salt=bytes(16)),
    "salt-foreign-content": page(0, content_salt=bytes(16)),
    "salts-swapped": page(0, title_salt=entry(1).content_salt, content_salt=entry(1).title_salt),
    "commitment-other": page(8, content_commitment=bytes(32)),
    "withheld-without-need": page(0, slots=(), content_salt=b"", content_commitment=bytes(32)),
    "page-id-beyond": row(10, lambda each: each.update(page_id=2**63, id=str(2**63))),
    "page-id-0": row(0, lambda each: each.update(page_id=0, id="0")),
    "revision-id-0": row(0, ints("rev_id", 0)),
    # rows
    "row-id": row(0, ints("id", "2")),
    "row-url": row(0, ints("url", "https://w.example/wiki/Page_2")),
    "row-license": row(0, ints("license", "CC-BY-4.0")),
    "row-digest": row(0, ints("digest", None)),
    "row-number-as-text": row(0, ints("rev_id", "7")),
    "row-number-as-float": row(0, ints("rev_id", 7.0)),
    "row-number-as-true": row(0, ints("namespace", True)),  # noqa: FBT003
    "row-extra-key": row(0, ints("more", 1)),
    "row-lost-key": row(0, lambda each: each.pop("url")),
    "row-renamed-key": row(0, renamed),
    "row-key-order": line(0, lambda raw: encode_row(dict(sorted(json.loads(raw).items())))),
    "row-key-twice": line(0, lambda raw: raw.replace(b'"text":', b'"text":"other","text":', 1)),
    "row-space": line(0, lambda raw: raw.replace(b'"page_id":', b'"page_id": ', 1)),
    "row-escape": line(1, lambda raw: raw.replace(b"A/", b"A\\/", 1)),
    "row-escape-text": line(0, lambda raw: raw.replace(b"Text of", b"\\u0054ext of", 1)),
    "row-escape-long": line(0, lambda raw: raw.replace(b"\\t", b"\\u0009", 1)),
    "row-no-line-end": line(10, lambda raw: raw[:-1]),
    "row-empty-line": line(0, lambda raw: b"\n" + raw),
    "row-carriage-return": line(0, lambda raw: raw[:-1] + b"\r\n"),
    "row-byte-order-mark": line(0, lambda raw: b"\xef\xbb\xbf" + raw),
    "row-not-utf8": line(0, lambda raw: raw.replace(b"Text", b"Te\xff\xfe", 1)),
    "row-surrogate": line(0, lambda raw: raw.replace(b"Text", b"\\ud800", 1)),
    "row-no-object": line(0, lambda _: b"[1]\n"),
    "row-salt-capitals": row(0, lambda each: each.update(title_salt=each["title_salt"].upper())),
    "row-text-of-main-twice": row(0, lambda each: each["slots"][0].update(text=each["text"])),
    "row-cut": line(10, lambda raw: raw[:50]),
    # files
    "file-cut": lambda bundle: setattr(bundle, "packed", lambda raw: raw[:-20]),
    "file-tail": lambda bundle: setattr(bundle, "packed", lambda raw: raw + b"tail"),
    "file-empty": lambda bundle: setattr(bundle, "packed", lambda _: b""),
    "file-no-zstd": lambda bundle: setattr(bundle, "packed", lambda raw: b"x" * len(raw)),
    "file-gone": after(lambda folder: shard(folder).unlink()),
    "file-extra": after(lambda folder: (shard(folder).parent / "00001-of-00001.jsonl.zst").write_bytes(b"")),
    "file-extra-beside": after(lambda folder: (shard(folder).parents[1] / "notes.txt").write_text("mine")),
    "file-other-bytes": after(
        lambda folder: shard(folder).write_bytes(_repacked(shard(folder).read_bytes()))
    ),
    "leaves-gone": after(lambda folder: leaves(folder).unlink()),
    "leaves-other": after(lambda folder: leaves(folder).write_bytes(bytes(48))),
    # the lock
    "lock-id": lock('id = "sha256:', 'id = "sha256:0'),
    "lock-manifest-foreign": foreign_manifest,
    "lock-manifest-edited": lock('"count":11', '"count":10'),
    "lock-root": lock('root = "sha256:', 'root = "sha256:0'),
    "lock-pages": lock("pages = 11", "pages = 10"),
    "lock-time": lock("valid_at = ", 'valid_at = "2020-01-01T00:00:00Z" # '),
    "lock-known-at": lock("known_at = 5", "known_at = 6"),
    "lock-selector": lock('projects = ["empty", "w"]', 'projects = ["w"]'),
    "lock-license": lock('license = "CC0-1.0"\n\n[export]', 'license = "GPL-3.0"\n\n[export]'),
    "lock-version": lock("version = 1", "version = 2"),
    "lock-version-true": lock("version = 1", "version = true"),
    "lock-unknown-key": lock("version = 1", "version = 1\nmore = 1"),
    "lock-server-key-name": lock("version = 1", f'version = 1\nserver_key = "x{KEY}"'),
    "lock-server-key-type": lock("version = 1", f'version = 1\nserver_key = "{OTHER_TYPE}"'),
    "lock-server-key-short": lock("version = 1", f'version = 1\nserver_key = "{str(KEY)[:-4]}"'),
    "lock-server-key-number": lock("version = 1", "version = 1\nserver_key = 1"),
    "lock-lost-key": lock('server = "127.0.0.1:7777"\n', ""),
    "lock-format": lock("recension/export/v1", "recension/export/v2"),
    "lock-folder": lock('folder = "corpus"', 'folder = "../corpus"'),
    "lock-form": lock('form = "jsonl.zst"', 'form = "jsonl"'),
    "lock-path": lock('path = "w/', 'path = "../w/'),
    "lock-digest": lock('sha256 = "', 'sha256 = "0'),
    "lock-rows-negative": lock("rows = 11", "rows = -11"),
    "lock-no-toml": lock("version = 1", "version = "),
}


def _repacked(raw: bytes) -> bytes:
    packer = zstd.ZstdCompressor(level=1)
    return bytes(packer.compress(zstd.decompress(raw)) + packer.flush())


def more_good() -> dict[str, Bundle]:
    """Return the good ones."""
    nothing = {"w": list[Entry]()}
    one = {"w": [entry(2**40)]}
    odd = {"Con/../x": [entry(page, "Con/../x") for page in (1, 2)]}
    many = {"w": [entry(page) for page in range(1, 60)]}
    signed = good()
    lock("version = 1", f'version = 1\nserver_key = "{KEY}"')(signed)
    return {
        "good": good(),
        "good-signed": signed,
        **{
            f"good-{name}": Bundle(manifest_of(entries), entries)
            for name, entries in {"nothing": nothing, "one": one, "odd-project": odd, "many": many}.items()
        },
    }


def make(folder: Path) -> None:
    """Write all bundles into an empty folder."""
    for name, bundle in more_good().items():
        write(bundle, folder / name)
    for name, change in BAD.items():
        bundle = good()
        change(bundle)
        write(bundle, folder / f"bad-{name}")


if __name__ == "__main__":
    shutil.rmtree(BUNDLES, ignore_errors=True)
    make(BUNDLES)
