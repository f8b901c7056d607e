"""Readers of documents that are kept and handed on: locks, proofs, notes, statements, agreements, exports."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow.compute  # noqa: F401 - a reader imports it late, when there is no address space left for it
import zstandard

from recension.model import access, agreement, audit, licensee, mark, note, pin, retraction
from recension.model.errors import RecensionError, VerificationError
from recension.model.manifest import read_manifest
from recension.model.record import decode_commit, encode_commit
from recension.model.seal import (
    comment_value,
    content_value,
    contributor_value,
    read_comment,
    read_content,
    read_contributor,
    read_log_entry,
    read_title,
    title_value,
)
from recension.server import documents
from recension_client import checkpoints, lockfile, verify
from recension_client.export import jsonl, parquet
from recension_client.export.layout import Form, Terms, read_index
from recension_client.export.roots import ShardTree
from recension_client.export.rows import Row, Unreadable, entry_of, leaf_of, readable, row_of
from tests.fuzz.mutators import changed_json
from tests.fuzz.target import Target
from tests.model.values import read_node, write_log_entry, write_node

_TERMS = Terms("https://w.example", "CC0-1.0")


def _fails(read: Callable[[], object], *named: type[Exception]) -> bool:
    """Say whether a reader refuses an input, as it may."""
    try:
        read()
    except named:
        return True
    return False


# --- what is written canonically ------------------------------------------------------------------

STATEMENTS: tuple[Callable[[bytes], Any], ...] = (
    pin.read_pin,
    retraction.read_retraction,
    retraction.read_receipt,
    retraction.read_acknowledgement,
    agreement.read_statement,
    note.read_key_statement,
    licensee.read_licensee,
    access.read_key,
    mark.read_mark,
    lambda encoded: audit.read_record(7, encoded),
    read_index,
)
"""Of the log and of exports; each meaning has one form."""


def _statement(data: bytes) -> bool:
    """Try every reader: at most one takes a document, and would write it so."""
    found = 0
    for read in STATEMENTS:
        try:
            statement = read(data)
        except RecensionError:
            continue
        found += 1
        if hasattr(statement, "encoded"):
            assert data == statement.encoded
    assert found <= 1
    return bool(found)


def _manifest(data: bytes) -> bool:
    """The client and the single file refuse the same."""
    refused = _fails(lambda: verify.read_manifest(data), ValueError)
    assert refused is _fails(lambda: read_manifest(data), RecensionError)
    return not refused and read_manifest(data).encoded == data


VALUES: tuple[tuple[Callable[[bytes], Any], Callable[[Any], bytes]], ...] = (
    (read_title, lambda found: title_value(*found)),
    (read_contributor, contributor_value),
    (read_comment, comment_value),
    (read_content, content_value),
    (read_log_entry, write_log_entry),
    (read_node, write_node),
)


def _value(data: bytes) -> bool:
    """Read a canonical value of the kind that the first byte names; it would be written so."""
    read, write = VALUES[data[0] % len(VALUES)] if data else VALUES[0]
    assert data[1:] == write(read(data[1:]))
    return True


def _commit(data: bytes) -> bool:
    """The log's reader and the single file refuse the same; what is read would be written so."""
    refused = _fails(lambda: verify.read_commit(data), ValueError)
    assert refused is _fails(lambda: decode_commit(data), RecensionError)
    return not refused and encode_commit(decode_commit(data)) == data


# --- proofs and notes -----------------------------------------------------------------------------

_proven: dict[tuple[str, str, int], object] = {}
_MOST_PROVEN = 10_000


def _proof(data: bytes) -> bool:
    """Of one snapshot nothing is proved that contradicts what was proved before."""
    try:
        wanted = verify.snapshot_id(verify._json(json.loads(data)["manifest"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        wanted = "sha256:" + "0" * 64
    shown = verify.verify_proof(data, wanted)
    assert verify.in_words(shown)
    leaf = None if shown.entry is None else verify.leaf_of(shown.entry)
    if len(_proven) > _MOST_PROVEN:
        _proven.clear()
    assert leaf == _proven.setdefault((wanted, shown.project, shown.page_id), leaf), "it contradicts another"
    return True


_KEY = note.VerifierKey("example.org/recension", bytes(range(32)))


def _note(data: bytes) -> bool:
    """A note is read in one way; nobody but the key has signed one."""
    text = data.decode(errors="surrogateescape")
    if not _fails(lambda: note.read_key(text), RecensionError):
        assert text == str(note.read_key(text))
        return True
    assert _fails(lambda: checkpoints.open_checkpoint(text, str(_KEY)), RecensionError), "a forged signature"
    origin, size, root, signatures = verify.read_checkpoint(text)
    lines = [f"— {name} {b64encode(id_ + raw).decode()}\n" for name, id_, raw in signatures]
    assert text == note.checkpoint_text(origin, size, root) + "\n" + "".join(lines)
    return True


# --- locks and exports ----------------------------------------------------------------------------

_VERIFIER = (ValueError, LookupError, TypeError, AttributeError)
"""What the single file takes for a refusal of a lock."""


def _lock(data: bytes) -> bool:
    """A lock is written as it is read, and the single file takes it too, if it names files that it reads."""
    text = data.decode(errors="surrogateescape")
    refused = _fails(lambda: verify.read_lock(text), *_VERIFIER)
    try:
        lock = lockfile.parse(text)
    except RecensionError:
        assert refused, "the single file takes what the client refuses"
        return False
    assert lock == lockfile.parse(lockfile.render(lock))
    assert lock == lockfile.parse(lockfile.render(lock, text))
    assert not refused or lock.export is None or lock.export.form is not Form.JSONL, (
        "the single file refuses it"
    )
    return True


def _row(data: bytes) -> bool:
    """The client and the single file read the same of a line, or nothing."""
    terms = {"base_url": _TERMS.base_url, "license": _TERMS.license}
    refused = _fails(lambda: verify.leaf_of(verify.read_row(data, terms)), *_VERIFIER)
    try:
        entry = readable(jsonl.decode_entry(data, "w", _TERMS))
        assert entry == entry_of(jsonl.decode_line(data), "w", _TERMS)
        leaf = leaf_of(entry)
        ShardTree().add(entry.page_id, entry.rev_id, leaf)
    except RecensionError:
        assert refused, "the single file takes what the client refuses"
        return False
    assert not refused, "the single file refuses what the client takes"
    assert leaf == verify.leaf_of(verify.read_row(data, terms))
    assert data == jsonl.encode_line(row_of(entry, _TERMS))
    return True


def _shard(data: bytes) -> bool:
    """Read a file of rows; each is written as it stands there."""
    for row in jsonl.read(io.BytesIO(data)):
        assert isinstance(row, Unreadable) or isinstance(jsonl.decode_line(jsonl.encode_line(row)), Row)
    return True


def _parquet(data: bytes) -> int:
    """Read a file of rows, of which each is a page's or is refused."""
    good = 0
    for row in parquet.read(io.BytesIO(data)):
        try:
            entry_of(row, "w", _TERMS)
        except VerificationError:
            continue
        good += 1
    return good


_BUNDLE = Path(__file__).parents[1] / "conformance/bundles/good"
_SHARD = "w/00000-of-00001.jsonl"


@cache
def _bundle() -> tuple[Path, dict[str, Any], bytes]:
    """Return a folder with a good export, unpacked, its lock, and the lines of its shard."""
    folder = Path(mkdtemp(prefix="recension-bundle-"))
    data = folder / "data"
    for path in (_BUNDLE / "corpus/data").rglob("*.*"):
        into = data / path.relative_to(_BUNDLE / "corpus/data")
        into.parent.mkdir(parents=True, exist_ok=True)
        raw = path.read_bytes()
        if path.suffix == ".zst":
            raw, into = zstandard.ZstdDecompressor().decompressobj().decompress(raw), into.with_suffix("")
        into.write_bytes(raw)
    lock = verify.read_lock((_BUNDLE / "recension.lock").read_text(encoding="utf-8"))
    return folder, lock, (data / _SHARD).read_bytes()


def _export(data: bytes) -> bool:
    """Nothing but the rows of the snapshot is taken for them."""
    folder, lock, genuine = _bundle()
    (folder / "data" / _SHARD).write_bytes(data)
    good = not verify.check_export(lock, folder)
    assert good is (data == genuine)
    return good


# --- agreements -----------------------------------------------------------------------------------

_LANGUAGES: tuple[Callable[[str], object], ...] = (documents._yaml, documents._toml, documents._json)


def _agreement(data: bytes) -> bool:
    """Read an agreement in the language that the first byte names; in its one form it is the same."""
    read = _LANGUAGES[data[0] % len(_LANGUAGES)] if data else documents._json
    text = data[1:].decode(errors="replace")
    found = agreement.parse_document(documents._parsed(read, text), "ann" if b"licensee" not in data else "")
    assert found == documents.read_json(found.encoded.decode(), "")
    made = agreement.version_statement(found, 1, 5)
    assert agreement.Version(found, 1, 5) == agreement.read_statement(made)
    return True


_JSON = (
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"NaN",
    b"1.0",
    b"-1",
    b"\\u0000",
    b"\\ud800",
    b"sha256:",
)
_DATES = (b"2024-01-01T00:00:00Z", b"9999-12-31T23:59:59.999999Z", b"24:00", b"9007199254740993", b"0" * 64)
_WORDS = (
    b"format",
    b"projects",
    b"selector",
    b"as_of",
    b"known_at",
    b"valid_at",
    b"namespaces",
    b"redirects",
    b"on_hidden",
    b"min_age_seconds",
)
_LOCK = (
    b"[[",
    b"]]",
    b"[snapshot]",
    b"[projects.w]",
    b"[export]",
    b"[pin]",
    b"[plain]",
    b"'''",
    b'"""',
    b"version = 1",
    b"\\n",
    b" = ",
    b"#",
)
_AGREEMENT = (
    b"grants",
    b"freshness",
    b"live",
    b"delay_seconds",
    b"valid_from",
    b"valid_until",
    b"rates",
    b"quotas",
    b"licenses",
    b"terms",
    b"&a",
    b"*a",
    b"!!str",
    b"? ",
    b"- ",
    b"|\n ",
)

TARGETS = (
    Target("statement", _statement, words=_JSON + _DATES, mutate=changed_json),
    Target("manifest", _manifest, words=_JSON + _DATES + _WORDS, mutate=changed_json),
    Target("value", _value, words=(b"\0\0\0\0", b"\xff\xff\xff\xff", b"main", b"wikitext"), most_bytes=1024),
    Target("commit", _commit, words=(b"recension/commit/v1\0",), most_bytes=2048),
    Target("proof", _proof, (ValueError,), _JSON + _DATES + _WORDS, mutate=changed_json),
    Target("note", _note, (ValueError,), ("— ".encode(), b"\n\n", b"example.org/recension", b"+"), 1024),
    Target("lock", _lock, words=_LOCK + _DATES + _WORDS),
    Target("row", _row, words=_JSON + _DATES, mutate=changed_json),
    Target("shard", _shard, words=(b"\x28\xb5\x2f\xfd", *_JSON), most_bytes=2048),
    Target("parquet", _parquet, words=(b"PAR1", b"\x15\x00", b"\x19\x1c"), most_bytes=8192),
    Target("export", _export, words=_JSON, most_bytes=8192),
    Target("agreement", _agreement, words=_JSON + _DATES + _AGREEMENT),
)
