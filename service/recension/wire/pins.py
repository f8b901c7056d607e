"""Pins <-> proto, both directions together."""

from __future__ import annotations

from recension.model.digest import format_digest
from recension.model.errors import VerificationError
from recension.model.pin import Pin, read_pin
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
