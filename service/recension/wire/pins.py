"""Pins <-> proto, both directions together."""

from __future__ import annotations

from recension.model.digest import format_digest
from recension.model.errors import VerificationError
from recension.model.pin import Pin, read_pin
from recension.model.retraction import Part, Withdrawn
from recension.v1 import pin_service_pb2 as pb
from recension.wire.convert import timestamp_from_proto, timestamp_to_proto


def pin_to_proto(pin: Pin) -> pb.Pin:
    """Write a pin: its newest statement, and the same as fields."""
    statement = pin.statement
    return pb.Pin(
        name=statement.name,
        id=statement.id.hex(),
        snapshot=format_digest(statement.snapshot_id),
        labels=pin.labels,
        readable_until=timestamp_to_proto(statement.readable_until),
        created_at=timestamp_to_proto(pin.created_at),
        created_position=statement.made_at,
        expired=pin.expired,
        statement=statement.encoded.decode(),
        agreement=format_digest(statement.agreement) if statement.agreement else "",
    )


def pin_from_proto(message: pb.Pin) -> Pin:
    """Read a pin from its statement alone. Raises ``VerificationError`` if the fields say anything else."""
    pin = Pin(
        read_pin(message.statement.encode()),
        timestamp_from_proto(message.created_at, "created_at"),
        message.expired,
    )
    if pin_to_proto(pin) != message:
        raise VerificationError(
            f"the fields of pin {message.name!r} are not those of its statement",
            hint="do not use this pin; the server or something on the way changed it",
            pin=message.name,
        )
    return pin


def withdrawn_to_proto(entry: Withdrawn) -> pb.WithdrawnEntry:
    """Write an entry of a pin of which something was withdrawn."""
    return pb.WithdrawnEntry(
        project=entry.project,
        page_id=entry.page_id,
        rev_id=entry.rev_id,
        parts=[part.value for part in entry.parts],
        reason=entry.reason,
        position=entry.position,
        withdrawn_at=timestamp_to_proto(entry.withdrawn_at),
        acknowledged=entry.acknowledged,
    )


def withdrawn_from_proto(message: pb.WithdrawnEntry) -> Withdrawn:
    """Read an entry. Parts that this version does not know are left out; reasons are taken as they are."""
    return Withdrawn(
        message.project,
        message.page_id,
        message.rev_id,
        tuple(part for part in Part if part.value in message.parts),
        message.reason,
        message.position,
        timestamp_from_proto(message.withdrawn_at, "withdrawn_at"),
        message.acknowledged,
    )
