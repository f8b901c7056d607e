"""Check what a server hands out against a snapshot id, by ``docs/format.md`` and nothing else.

Only the standard library is imported: this file can be read, copied and trusted on its own. Section numbers
are that page's. Functions raise ``ValueError``; those named ``check_...`` return the problems they found.
As a program, ``python verify.py recension.lock FOLDER`` checks fetched files by ``docs/export.md``. It leaves
with 0 if they are what the lock names, else with 1 and what is wrong. ``python verify.py proof FILE ID``
checks a proof file (section 11) against a snapshot id and says in words what it shows.
"""
# ruff: noqa: PLR2004, T201 - the numbers are the format's; a program writes

from __future__ import annotations

import base64
import gzip
import hmac
import importlib
import json
import re
import struct
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import file_digest, sha256
from heapq import merge
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

MAX_ID = 2**63 - 1
MAX_PROOF_BYTES = 16 * 1024 * 1024  # the path has 13 KB at most, but a manifest may name many projects
MAX_PROBLEMS = 100  # for each project, then the rest is not read
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
FIELDS = ("title", "from-title", "contributor", "comment", "content", "log-entry")
PRESENT = 1


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot of an entry. Size, digest and text belong to a present one only."""

    role: str
    model: str
    format: str
    presence: int = PRESENT
    size: int = 0
    digest: bytes = b""
    text: bytes | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What a reader is given (section 9); a withheld title or content is None and has its commitment."""

    page_id: int
    rev_id: int
    timestamp: int
    namespace: int = 0
    title: str | None = None
    title_salt: bytes = b""
    title_commitment: bytes = b""
    slots: Sequence[Slot] | None = None
    content_salt: bytes = b""
    content_commitment: bytes = b""


def _need(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _pack(form: str, *values: object) -> bytes:
    try:
        return struct.pack(">" + form, *values)
    except struct.error as error:
        raise ValueError(f"a number does not fit its place: {error}") from error


def _sized(text: str) -> bytes:
    _need(len(text.encode()) < 256, "a role, a model or a format is longer than 255 bytes")
    return _pack("H", len(text.encode())) + text.encode()


# Values, salts and commitments: sections 2 and 3


def content_value(slots: Sequence[Slot]) -> bytes:
    """Return the canonical value of a content, its slots in any order."""
    roles = [slot.role for slot in slots]
    _need(roles, "a content has at least one slot")
    _need(all(roles) and len(set(roles)) == len(roles), "slot roles are unique and not empty")
    _need(all(slot.presence in (1, 2, 3) for slot in slots), "a slot has an unknown presence")
    value = _pack("H", len(slots))
    for slot in sorted(slots, key=lambda slot: slot.role.encode()):
        value += _sized(slot.role) + _sized(slot.model) + _sized(slot.format) + _pack("B", slot.presence)
        if slot.presence == PRESENT:
            _need(len(slot.digest) == 32, "a digest has 32 bytes")
            value += _pack("Q", slot.size) + slot.digest
        else:
            shown = slot.size or slot.digest or slot.text is not None
            _need(not shown, "a slot has text but is not present")
    return value


def field_salt(event_salt: bytes, field: str) -> bytes:
    """Derive the salt of one of ``FIELDS`` from that of its event."""
    _need(len(event_salt) == 16 and field in FIELDS, "a salt has 16 bytes and a field a known name")
    return hmac.digest(event_salt, f"recension/{field}/v1\0".encode(), "sha256")[:16]


def commitment(salt: bytes, field: str, value: bytes) -> bytes:
    """Commit to a canonical value under the salt of its field."""
    _need(len(salt) == 16 and field in FIELDS, "a salt has 16 bytes and a field a known name")
    label = "title" if field == "from-title" else field
    return hmac.digest(salt, f"recension/{label}/v1\0".encode() + value, "sha256")


def title_commitment(salt: bytes, namespace: int, title: str) -> bytes:
    """Commit to a title; the salt is the field's, not the event's."""
    return commitment(salt, "title", _pack("i", namespace) + title.encode())


def content_commitment(salt: bytes, slots: Sequence[Slot]) -> bytes:
    """Commit to a content; the salt is the field's, not the event's."""
    return commitment(salt, "content", content_value(slots))


def sealed(commitments: Sequence[bytes]) -> bytes:
    """Return what a skeleton says of its fields."""
    _need(all(len(each) == 32 for each in commitments), "a commitment has 32 bytes")
    return sha256(b"recension/sealed/v1\0" + _pack("B", len(commitments)) + b"".join(commitments)).digest()


# Entries and trees: section 6


def entry_leaf(page_id: int, rev_id: int, timestamp: int, title: bytes, content: bytes) -> bytes:
    """Return the leaf of an entry from its two commitments."""
    _need(0 < page_id <= MAX_ID and 0 < rev_id <= MAX_ID, "an id is outside 1 to 2^63-1")
    _need(_FIRST <= timestamp <= _LAST, "a timestamp is outside the years 1 to 9999")
    _need(len(title) == len(content) == 32, "a commitment has 32 bytes")
    head = _pack("QQq", page_id, rev_id, timestamp)
    return sha256(b"\0recension/entry/v1\0" + head + title + content).digest()


class TreeBuilder:
    """Computes a root from leaves in page order; keeps one open node for each of at most 16 levels."""

    def __init__(self) -> None:
        self.count = 0
        self._last = 0
        self._open: list[tuple[int, int, bytes]] = []  # by level: prefix, entries below, records so far

    def add(self, page_id: int, rev_id: int, leaf: bytes) -> None:
        """Take the next entry."""
        _need(0 < page_id <= MAX_ID and 0 < rev_id <= MAX_ID, "an id is outside 1 to 2^63-1")
        _need(page_id != self._last, f"page {page_id} occurs twice")
        _need(page_id > self._last, f"page {page_id} is out of order")
        _need(len(leaf) == 32, "a leaf has 32 bytes")
        self._last = page_id
        self.count += 1
        self._append(0, page_id, 1, _pack("QQ", page_id, rev_id) + leaf)

    def _append(self, level: int, key: int, below: int, record: bytes) -> None:
        if level == len(self._open):
            self._open.append((key >> 4, 0, b""))
        elif self._open[level][0] != key >> 4:
            self._close(level)
            self._open[level] = (key >> 4, 0, b"")
        prefix, count, records = self._open[level]
        self._open[level] = (prefix, count + below, records + record)

    def _close(self, level: int) -> None:
        prefix, count, records = self._open[level]
        self._append(level + 1, prefix, count, _pack("QQ", prefix, count) + _node(level, records))

    def root(self) -> bytes:
        """Return the root. Nothing can be added afterwards."""
        if not self._open:
            return _node(0, b"")
        level = 0
        while level + 1 < len(
            self._open
        ):  # a level above is open if, and only if, this one has a node closed
            self._close(level)
            level += 1
        self._last = MAX_ID
        return _node(level, self._open[level][2])


def _node(level: int, records: bytes) -> bytes:
    return sha256(b"\1" + _pack("B", level) + records).digest()


def tree_root(entries: Iterable[tuple[int, int, bytes]]) -> bytes:
    """Return the root over (page_id, rev_id, leaf), ascending by page_id."""
    tree = TreeBuilder()
    for entry in entries:
        tree.add(*entry)
    return tree.root()


# Manifest and snapshot id: sections 7 and 8


def snapshot_id(manifest: bytes) -> str:
    """Return the id of the manifest with exactly these bytes."""
    return "sha256:" + sha256(manifest).hexdigest()


def _ascend(values: Any, kind: type) -> bool:
    typed = type(values) is list and values and all(type(value) is kind for value in values)
    return bool(typed) and all(a < b for a, b in pairwise(values))


def _names(values: Any, least: int) -> bool:
    return _ascend(values, str) and all(least <= len(name.encode()) < 256 for name in values)


def _keys(value: Any, keys: str) -> bool:
    return type(value) is dict and sorted(value) == keys.split()


def _size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _match(pattern: str, value: Any) -> bool:
    return type(value) is str and re.fullmatch(pattern, value) is not None


def _json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _read_json(encoded: bytes, what: str) -> Any:
    try:
        document = json.loads(encoded.decode())
        again = _json(document)
    except RecursionError as error:
        raise ValueError(f"{what} is nested too deeply") from error
    _need(again == encoded, f"{what} is not canonical JSON")
    return document


def _read_instant(text: Any, what: str) -> int:
    day, clock = "[0-9]{4}-[0-9]{2}-[0-9]{2}", "[0-9]{2}:[0-9]{2}:[0-9]{2}"
    _need(_match(rf"{day}T{clock}(\.[0-9]{{0,5}}[1-9])?Z", text), f"{what} is wrong")
    _need(not text[11:].startswith("24"), f"{what} is wrong")  # some Pythons take 24:00 for the next day
    since = datetime.fromisoformat(text) - datetime.fromisoformat("1970-01-01T00:00:00Z")
    return since // timedelta(microseconds=1)


def read_manifest(manifest: bytes) -> dict[str, Any]:
    """Return the manifest's document. Refuses any byte that the format would not have written."""
    document: dict[str, Any] = _read_json(manifest, "the manifest")
    _need(_keys(document, "as_of format projects selector"), "the manifest has other keys")
    _need(document["format"] == "recension/snapshot/v1", "the manifest has another format")
    selector, as_of, parts = document["selector"], document["as_of"], document["projects"]
    _need(type(selector) is dict and "projects" in selector, "the selector has no projects")
    for key, value in selector.items():
        good = {
            "projects": _names(value, 1),
            "namespaces": _ascend(value, int) and -(2**31) <= value[0] <= value[-1] < 2**31,
            "models": _names(value, 0),
            "redirects": value in ("exclude", "only"),
            "min_age_seconds": _size(value) and value > 0,
            "on_hidden": value in ("fall_back", "keep"),
        }
        _need(good.get(key), f"the selector's {key} is wrong, unknown or at its default")
    _need(_keys(as_of, "known_at valid_at"), "as_of has other keys")
    known, valid = as_of["known_at"], as_of["valid_at"]
    _need(_match("0|[1-9][0-9]{0,19}", known) and int(known) < 2**64, "known_at is wrong")
    _read_instant(valid, "valid_at")  # a ValueError also for a day or a time that does not exist
    _need(type(parts) is list, "projects is not an array")
    for part in parts:
        _need(_keys(part, "bytes count project root"), "a project has other keys")
        _need(_size(part["bytes"]) and _size(part["count"]), "a project's numbers are wrong")
        _need(_match("sha256:[0-9a-f]{64}", part["root"]), "a project's root is wrong")
    _need([part["project"] for part in parts] == selector["projects"], "projects are not the selector's")
    return document


# A whole snapshot: section 9


def leaf_of(entry: Entry) -> bytes:
    """Return the leaf of an entry as given; its texts are not looked at."""
    title, content = entry.title_commitment, entry.content_commitment
    _need((entry.title is None) == bool(title), "a title is either shown or withheld")
    _need((entry.slots is None) == bool(content), "a content is either shown or withheld")
    if entry.title is not None:
        title = title_commitment(entry.title_salt, entry.namespace, entry.title)
    if entry.slots is not None:
        content = content_commitment(entry.content_salt, entry.slots)
    return entry_leaf(entry.page_id, entry.rev_id, entry.timestamp, title, content)


def _check_project(part: dict[str, Any], entries: Iterable[Entry]) -> Iterator[str]:
    tree, size, complete = TreeBuilder(), 0, True
    for entry in entries:
        try:
            tree.add(entry.page_id, entry.rev_id, leaf_of(entry))
        except ValueError as error:
            yield f"page {entry.page_id}: {error}"
            return
        complete &= entry.slots is not None
        for slot in entry.slots or ():
            size += slot.size
            complete &= slot.presence == PRESENT
            if slot.presence == PRESENT and slot.text is None:
                yield f"page {entry.page_id}: the text of slot {slot.role} is missing"
            elif slot.text is not None and (len(slot.text), sha256(slot.text).digest()) != (
                slot.size,
                slot.digest,
            ):
                yield f"page {entry.page_id}: the text of slot {slot.role} is not the one of its digest"
    if tree.count != part["count"]:
        yield f"{tree.count} entries, the manifest says {part['count']}"
    if "sha256:" + tree.root().hex() != part["root"]:
        yield "the entries have another root than the manifest says"
    if complete and size != part["bytes"]:
        yield f"{size} bytes of text, the manifest says {part['bytes']}"


def check_snapshot(manifest: bytes, wanted: str, entries: Mapping[str, Iterable[Entry]]) -> list[str]:
    """Return what is wrong with the snapshot asked for by id, entries given by project; empty if nothing."""
    if snapshot_id(manifest) != wanted:
        return ["the manifest is not the one that the snapshot id stands for"]
    try:
        parts = {part["project"]: part for part in read_manifest(manifest)["projects"]}
    except ValueError as error:
        return [str(error)]
    problems = [f"{name}: given or named by the manifest, not both" for name in parts.keys() ^ entries.keys()]
    for name in parts.keys() & entries.keys():
        found = islice(_check_project(parts[name], entries[name]), MAX_PROBLEMS)
        problems += [f"{name}: {problem}" for problem in found]
    return sorted(problems)


# Proofs of one page: section 11


@dataclass(frozen=True, slots=True)
class Proven:
    """What a proof has shown: the snapshot holds the page with this entry, or does not hold it."""

    manifest: dict[str, Any]
    project: str
    page_id: int
    entry: Entry | None


def verify_proof(proof: bytes, wanted: str) -> Proven:
    """Return what a proof file shows of the snapshot with the id ``wanted``; a ``ValueError`` if nothing."""
    document = _read_json(proof, "the proof")
    _need(type(document) is dict, "the proof is no object")
    wrong = document.keys() - {"entry", "prefix"} ^ {"format", "manifest", "page_id", "path", "project"}
    _need(not wrong, "the proof has other keys")
    _need(document["format"] == "recension/proof/v1", "the proof has another format")
    manifest = _json(document["manifest"])
    _need(snapshot_id(manifest) == wanted, "the manifest is not the one that the snapshot id stands for")
    parts = {part["project"]: part for part in read_manifest(manifest)["projects"]}
    name, path = document["project"], document["path"]
    _need(type(name) is str and name in parts, "the manifest has no such project")
    _need(type(path) is list and all(type(node) is str for node in path), "the path is no array of strings")
    page = _read_id(document["page_id"], "the page id")
    entry = _read_entry(page, document["entry"]) if "entry" in document else None
    nodes = [base64.b85decode(node) for node in path]
    _need([base64.b85encode(node).decode() for node in nodes] == path, "a node is written in another way")
    prefix = None
    if "prefix" in document:
        _need(_match("0|[1-9][0-9]{0,18}", document["prefix"]), "the prefix is wrong")
        prefix = int(document["prefix"])
        _need(entry is None and len(nodes) == 1, "only the root of a tree without the page has a prefix")
    root, count = _climb(page, entry, nodes, prefix)
    _need(count == parts[name]["count"], "the path leads to another number of entries than the manifest says")
    _need("sha256:" + root.hex() == parts[name]["root"], "the path leads to another root than the manifest's")
    return Proven(document["manifest"], name, page, entry)


def read_proof(path: Path) -> bytes:
    """Read a proof file; one that is longer than any proof is refused, whatever it is."""
    with path.open("rb") as file:
        proof = file.read(MAX_PROOF_BYTES + 1)
    _need(len(proof) <= MAX_PROOF_BYTES, f"{path} is no proof: it has more than {MAX_PROOF_BYTES:,} bytes")
    return proof


def in_words(shown: Proven) -> list[str]:
    """Say line by line what a proof has shown; what it quotes cannot steer a terminal."""
    as_of, entry = shown.manifest["as_of"], shown.entry
    held = "is not in" if entry is None else "is in"
    lines = [
        f"page {shown.page_id} of {_quoted(shown.project)} {held} the snapshot",
        f"snapshot: {snapshot_id(_json(shown.manifest))}",
        f"as of: {as_of['valid_at']} known at {as_of['known_at']}",
    ]
    if entry is None:
        return lines
    at = (datetime(1970, 1, 1) + timedelta(microseconds=entry.timestamp)).isoformat()  # noqa: DTZ001 - UTC
    lines.append(f"revision: {entry.rev_id} of {at.rstrip('0') if '.' in at else at}Z")
    lines.append(f"title: {_quoted(entry.title)}")
    if entry.slots is None:
        lines.append("content: withheld")
    for slot in entry.slots or ():
        text = f"sha256:{slot.digest.hex()}, {slot.size} bytes"
        state = next(name for name, number in PRESENCES.items() if number == slot.presence)
        lines.append(f"slot {_quoted(slot.role)}: {text if slot.presence == PRESENT else state}")
    return lines


def _quoted(text: str | None) -> str:
    """Write a text between quotes, all that is not printable in it as an escape."""
    return repr(text)


def _climb(page: int, entry: Entry | None, nodes: list[bytes], prefix: int | None) -> tuple[bytes, int]:
    """Return (root, number of entries) by short nodes, the root first; a page without entry is in none."""
    if not nodes:
        _need(entry is None, "an empty tree has no entry")
        return _node(0, b""), 0
    record = b"" if entry is None else _pack("Q", entry.rev_id) + leaf_of(entry)
    digest, records, count, level = b"", b"", 0, -1
    for node in reversed(nodes):
        _need(len(node) > 2 and node[0] < 16, "a node of the path is too short, or of no level")
        _need(level < 0 or node[0] == level + 1, "the levels of the path do not fall by one")
        _need(entry is None or level >= 0 or node[0] == 0, "an entry is in a node of level 0")
        level = node[0]
        own = page >> 4 * level
        under = own >> 4 if prefix is None else prefix
        _need(under != own >> 4 or prefix is None, "the page lies under the prefix of the root")
        records, count = _expand(node, under, own, record)
        digest = _node(level, records)
        record = _pack("Q", count) + digest
    _need(level == 0 or len(records) > 48, "a root has more than one child")
    return digest, count


def _expand(node: bytes, prefix: int, own: int, record: bytes) -> tuple[bytes, int]:
    """Return (records, entries below) of a short node; ``record`` is the page's own, which was left out."""
    level, present, at = node[0], int.from_bytes(node[1:3], "big"), 3
    _need(present, "a node of the path is empty")
    out, total = b"", 0
    for key in (prefix << 4 | digit for digit in range(16) if present >> digit & 1):
        rest = record
        if key != own or not record:
            _need(key != own, "the tree goes on towards the page, the path does not")
            number, at = _varint(node, at)
            rest, at = _pack("Q", number) + node[at : at + 32], at + 32
            _need(len(rest) == 40 and at <= len(node), "a node of the path ends early")
        number = int.from_bytes(rest[:8], "big")
        first = key << 4 * level
        _need(0 <= first <= MAX_ID and (level or first), "a page id or a prefix is out of range")
        _need(0 < number <= (16**level if level else MAX_ID), "a revision id or a count is out of range")
        total += number if level else 1
        out += _pack("Q", key) + rest
    _need(at == len(node), "bytes follow the last record of a node")
    _need(not record or present >> (own & 15) & 1, "the path leads to a page that the tree has not")
    return out, total


def _varint(node: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, lowest first, in its shortest form, and where it ends."""
    number = shift = 0
    while True:
        _need(at < len(node) and shift < 64, "a number of the path does not end")
        number |= (node[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if node[at - 1] < 128:
            _need(node[at - 1] or shift == 7, "a number of the path is longer than it has to be")
            return number, at


def _read_id(text: Any, what: str) -> int:
    _need(_match("[1-9][0-9]{0,18}", text) and int(text) <= MAX_ID, f"{what} is wrong")
    return int(text)


def _read_hex(text: Any, size: int, what: str) -> bytes:
    _need(_match(f"[0-9a-f]{{{2 * size}}}", text), f"{what} is wrong")
    return bytes.fromhex(text)


def _read_entry(page: int, entry: Any) -> Entry:
    shown = "content_salt namespace rev_id slots timestamp title title_salt"
    held = "content_commitment namespace rev_id timestamp title title_salt"
    _need(_keys(entry, shown) or _keys(entry, held), "the entry has other keys")
    _need(type(entry["namespace"]) is int and type(entry["title"]) is str, "the entry's title is wrong")
    slots = None
    if "slots" in entry:
        _need(type(entry["slots"]) is list, "the slots are no array")
        slots = [_read_slot(slot) for slot in entry["slots"]]
        roles = [slot.role.encode() for slot in slots]
        _need(roles == sorted(roles), "the slots are out of order")
    return Entry(
        page,
        _read_id(entry["rev_id"], "the revision id"),
        _read_instant(entry["timestamp"], "the timestamp"),
        entry["namespace"],
        entry["title"],
        _read_hex(entry["title_salt"], 16, "the title's salt"),
        slots=slots,
        content_salt=_read_hex(entry.get("content_salt", ""), 16 * (slots is not None), "the content's salt"),
        content_commitment=_read_hex(
            entry.get("content_commitment", ""), 32 * (slots is None), "the content's commitment"
        ),
    )


def _read_slot(slot: Any) -> Slot:
    present = _keys(slot, "digest format model role size")
    _need(present or _keys(slot, "format model presence role"), "a slot has other keys")
    role, model, form = slot["role"], slot["model"], slot["format"]
    _need(type(role) is type(model) is type(form) is str, "a slot's role, model or format is no string")
    if not present:
        _need(slot["presence"] in ("hidden", "lost"), "a slot has an unknown presence")
        return Slot(role, model, form, 2 if slot["presence"] == "hidden" else 3)
    _need(_size(slot["size"]) and type(slot["digest"]) is str, "a slot's size or digest is wrong")
    _need(slot["digest"].startswith("sha256:"), "a slot's digest is wrong")
    digest = _read_hex(slot["digest"][7:], 32, "a slot's digest")
    return Slot(role, model, form, PRESENT, slot["size"], digest)


# The checkpoint log: section 13, and RFC 6962, section 2.1


def read_checkpoint(note: str) -> tuple[str, int, bytes, list[tuple[str, bytes, bytes]]]:
    """Return origin, size, root and signatures (name, key id, signature) of a checkpoint; none is checked."""
    text, gap, lines = note.rpartition("\n\n")
    _need(gap and not re.search("[\0-\x09\x0b-\x1f]", note), "not a signed note")
    _need(len(note.encode()) <= 100_000, "the note is too long")
    parts = text.split("\n")
    _need(len(parts) == 3 and parts[0], "a checkpoint has an origin, a size and a root, and nothing more")
    _need(_match("0|[1-9][0-9]{0,18}", parts[1]), "the size of the checkpoint is wrong")
    root = _read_base64(parts[2])
    _need(len(root) == 32, "the root of the checkpoint is wrong")
    signatures = []
    _need(lines.endswith("\n"), "a signature line does not end")
    for line in lines[:-1].split("\n"):
        _need(_match("\u2014 [^\\s+]+ [^ ]+", line), "a signature line is wrong")
        _, name, encoded = line.split(" ")
        raw = _read_base64(encoded)
        _need(len(raw) > 4, "a signature is too short")
        signatures.append((name, raw[:4], raw[4:]))
    return parts[0], int(parts[1]), root, signatures


def _read_base64(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    _need(base64.b64encode(raw).decode() == text, "base64 is written in another way")
    return raw


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Raise ``ValueError`` unless a tree of that size and root has these bytes as the leaf of that index."""
    _need(0 <= index < size, "the leaf lies outside of the tree")
    _need(all(len(each) == 32 for each in path), "a hash of the path has another length than 32")
    found, last = sha256(b"\0" + leaf).digest(), size - 1
    for each in path:
        _need(last, "the path is too long")
        if index & 1 or index == last:
            found = sha256(b"\1" + each + found).digest()
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            found = sha256(b"\1" + found + each).digest()
        index, last = index >> 1, last >> 1
    _need(not last and found == root, "the path leads to another root")


def check_consistency(first: int, second: int, path: Sequence[bytes], roots: tuple[bytes, bytes]) -> None:
    """Raise ``ValueError`` unless the tree of the second size and root begins with that of the first."""
    _need(0 < first <= second, "the sizes are not in order")
    _need(all(len(each) == 32 for each in path), "a hash of the path has another length than 32")
    if first == second:
        _need(not path and roots[0] == roots[1], "two trees of one size have different roots")
        return
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    rest = iter(path if at else [roots[0], *path])
    old = new = next(rest, b"")
    for each in rest:
        _need(last, "the path is too long")
        if at & 1 or at == last:
            old, new = sha256(b"\1" + each + old).digest(), sha256(b"\1" + each + new).digest()
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = sha256(b"\1" + new + each).digest()
        at, last = at >> 1, last >> 1
    _need(not last and (old, new) == roots, "the second tree does not begin with the first")


# The chain of commits: sections 4 and 5


def read_commit(record: bytes) -> tuple[int, int, bytes, str, list[bytes]]:
    """Return position, time, parent, project and items; every byte has to be accounted for."""
    rest = memoryview(record)

    def take(size: int) -> bytes:
        nonlocal rest
        _need(size <= len(rest), "the record ends early")
        taken, rest = bytes(rest[:size]), rest[size:]
        return taken

    _need(take(20) == b"recension/commit/v1\0", "not a commit record")
    position, time, parent = struct.unpack(">Qq32s", take(48))
    _need(position and _FIRST <= time <= _LAST, "the position or the time is out of range")
    project = take(take(1)[0]).decode()
    items = [take(int.from_bytes(take(4), "big")) for _ in range(int.from_bytes(take(4), "big"))]
    _need(not rest, "bytes follow the last item")
    for item in items:
        _need(item and item[0] in (*range(1, 7), *range(16, 27)), "an item has an unknown kind")
        if item[0] < 16:
            _check_skeleton(item)
    return position, time, parent, project, items


def _check_skeleton(item: bytes) -> None:
    _need(len(item) > 98 and len(item) == 99 + item[98], "a skeleton has the wrong length")
    kind, flags, page, rev, parent, time = struct.unpack_from(">BBQQQq", item)
    _need(flags < 128, "a skeleton has an unknown flag")
    _need(max(page, rev, parent) <= MAX_ID and (page == 0) == (kind == 6), "an id is out of range")
    _need(kind != 6 or parent in range(1, 6), "a log entry has an unknown action")
    _need(_FIRST <= time <= _LAST, "an event's time is out of range")
    item[99:].decode()


def check_chain(records: Iterable[bytes], *, head: bytes | None = None) -> list[str]:
    """Return the first thing wrong with a log from its start. Without its head's hash it may be cut short."""
    last, hashed = _FIRST - 1, bytes(32)
    for number, record in enumerate(records, 1):
        try:
            position, time, parent, _, _ = read_commit(record)
            _need(position == number, f"has position {position}")
            _need(parent == hashed, "does not follow from the record before")
            _need(time > last, "is not later than the record before")
        except ValueError as error:
            return [f"commit {number}: {error}"]
        last, hashed = time, sha256(record).digest()
    return [] if head in (None, hashed) else ["the last record is not the head"]


# Fetched files: docs/export.md

PRESENCES = {"present": 1, "hidden": 2, "lost": 3}
_DEVICES = {"con", "prn", "aux", "nul", *(name + str(n) for name in ("com", "lpt") for n in range(10))}
_HEX = "[0-9a-f]{64}"
_FILE_KEYS = "leaves_sha256 path rows sha256 size_bytes text_bytes withheld"
_PLAIN_KEYS = "path rows sha256 size_bytes source_sha256 text_bytes without"
_ROW_KEYS = ["id", "url", "title", "text", "page_id", "rev_id", "timestamp", "namespace", "digest", "license"]
_ROW_KEYS += ["slots", "title_salt", "content_salt", "content_commitment"]


def read_lock(text: str) -> dict[str, Any]:
    """Return what a lock says. Refuses one in which anything disagrees with its manifest."""
    try:
        lock = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("the lock is nested too deeply") from error
    _need(lock.get("version") == 1 and type(lock["version"]) is int, "the lock is of another version")
    _need(
        not lock.keys() - {"agreement", "pin", "plain", "server_key"}
        ^ {"export", "projects", "selector", "server", "snapshot", "version"},
        "other keys",
    )
    _need("server_key" not in lock or _is_key(lock["server_key"]), "the server's key is none")
    said = lock.get("agreement", {"ordinal": 1, "version": "sha256:" + "0" * 64})
    _need(_keys(said, "ordinal version") and _match(f"sha256:{_HEX}", said["version"]), "the agreement")
    _need(type(said["ordinal"]) is int and said["ordinal"] > 0, "the agreement's ordinal is none")
    snapshot, export = lock["snapshot"], lock["export"]
    _need(_keys(snapshot, "id known_at manifest valid_at"), "the lock's snapshot has other keys")
    manifest = read_manifest(_utf8(snapshot["manifest"]))
    _need(snapshot["id"] == snapshot_id(snapshot["manifest"].encode()), "the id is not the manifest's")
    as_of = manifest["as_of"]
    _need(type(snapshot["known_at"]) is int and str(snapshot["known_at"]) == as_of["known_at"], "known_at")
    _need(snapshot["valid_at"] == as_of["valid_at"], "the lock's valid_at is not the manifest's")
    chosen = json.dumps(lock["selector"], sort_keys=True)  # tells 1 from true
    _need(chosen == json.dumps(manifest["selector"], sort_keys=True), "the selector is not the manifest's")
    _need(lock["projects"].keys() == {part["project"] for part in manifest["projects"]}, "projects")
    for part in manifest["projects"]:
        said = lock["projects"][part["project"]]
        _need(_keys(said, "base_url license pages root text_bytes"), "a project of the lock has other keys")
        found = [said["pages"], said["text_bytes"], said["root"]]
        _need(found == [part["count"], part["bytes"], part["root"]], "a project is not the manifest's")
        _need(type(said["pages"]) is type(said["text_bytes"]) is int, "a number of the lock is none")
        _need(type(said["base_url"]) is type(said["license"]) is str, "the terms of a project are no text")
    wrong = export.keys() - {"folder"} ^ {"files", "form", "format", "writer"}
    _need(not wrong and export["format"] == "recension/export/v1", "the export is of another format")
    _need(export["form"] == "jsonl.zst", "this program reads JSON Lines alone; else use: recension verify")
    _need(type(lock["server"]) is type(export["writer"]) is str, "the server or the writer is no text")
    folder = export.get("folder", "")
    inner = type(folder) is str and not folder.startswith("/") and ".." not in folder.split("/")
    _need(inner, "the folder is outside the lock's own")
    paths = [path for part in manifest["projects"] for path in shard_paths(part)]
    _need([record.get("path") for record in export["files"]] == paths, "the files are not the snapshot's")
    for record in export["files"]:
        _need(_keys(record, _FILE_KEYS), "a file of the lock has other keys")
        _need(_match(_HEX, record["sha256"]) and _match(_HEX, record["leaves_sha256"]), "a digest is wrong")
        numbers = [record[key] for key in ("rows", "size_bytes", "text_bytes", "withheld")]
        _need(all(type(number) is int and number >= 0 for number in numbers), "a number of a file is wrong")
    if "plain" in lock:
        _check_plain(lock["plain"], export["files"])
    return lock


def _check_plain(plain: dict[str, Any], files: list[dict[str, Any]]) -> None:
    """Refuse a list of plain text that is none of the files that it says it was made of."""
    _need(_keys(plain, "files form format renderer writer"), "the plain text of the lock has other keys")
    _need(plain["format"] == "recension/rendition/v1", "the plain text is of another format")
    _need(plain["form"] == "jsonl.zst", "the plain text is of another form than the files")
    _need(type(plain["renderer"]) is type(plain["writer"]) is str, "the renderer or the writer is no text")
    for record, source in zip(plain["files"], files, strict=bool(plain["files"])):
        _need(_keys(record, _PLAIN_KEYS), "a file of plain text has other keys")
        _need(record["path"] == source["path"], "the files of plain text are not the export's")
        digests = _match(_HEX, record["sha256"]) and _match(_HEX, record["source_sha256"])
        _need(digests, "a digest of plain text is wrong")
        numbers = [record[key] for key in ("rows", "size_bytes", "text_bytes", "without")]
        _need(
            all(type(number) is int and number >= 0 for number in numbers), "a number of plain text is wrong"
        )


def _is_key(text: Any) -> bool:
    """Say whether a text is a verifier key (section 13) of Ed25519."""
    if not _match(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}", text):
        return False
    name, number, encoded = text.split("+", 2)
    key = base64.b64decode(encoded)
    return key[0] == 1 and number == sha256(name.encode() + b"\n" + key).hexdigest()[:8]


def _utf8(text: Any) -> bytes:
    _need(type(text) is str, "a text is none")
    return bytes(text.encode())


def shard_paths(part: dict[str, Any]) -> list[str]:
    """Return the paths of a project's shards in JSON Lines."""
    name, count = part["project"], 1
    plain = _match("[a-z][a-z0-9_-]{0,62}", name) and name not in _DEVICES and not name.startswith("project-")
    folder = name if plain else "project-" + sha256(name.encode()).hexdigest()[:32]
    while count < 65_536 and (part["bytes"] > count << 27 or part["count"] > count << 20):
        count *= 2
    return [f"{folder}/{index:05}-of-{count:05}.jsonl.zst" for index in range(count)]


@contextmanager
def _lines(path: Path) -> Iterator[Iterable[bytes]]:
    """Open a shard, or what someone unpacked it to: ``.jsonl`` or ``.jsonl.gz`` beside its place."""
    plain, zipped = path.with_suffix(""), path.with_suffix(".gz")
    _need(not any(each.is_symlink() for each in (path, plain, zipped)), f"{path.name} is a link")
    if not path.exists() and (plain.exists() or zipped.exists()):
        with plain.open("rb") if plain.exists() else gzip.open(zipped) as lines:
            yield lines
        return
    try:
        with importlib.import_module("compression.zstd").open(path) as lines:
            yield lines
    except ModuleNotFoundError:  # before Python 3.14
        unpack = ["zstd", "-dcq", "--", str(path)]
        with subprocess.Popen(unpack, bufsize=1 << 20, stdout=subprocess.PIPE) as program:  # noqa: S603
            assert program.stdout is not None  # noqa: S101 - by the line before
            yield program.stdout
            _need(program.wait() == 0, f"{path.name} is no zstd file")


def _entries(path: Path, place: tuple[int, int], terms: dict[str, str]) -> Iterator[Entry]:
    """Yield the entries of a shard, ``place`` being its index and how many there are."""
    with _lines(path) as lines:
        for line in lines:
            entry = read_row(line, terms)
            _need((entry.page_id >> 8) % place[1] == place[0], f"page {entry.page_id}: in another shard")
            yield entry


def read_row(line: bytes, terms: dict[str, str]) -> Entry:
    """Return the entry of a line. Refuses any byte that the format would not have written."""
    try:
        row = json.loads(line.decode())
    except RecursionError as error:
        raise ValueError("a row is nested too deeply") from error
    _need(type(row) is dict and list(row) == _ROW_KEYS, "a row has other keys, or in another order")
    _need(all(type(row[key]) is int for key in ("namespace", "page_id", "rev_id")), "a number is none")
    _need(type(row["title"]) is str and type(row["text"]) in (str, type(None)), "a title or text is none")
    shown = row["slots"] is not None
    _need(type(row["slots"]) is list or not shown, "the slots are none")
    slots = [_row_slot(slot, row["text"]) for slot in row["slots"] or ()]
    main = next((slot for slot in slots if slot.role == "main"), None)
    _need(main is not None or row["text"] is None, "there is a text and no slot of it")
    digest = main.digest.hex() if main is not None else ""
    entry = Entry(
        page_id=row["page_id"],
        rev_id=row["rev_id"],
        timestamp=_read_instant(row["timestamp"], "a row's time"),
        namespace=row["namespace"],
        title=row["title"],
        title_salt=_read_hex(row["title_salt"], 16, "a title's salt"),
        slots=slots if shown else None,
        content_salt=_read_hex(row["content_salt"], 16, "a content's salt") if shown else b"",
        content_commitment=b"" if shown else _read_hex(row["content_commitment"], 32, "a commitment"),
    )
    _need(len(row["title"].encode()) <= 10_000, "a title is too long")
    url = quote(row["title"].replace(" ", "_"), safe="/:@!$*,;~()'")
    again = row | {"id": str(row["page_id"]), "url": f"{terms['base_url']}/wiki/{url}", "text": None}
    again |= {"digest": f"sha256:{digest}" if digest else None}
    again |= {"license": _license_at(terms["license"], row["timestamp"])}
    again |= {"content_commitment": None} if shown else {"content_salt": None}
    before, after = _row_json(again).split(b'"text":null', 1)  # in a string its marks would be escaped
    before, after = before + b'"text":', after + b"\n"
    good = line.startswith(before) and line.endswith(after) and len(line) > len(before) + len(after)
    text = None if main is None else main.text
    _need(good and _is_json_of(line[len(before) : -len(after)], text), "written in another way")
    return entry


def _license_at(said: str, time: str) -> str:
    """Return the licence of a time, of ``A, B@2023-06-07T00:00:00Z``; "Z" would follow a fraction."""
    periods = [one.partition("@") for one in said.split(", ")]
    held = [name for name, _, since in periods if since.rstrip("Z") <= time.rstrip("Z")]
    return held[-1] if held else ""


_ROW_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _row_json(value: Any) -> bytes:
    return _ROW_JSON.encode(value).encode()


def _is_json_of(written: bytes, text: bytes | None) -> bool:
    """Say whether ``written``, which was read as a text, is what the format writes for it.

    Each character's form is the shortest there is, with one backslash at most, so the length decides, but for
    an escaped slash. What the length does not tell is written again.
    """
    if text is not None:
        escapes = written.count(b"\\") - text.count(b"\\")
        if len(written) == len(text) + 2 + escapes and b"\\/" not in written:
            return True
    return written == _row_json(None if text is None else text.decode())


def _row_slot(slot: Any, main_text: str | None) -> Slot:
    _need(_keys(slot, "digest format model presence role size_bytes text"), "a slot has other keys")
    order = ["role", "model", "format", "presence", "size_bytes", "digest", "text"]
    _need(list(slot) == order, "a slot is written in another way")
    _need(all(type(slot[key]) is str for key in ("role", "model", "format")), "a slot's names are none")
    _need(slot["presence"] in PRESENCES and type(slot["size_bytes"]) is int, "a slot is wrong")
    _need(type(slot["text"]) in (str, type(None)), "a slot's text is none")
    _need(slot["role"] != "main" or slot["text"] is None, "the main text is not in its column")
    text = main_text if slot["role"] == "main" else slot["text"]
    _need(slot["digest"] is None or _match("sha256:" + _HEX, slot["digest"]), "a slot's digest is wrong")
    presence, digest = PRESENCES[slot["presence"]], bytes.fromhex((slot["digest"] or "")[7:])
    encoded = None if text is None else text.encode()
    return Slot(slot["role"], slot["model"], slot["format"], presence, slot["size_bytes"], digest, encoded)


def check_export(lock: dict[str, Any], folder: Path) -> list[str]:
    """Return what is wrong with the files that a lock names; empty if nothing."""
    data, problems = folder / "data", list[str]()
    records = {record["path"]: record for record in lock["export"]["files"]}
    known = {"index.json"} | {path.split("/")[0] for path in records}
    known |= {path.replace(".jsonl.zst", end) for path in records for end in _ENDS}
    strangers = {found.relative_to(data).as_posix() for found in data.rglob("*")} - known
    problems += [f"{name}: not a file of the export" for name in sorted(strangers)]
    for part in read_manifest(lock["snapshot"]["manifest"].encode())["projects"]:
        paths = shard_paths(part)
        try:
            for path in paths:
                for name, digest in (
                    (path, "sha256"),
                    (path.replace("jsonl.zst", "leaves"), "leaves_sha256"),
                ):
                    _check_digest(data / name, records[path][digest], required=digest != "sha256")
            terms = lock["projects"][part["project"]]
            shards = [_entries(data / path, (n, len(paths)), terms) for n, path in enumerate(paths)]
            wrong = _check_project(part, merge(*shards, key=lambda entry: entry.page_id))
            problems += [f"{part['project']}: {problem}" for problem in islice(wrong, MAX_PROBLEMS)]
        except (ValueError, OSError, EOFError) as error:
            problems.append(f"{part['project']}: {error}")
    return problems + _wrong_plain(lock.get("plain"), records, folder / "plain")


def _wrong_plain(plain: dict[str, Any] | None, sources: dict[str, Any], folder: Path) -> list[str]:
    """Return what is wrong with the files of plain text, by their digests: what they say, nothing proves."""
    if plain is None:
        return []
    if not plain["files"]:
        return ["the plain text was not made yet"]
    problems = list[str]()
    for record in plain["files"]:
        try:
            made_of = sources[record["path"]]["sha256"]
            _need(record["source_sha256"] == made_of, f"{record['path']} was made of another file")
            _check_digest(folder / record["path"], record["sha256"], required=True)
        except (ValueError, OSError) as error:
            problems.append(f"plain text: {error}")
    return problems


_ENDS = (".jsonl.zst", ".jsonl", ".jsonl.gz", ".leaves")


def _check_digest(path: Path, digest: str, *, required: bool) -> None:
    if required or path.exists():  # a shard may be there unpacked
        with path.open("rb") as file:
            _need(file_digest(file, "sha256").hexdigest() == digest, f"{path.name}: its digest is another")


def main(arguments: Sequence[str]) -> int:
    """Check a folder of files against a lock, or a proof file against a snapshot id."""
    if len(arguments) == 3 and arguments[0] == "proof":
        return _check_proof(Path(arguments[1]), arguments[2])
    if len(arguments) != 2:
        print("usage: python verify.py recension.lock FOLDER", file=sys.stderr)
        print("       python verify.py proof FILE ID", file=sys.stderr)
        return 2
    try:
        lock = read_lock(Path(arguments[0]).read_text(encoding="utf-8"))
        problems = check_export(lock, Path(arguments[1]))
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        problems = [f"the lock: {error!r}"]
    print("\n".join(problems).encode(errors="replace").decode() or "ok")
    return 1 if problems else 0


def _check_proof(path: Path, wanted: str) -> int:
    try:
        print("\n".join(in_words(verify_proof(read_proof(path), wanted))).encode(errors="replace").decode())
    except (ValueError, OSError) as error:
        print(f"NOT PROVED: {error}".encode(errors="replace").decode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
