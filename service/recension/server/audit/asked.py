"""What a request names, as the audit log tells it: a project, a snapshot, a pin. Never a title or a text."""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

_NAMES = {"project": "project", "snapshot": "snapshot", "snapshot_b": "snapshot", "pin": "pin"}
"""Fields of any request, and what records call them."""
_OWN = {"GetSnapshotRequest": {"id": "snapshot"}}
_PIN = "PinRequest"


def asked_of(request: Message) -> dict[str, str]:
    """Return what a request names."""
    named = {name: getattr(request, field) for field, name in _fields(request.DESCRIPTOR)}
    selector = getattr(request, "selector", None)
    if selector is not None:
        named["project"] = ",".join(selector.projects)
    return named


@lru_cache(256)
def _fields(descriptor: Descriptor) -> tuple[tuple[str, str], ...]:
    names = {**_NAMES, **_OWN.get(descriptor.name, {})}
    if descriptor.name.endswith(_PIN):
        names["name"] = "pin"
    return tuple(
        (field.name, names[field.name])
        for field in descriptor.fields
        if field.name in names and field.type == field.TYPE_STRING and field.label != field.LABEL_REPEATED
    )
