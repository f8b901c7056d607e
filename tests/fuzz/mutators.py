"""Changes that leave an input what it is: a document stays JSON or XML, a message stays a message.

Bytes that are changed blindly are refused where the form is read; these come further.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Mutator = Callable[[bytes, random.Random], bytes]
"""Changes an input, with all chance out of the generator.

Raises ``ValueError``, ``RecursionError`` or ``DecodeError`` for what it cannot read.
"""

_NUMBERS = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, 2**63, -(2**63), 10**40)
_TEXTS = (
    "",
    " ",
    "a",
    "p",
    "main",
    "Talk:B",
    "é𝄞",
    "\0",
    "\x7f",
    "\u2028",
    "x" * 300,
    "2005-01-01T00:00:00Z",
    "sha256:",
)
_OTHERS: tuple[Any, ...] = (None, True, False, 1.5, 1e300, [], {}, [[]], {"": ""})
_BYTES = (b"", b"\0", b"x" * 16, b"\xff" * 32, bytes(33))


def changed_json(data: bytes, chance: random.Random) -> bytes:
    """Change a value of a line of JSON, whichever it is of several; written as canonical JSON is."""
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    document = [json.loads(lines[at])]
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        _change_value(document, chance)
    lines[at] = json.dumps(document[0] if document else None, **_form(lines[at], chance)).encode()
    if chance.random() < 0.1:
        lines.insert(at, chance.choice(lines))
    return b"\n".join(lines)


def _form(line: bytes, chance: random.Random) -> dict[str, Any]:
    """Return how a document is written: compact, sorted if it was or by chance."""
    keys = list(json.loads(line)) if line.startswith(b"{") else []
    ascending = keys == sorted(keys)
    return {"ensure_ascii": chance.random() < 0.1, "sort_keys": ascending, "separators": (",", ":")}


def _change_value(root: list[Any], chance: random.Random) -> None:
    places = list(_places(root))
    if not places:
        return
    held, key = chance.choice(places)
    match chance.randrange(8):
        case 0:
            held[key] = chance.choice(_NUMBERS)
        case 1:
            held[key] = chance.choice(_TEXTS)
        case 2:
            held[key] = chance.choice(_OTHERS)
        case 3 if held is not root:
            del held[key]
        case 4:
            other, there = chance.choice(places)
            held[key] = json.loads(json.dumps(other[there]))
        case 5 if isinstance(held, dict):
            held[chance.choice((str(key).upper(), f"{key}_", "x", *(str(there) for _, there in places)))] = (
                held[key]
            )
        case 6 if isinstance(held, list) and held is not root:
            held.insert(key, json.loads(json.dumps(held[key])))
        case _:
            held[key] = _nudged(held[key], chance)


def _places(value: Any) -> Any:
    """Yield (container, key or index) of all values inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(items):
        yield value, key
        yield from _places(one)


def _nudged(value: Any, chance: random.Random) -> Any:
    """Return something near a value."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return value + chance.choice((-1, 1))
    if isinstance(value, str):
        at = chance.randrange(len(value) + 1)
        return value[:at] + chance.choice((*_TEXTS, "0", "Z", "/", "-")) + value[at + chance.randrange(3) :]
    if isinstance(value, list):
        return value[::-1]
    return {**value, "x": 1}


# --- XML ------------------------------------------------------------------------------------------

_TAG = re.compile(rb"(<[^>]*>)")
_ATTRIBUTE = re.compile(rb"""[\w:]+=["'][^"']*["']""")
_CONTENTS = (
    b"",
    b" ",
    b"0",
    b"-1",
    b"7",
    b"9223372036854775808",
    b"2001-01-15T13:15:00Z",
    b"0000-00-00T00:00:00Z",
)


def changed_xml(data: bytes, chance: random.Random) -> bytes:
    """Change a few tags, attributes and texts between tags; what was well-formed mostly stays so."""
    parts = _TAG.split(data)  # texts at even places, tags at odd ones
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        _change_part(parts, chance)
    return b"".join(parts)


def _change_part(parts: list[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(parts))
    text, tag = at & ~1, min(at | 1, len(parts) - 1)
    match chance.randrange(8):
        case 0 | 1:
            parts[text] = chance.choice(_CONTENTS)
        case 2:
            parts[text] = parts[chance.randrange(0, len(parts), 2)]
        case 3:
            parts[tag] = _ATTRIBUTE.sub(b"", parts[tag], count=1)
        case 4 if (attributes := _ATTRIBUTE.findall(b"".join(parts))) and not parts[tag].startswith(b"</"):
            parts[tag] = parts[tag][:-1] + b" " + chance.choice(attributes) + b">"
        case 5 | 6:  # an element with all in it
            name = parts[tag][1:].rstrip(b"/>").partition(b" ")[0]
            ends = [end for end in range(tag, len(parts), 2) if parts[end] == b"</" + name + b">"]
            element = parts[tag : ends[0] + 1] if ends else parts[tag : tag + 1]
            if chance.random() < 0.5:
                del parts[tag : tag + len(element) + 1]
            else:
                there = chance.randrange(0, len(parts), 2) + 1
                parts[there:there] = [*element, b""]
        case _:
            parts[tag] = chance.choice(parts[1::2] or parts)


# --- messages -------------------------------------------------------------------------------------


def of_messages(kinds: tuple[type[Message], ...]) -> Mutator:
    """Return a mutator of messages whose kind the first byte names."""

    def mutated(data: bytes, chance: random.Random) -> bytes:
        kind = kinds[data[0] % len(kinds)] if data else kinds[0]
        return data[:1] + of_message(kind)(data[1:], chance)

    return mutated


def of_message(kind: type[Message]) -> Mutator:
    """Return a mutator of messages of a kind."""

    def mutated(data: bytes, chance: random.Random) -> bytes:
        message = kind.FromString(data)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            _change_message(message, chance)
        return message.SerializeToString(deterministic=True)

    return mutated


def of_sequence(kind: type[Message]) -> Mutator:
    """Return a mutator of messages one behind another, each behind its length in two bytes."""
    one = of_message(kind)

    def mutated(data: bytes, chance: random.Random) -> bytes:
        messages = []
        while data:
            end = 2 + int.from_bytes(data[:2], "big")
            messages.append(data[2:end])
            data = data[end:]
        if not messages:
            return b""
        at = chance.randrange(len(messages))
        match chance.randrange(10):
            case 0:
                messages.insert(at, chance.choice(messages))
            case 1:
                del messages[at]
            case _:
                messages[at] = one(messages[at], chance)
        return b"".join(
            len(message).to_bytes(2, "big") + message for message in messages if len(message) < 2**16
        )

    return mutated


def _change_message(message: Any, chance: random.Random) -> None:
    held = chance.choice([*messages_in(message)])
    fields = held.DESCRIPTOR.fields
    if not fields:
        return
    set_ = [field for field, _ in held.ListFields()]
    field = chance.choice(set_ if set_ and chance.random() < 0.7 else fields)
    if field.label == FieldDescriptor.LABEL_REPEATED:
        _change_repeated(held, field, chance)
    elif chance.random() < 0.15:
        held.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(held, field.name).SetInParent()
    else:
        setattr(held, field.name, _scalar(field, getattr(held, field.name), chance))


def messages_in(message: Any) -> Any:
    """Yield a message and all inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry:
            for one in value if field.label == FieldDescriptor.LABEL_REPEATED else (value,):
                yield from messages_in(one)


def _change_repeated(held: Any, field: Any, chance: random.Random) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        held.ClearField(field.name)
        return
    values = getattr(held, field.name)
    at = chance.randrange(len(values)) if values else 0
    match chance.randrange(4):
        case 0 if values:
            del values[at]
        case 1 if values:
            copies = list(values)
            copies.insert(at, chance.choice(copies))
            held_copies = (
                [type(one).FromString(one.SerializeToString()) for one in copies]
                if field.message_type
                else copies
            )
            held.ClearField(field.name)
            getattr(held, field.name).extend(held_copies)
        case _ if field.message_type is not None:
            values.add()
        case 2 if values:
            values[at] = _scalar(field, values[at], chance)
        case _:
            values.append(_scalar(field, values[at] if values else None, chance))


def _scalar(field: Any, value: Any, chance: random.Random) -> Any:
    """Return a value of a field's type that is near another, or at an edge."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            value = value or b""
            return chance.choice(
                (*_BYTES, value[:-1], value + b"\0", bytes([chance.randrange(256)]) + value[1:])
            )
        case FieldDescriptor.CPPTYPE_STRING:
            return chance.choice(_TEXTS) if chance.random() < 0.5 else _nudged(value or "", chance)
        case FieldDescriptor.CPPTYPE_BOOL:
            return not value
        case FieldDescriptor.CPPTYPE_ENUM:
            return chance.randrange(7)
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return chance.choice((0.0, -1.5, 1e300))
        case FieldDescriptor.CPPTYPE_INT64:
            least, most = -(2**63), 2**63 - 1
        case FieldDescriptor.CPPTYPE_UINT64:
            least, most = 0, 2**64 - 1
        case FieldDescriptor.CPPTYPE_INT32:
            least, most = -(2**31), 2**31 - 1
        case _:
            least, most = 0, 2**32 - 1
    near = (value or 0) + chance.choice((-1, 1, 0x100))
    return min(max(chance.choice((*_NUMBERS, near, near, near)), least), most)
