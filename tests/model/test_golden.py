"""Recompute every vector of ``tests/golden/vectors.json``. The file is frozen: a difference is a break.

Each section is a list of ``{"name", "in", "out"}``; the function of the section's name below makes ``out``
of ``in``. Integers beyond 2^53 are decimal strings, bytes are hex.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from recension.model.access import Role, Secret, make_key, read_key
from recension.model.agreement import Version, make_end, parse_document, read_statement, version_statement
from recension.model.audit import Call, encode_record, read_record
from recension.model.event import Comment, Contributor, LogAction, LogEntry, Presence
from recension.model.instant import format_instant, parse_instant
from recension.model.licensee import make_licensee, read_licensee
from recension.model.manifest import (
    AsOf,
    OnHidden,
    ProjectPart,
    Redirects,
    Selector,
    canonical_json,
    make_manifest,
    read_manifest,
)
from recension.model.mark import Mark, Origin, Span, read_mark
from recension.model.merkle import Frontier
from recension.model.note import VerifierKey, make_key_statement, read_key_statement, to_be_signed
from recension.model.pin import make_pin, read_pin
from recension.model.record import (
    Commit,
    Item,
    Kind,
    Skeleton,
    Statement,
    commit_hash,
    decode_commit,
    encode_commit,
    encode_skeleton,
    source_key,
)
from recension.model.retraction import (
    Part,
    Reason,
    Receipt,
    make_acknowledgement,
    make_receipt,
    make_retraction,
    read_acknowledgement,
    read_receipt,
    read_retraction,
)
from recension.model.seal import (
    COMMENT,
    CONTENT,
    CONTRIBUTOR,
    ENTRY,
    FROM_TITLE,
    TITLE,
    SlotState,
    comment_value,
    commit_field,
    content_value,
    contributor_value,
    field_salt,
    log_entry_value,
    seal,
    title_value,
)
from recension.model.tree import build, entry_leaf

VECTORS = Path(__file__).parent.parent / "golden" / "vectors.json"

Json = dict[str, Any]

LABELS = {
    "title": TITLE,
    "from_title": FROM_TITLE,
    "contributor": CONTRIBUTOR,
    "comment": COMMENT,
    "content": CONTENT,
    "log_entry": ENTRY,
}


def _contributor(given: Json) -> Contributor:
    number = given.get("id")
    return Contributor(
        Presence[given["presence"]], given.get("name", ""), None if number is None else int(number)
    )


def _slot(given: Json) -> SlotState:
    return SlotState(
        given["role"],
        given["model"],
        given["format"],
        Presence[given["presence"]],
        int(given.get("size", 0)),
        bytes.fromhex(given.get("digest", "")),
    )


def _log_entry(given: Json) -> LogEntry:
    nobody, nothing = Contributor(), Comment()
    revisions = tuple(int(rev_id) for rev_id in given["rev_ids"])
    return LogEntry(
        1, LogAction.OTHER, "unused", 0, given["to_title"], given["to_namespace"], revisions,
        False, False, False, nobody, nothing,  # noqa: FBT003 - flags that the value doesn't hold
    )  # fmt: skip


def _value(field: str, given: Json) -> bytes:
    match field:
        case "title" | "from_title":
            return title_value(given["namespace"], given["title"])
        case "contributor":
            return contributor_value(_contributor(given))
        case "comment":
            return comment_value(Comment(Presence[given["presence"]], given.get("text", "")))
        case "content":
            return content_value([_slot(slot) for slot in given["slots"]])
        case _:
            return log_entry_value(_log_entry(given))


def fields(given: Json) -> Json:
    salt, label = bytes.fromhex(given["event_salt"]), LABELS[given["field"]]
    value = _value(given["field"], given["value"])
    return {
        "value": value.hex(),
        "field_salt": field_salt(salt, label).hex(),
        "commitment": commit_field(salt, label, value).hex(),
    }


def seals(given: Json) -> Json:
    salt = bytes.fromhex(given["event_salt"])
    commitments = [
        commit_field(salt, LABELS[field["field"]], _value(field["field"], field["value"]))
        for field in given["fields"]
    ]
    return {"commitments": [one.hex() for one in commitments], "sealed": seal(commitments).hex()}


def source_keys(given: Json) -> Json:
    return {"key": source_key(given["project"], given["source_id"]).hex()}


def _skeleton(given: Json) -> Skeleton:
    return Skeleton(
        Kind(given["kind"]),
        given["flags"],
        int(given["page_id"]),
        int(given["rev_id"]),
        int(given["parent_rev_id"]),
        int(given["time"]),
        given["namespace"],
        given["from_namespace"],
        int(given["text_bytes"]),
        given["model"],
        bytes.fromhex(given["source"]),
        bytes.fromhex(given["sealed"]),
    )


def skeletons(given: Json) -> Json:
    return {"bytes": encode_skeleton(_skeleton(given)).hex()}


def _item(given: Json) -> Item:
    if given["kind"] < Kind.PROJECT:
        return _skeleton(given)
    return Statement(Kind(given["kind"]), canonical_json(given["document"]))


def commits(given: Json) -> Json:
    commit = Commit(
        int(given["position"]),
        int(given["recorded_at"]),
        bytes.fromhex(given["parent"]),
        given["project"],
        tuple(_item(item) for item in given["items"]),
    )
    record = encode_commit(commit)
    assert commit == decode_commit(record)
    return {"record": record.hex(), "hash": commit_hash(record).hex()}


def leaves(given: Json) -> Json:
    title, content = bytes.fromhex(given["title"]), bytes.fromhex(given["content"])
    ids = int(given["page_id"]), int(given["rev_id"]), int(given["timestamp"])
    return {"leaf": entry_leaf(*ids, title, content).hex()}


def trees(given: Json) -> Json:
    ids = [int(page_id) for page_id in given["page_ids"]]
    nodes: dict[bytes, bytes] = {}
    root, count = build(
        ((page_id, at + 1, sha256(b"leaf %d" % page_id).digest()) for at, page_id in enumerate(ids)),
        nodes.__setitem__,
    )
    out: Json = {"root": root.hex(), "count": count, "nodes": len(nodes), "levels": nodes[root][0] + 1}
    if len(nodes) <= 3:
        out["node_bytes"] = {digest.hex(): node.hex() for digest, node in nodes.items()}
    return out


def manifests(given: Json) -> Json:
    chosen = given["selector"]
    selector = Selector.of(
        chosen["projects"],
        chosen.get("namespaces"),
        chosen.get("models"),
        Redirects(chosen.get("redirects", "include")),
        chosen.get("min_age_seconds", 0),
        OnHidden(chosen.get("on_hidden", "skip")),
    )
    parts = tuple(
        ProjectPart(part["project"], part["count"], part["bytes"], bytes.fromhex(part["root"]))
        for part in given["parts"]
    )
    manifest = make_manifest(selector, AsOf(int(given["valid_at"]), int(given["known_at"])), parts)
    assert manifest == read_manifest(manifest.encoded)
    return {"json": manifest.encoded.decode(), "snapshot_id": "sha256:" + manifest.snapshot_id.hex()}


def instants(given: Json) -> Json:
    text = format_instant(int(given["micros"]))
    assert str(parse_instant(text)) == given["micros"]
    return {"text": text}


# --- a second reader: the standard library and docs/format.md, nothing of the model -------------


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _string(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()


def entries(given: Json) -> Json:
    """From what a reader is given of one entry to its leaf, as docs/format.md section 9 says."""
    if "title_commitment" in given:
        title = bytes.fromhex(given["title_commitment"])
    else:
        value = given["namespace"].to_bytes(4, "big", signed=True) + given["title"].encode()
        title = _mac(bytes.fromhex(given["title_salt"]), b"recension/title/v1\0" + value)
    if "content_commitment" in given:
        content = bytes.fromhex(given["content_commitment"])
    else:
        value = len(given["slots"]).to_bytes(2, "big")
        for slot in sorted(given["slots"], key=lambda slot: bytes(slot["role"].encode())):
            value += _string(slot["role"]) + _string(slot["model"]) + _string(slot["format"])
            value += bytes([{"PRESENT": 1, "HIDDEN": 2, "LOST": 3}[slot["presence"]]])
            if slot["presence"] == "PRESENT":
                text = slot["text"].encode()
                value += len(text).to_bytes(8, "big") + sha256(text).digest()
        content = _mac(bytes.fromhex(given["content_salt"]), b"recension/content/v1\0" + value)
    leaf = sha256(
        b"\0recension/entry/v1\0"
        + int(given["page_id"]).to_bytes(8, "big")
        + int(given["rev_id"]).to_bytes(8, "big")
        + int(given["timestamp"]).to_bytes(8, "big", signed=True)
        + title
        + content
    ).digest()
    record = int(given["page_id"]).to_bytes(8, "big") + int(given["rev_id"]).to_bytes(8, "big") + leaf
    root = sha256(b"\x01\x00" + record).digest()
    assert (root, 1) == build(
        [(int(given["page_id"]), int(given["rev_id"]), leaf)], lambda digest, node: None
    )
    return {"title": title.hex(), "content": content.hex(), "leaf": leaf.hex(), "root_alone": root.hex()}


def pins(given: Json) -> Json:
    pin = make_pin(
        given["owner"],
        given["name"],
        bytes.fromhex(given["id"]),
        bytes.fromhex(given["snapshot"]),
        given["labels"],
        int(given["readable_until"]),
        int(given["made_at"]),
        deleted=given["deleted"],
    )
    assert read_pin(pin.encoded) == pin
    return {"statement": pin.encoded.decode()}


def keys(given: Json) -> Json:
    key = VerifierKey(given["name"], bytes.fromhex(given["public"]))
    previous = VerifierKey(given["name"], bytes.fromhex(given["previous"])) if "previous" in given else None
    statement = make_key_statement(key, previous, bytes.fromhex(given.get("signature", "")))
    assert read_key_statement(statement.encoded) == statement
    signed = to_be_signed(key, previous).decode() if previous is not None else ""
    return {"key": str(key), "signed": signed, "statement": statement.encoded.decode()}


def retractions(given: Json) -> Json:
    made = make_retraction(
        bytes.fromhex(given["id"]),
        given["case"],
        Reason(given["reason"]),
        given["project"],
        map(Part, given["parts"]),
        given["revisions"],
        reverses=bytes.fromhex(given["reverses"]),
        escrow=bytes.fromhex(given["escrow"]),
    )
    assert read_retraction(made.encoded) == made
    return {"statement": made.encoded.decode()}


def receipts(given: Json) -> Json:
    found = {name: value for name, value in given.items() if name != "signature"}
    for name in ("id", "retraction"):
        found[name] = bytes.fromhex(found[name])
    for name in ("position", "compacted_at", "bytes_searched"):
        found[name] = int(found[name])
    receipt = Receipt(**found | {"backups": tuple(found["backups"])})
    made = make_receipt(receipt, f"{receipt.body.decode()}\n\n{given['signature']}\n")
    assert read_receipt(made.encoded) == made
    return {"signed": f"{receipt.body.decode()}\n", "statement": made.encoded.decode()}


def marks(given: Json) -> Json:
    mark = Mark(
        given["form"],
        given["source"],
        Span(*given["span"]) if "span" in given else None,
        Origin(given["bytes"], bytes.fromhex(given["sha256"])) if "bytes" in given else None,
        bytes.fromhex(given.get("file", "")),
        given.get("offsets", {}),
        int(given["upstream_at"]) if "upstream_at" in given else None,
        {license_: tuple(map(int, rev_ids)) for license_, rev_ids in given.get("licenses", {}).items()},
    )
    assert read_mark(mark.encoded) == mark
    return {"statement": mark.encoded.decode()}


def acknowledgements(given: Json) -> Json:
    made = make_acknowledgement(
        bytes.fromhex(given["id"]),
        given["owner"],
        bytes.fromhex(given["key"]),
        bytes.fromhex(given["pin"]),
        int(given["pin_made_at"]),
        bytes.fromhex(given["snapshot"]),
        int(given["through"]),
        given["entries"],
    )
    assert read_acknowledgement(made.encoded) == made
    return {"statement": made.encoded.decode()}


def api_keys(given: Json) -> Json:
    secret = Secret(bytes.fromhex(given["id"]), bytes.fromhex(given["secret"]))
    assert Secret.parse(secret.written) == secret
    verifier = secret.verifier(bytes.fromhex(given["pepper"]))
    numbers = int(given["expires_at"]), int(given["made_at"])
    made = make_key(
        secret.id, given["owner"], Role(given["role"]), verifier, *numbers, revoked=given["revoked"]
    )
    assert read_key(made.encoded) == made
    return {"written": secret.written, "statement": made.encoded.decode()}


def licensees(given: Json) -> Json:
    said = {name: value for name, value in given.items() if name not in ("name", "made_at")}
    made = make_licensee(given["name"], int(given["made_at"]), **said)
    assert read_licensee(made.encoded) == made
    return {"statement": made.encoded.decode()}


def agreements(given: Json) -> Json:
    agreement = parse_document(given["document"], given["licensee"])
    statement = version_statement(agreement, given["ordinal"], int(given["made_at"]))
    assert read_statement(statement) == Version(agreement, given["ordinal"], int(given["made_at"]))
    assert agreement.name == "sha256:" + sha256(agreement.encoded).hexdigest()
    return {
        "document": agreement.encoded.decode(),
        "digest": agreement.name,
        "statement": statement.decode(),
    }


def agreement_ends(given: Json) -> Json:
    made = make_end(given["licensee"], int(given["ends_at"]), given["upto"], int(given["made_at"]))
    assert read_statement(made.encoded) == made
    return {"statement": made.encoded.decode()}


def audit_records(given: Json) -> Json:
    """A call from what is known of it; other records from what they say. The root is that of all of them."""
    records, tree = [], Frontier()
    for index, one in enumerate(given["records"]):
        fields = Call(**one["call"]).entry.fields if "call" in one else one["fields"]
        encoded = encode_record(index, fields)
        assert read_record(index, encoded).encoded == encoded
        records.append(encoded)
        tree.append(sha256(b"\0" + encoded).digest())
    assert tree.root() == _root([sha256(b"\0" + one).digest() for one in records])
    return {"records": [one.decode() for one in records], "root": tree.root().hex()}


def _root(leaves: list[bytes]) -> bytes:
    """Return the root of RFC 6962 as it is defined there."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + _root(leaves[:split]) + _root(leaves[split:])).digest()


SECTIONS: dict[str, Callable[[Json], Json]] = {
    "fields": fields,
    "seals": seals,
    "source_keys": source_keys,
    "skeletons": skeletons,
    "commits": commits,
    "leaves": leaves,
    "trees": trees,
    "manifests": manifests,
    "instants": instants,
    "entries": entries,
    "pins": pins,
    "keys": keys,
    "retractions": retractions,
    "receipts": receipts,
    "acknowledgements": acknowledgements,
    "marks": marks,
    "api_keys": api_keys,
    "licensees": licensees,
    "agreements": agreements,
    "agreement_ends": agreement_ends,
    "audit_records": audit_records,
}
ELSEWHERE = {"proofs", "checkpoints"}
"""What the model does not write: ``tests/client/test_proof.py``, ``tests/server/test_signing.py``."""


def _vectors() -> list[Any]:
    document = json.loads(VECTORS.read_text(encoding="utf-8"))
    assert set(SECTIONS) | {"format"} | ELSEWHERE == set(document)
    return [
        pytest.param(section, vector, id=f"{section}-{vector['name']}")
        for section in SECTIONS
        for vector in document[section]
    ]


@pytest.mark.parametrize("section,vector", _vectors())
def test_vector(section: str, vector: Json) -> None:
    assert vector["out"] == SECTIONS[section](vector["in"])


def test_withheld_entries_have_the_leaf_of_the_shown_one() -> None:
    document = json.loads(VECTORS.read_text(encoding="utf-8"))
    family = [one["out"]["leaf"] for one in document["entries"] if one["name"].startswith("same ")]
    assert len(family) == 4
    assert len(set(family)) == 1


def test_commits_are_chained() -> None:
    chain = json.loads(VECTORS.read_text(encoding="utf-8"))["commits"]
    assert "00" * 32 == chain[0]["in"]["parent"]
    for before, after in pairwise(chain):
        assert before["out"]["hash"] == after["in"]["parent"]


def test_each_kind_of_statement_is_in_a_commit() -> None:
    """What a reader of the log may find in it is in the vectors, whatever it does with it."""
    chain = json.loads(VECTORS.read_text(encoding="utf-8"))["commits"]
    found = {item["kind"] for commit in chain for item in commit["in"]["items"]}
    assert found >= {kind for kind in Kind if kind >= Kind.API_KEY}
