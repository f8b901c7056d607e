"""Proofs as files: an answer of ``prove`` written so that ``verify.verify_proof`` can check it on its own."""

from __future__ import annotations

import json
from base64 import b85encode
from typing import Any

from recension.model.event import Presence
from recension.model.instant import format_instant
from recension.model.manifest import canonical_json
from recension.model.reading import Entry, Proof, Slot

FORMAT = "recension/proof/v1"


def proof_file(proof: Proof) -> bytes:
    """Return the proof file (docs/format.md, section 11): canonical JSON."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "manifest": json.loads(proof.manifest.encoded),
        "page_id": str(proof.page_id),
        "path": [b85encode(node).decode() for node in proof.path],
        "project": proof.project,
    }
    if proof.prefix is not None:
        document["prefix"] = str(proof.prefix)
    if proof.entry is not None:
        document["entry"] = _entry(proof.entry)
    return canonical_json(document)


def _entry(entry: Entry) -> dict[str, Any]:
    document: dict[str, Any] = {
        "namespace": entry.namespace,
        "rev_id": str(entry.rev_id),
        "timestamp": format_instant(entry.timestamp),
        "title": entry.title,
        "title_salt": entry.title_salt.hex(),
    }
    if entry.content_commitment:
        return {**document, "content_commitment": entry.content_commitment.hex()}
    slots = sorted(entry.slots, key=lambda slot: slot.role.encode())
    return {**document, "content_salt": entry.content_salt.hex(), "slots": [_slot(slot) for slot in slots]}


def _slot(slot: Slot) -> dict[str, Any]:
    document = {"format": slot.format, "model": slot.model, "role": slot.role}
    if slot.presence is not Presence.PRESENT:
        return {**document, "presence": slot.presence.name.lower()}
    return {**document, "digest": f"sha256:{slot.digest.hex()}", "size": slot.size_bytes}
