"""Events as NDJSON: one ``recension.v1.Event`` a line, in the JSON mapping of proto3.

The standard library's ``json`` with the hooks below reads a line, but for a long text: that is cut out and
read by orjson in half the time, unless anything about it is unusual (``_cut``). What the standard library
lets through where a protobuf parser would not is refused here: duplicate keys and fractions by the hooks
(NaN and Infinity too), lone surrogates where strings are encoded, unknown fields and wrong types by the field
readers. What a protobuf parser has to take is taken: the names of the .proto file beside the camel-case ones,
whole numbers with exponents or zeros behind the point, strings for numbers, numbers for enums. Deep nesting
raises ``RecursionError`` in the C scanner, before memory is touched.

What a string may hold: any Unicode scalar value, U+0000 and noncharacters included, unchanged and not
normalised, because the text is what its digest says; titles have no control characters (model.event).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import orjson

from recension.model.errors import InvalidTimeError
from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    NO_COMMENT,
    NOBODY,
    Comment,
    Contributor,
    Delete,
    Edit,
    Event,
    Happening,
    Move,
    Presence,
    Restore,
    SlotText,
    Visibility,
)
from recension.model.instant import parse_instant
from recension.sources.items import (
    MAX_EXCERPT_BYTES,
    BadRecordError,
    ByteSource,
    Item,
    Rejected,
    checked,
)
from recension.sources.lines import Lines
from recension.sources.titles import fold_table, namespace_of

MAX_SOURCE_ID_BYTES = 512

_TEXT = re.compile(rb'"text": ?"')
_QUOTE = re.compile(rb'(?<!\\)"')
_CUT_BYTES, _CUT_MOST_BYTES = 2048, 2**20
"""Of a line: in a shorter one nothing is won, and of a longer one orjson takes more memory than there is."""
_BEHIND_BYTES = 512
"""Where the end of a text is looked for, from the end of its line."""
_UNPARSED = frozenset({"INVALID_JSON", "INVALID_UTF8"})
_INT64 = re.compile(r"-?[0-9]{1,19}")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_MAX_NUMBER_CHARS = 64
_MAX_EXPONENT = 18
_UNDERSCORED = re.compile(r"_([a-z0-9])")
_MAX_INT64 = 2**63 - 1
_MAX_INT32 = 2**31 - 1

_COMMON = frozenset({"project", "pageId", "time", "sourceId"})
_PRESENCES: dict[object, Presence] = {
    "PRESENCE_UNSPECIFIED": Presence.PRESENT,
    0: Presence.PRESENT,
    1: Presence.PRESENT,
    2: Presence.HIDDEN,
    3: Presence.LOST,
    "PRESENCE_PRESENT": Presence.PRESENT,
    "PRESENCE_HIDDEN": Presence.HIDDEN,
    "PRESENCE_LOST": Presence.LOST,
}


# --- lines --------------------------------------------------------------------------------------


def read_events(
    source: ByteSource, path: Path, project: str, namespaces: Mapping[str, int] | None = None
) -> Iterator[Item]:
    """Yield an ``Event`` or ``Rejected`` for each line that is not empty.

    ``path`` is for messages. ``namespaces`` are the project's, number by name: for moves, deletes and
    restores that give no namespace. Raises ``SourceLimitError`` for a gibibyte without an end of line, and
    what ``source`` raises, after everything that was complete before.
    """
    decoder = EventDecoder(project, namespaces or {})
    for line in Lines(source, path):
        if not line.data.strip():
            continue
        position = f"line {line.number}, byte {line.byte}"
        try:
            yield decoder.decode(line.whole())
        except BadRecordError as fault:
            # Only the last line can lack its end; if it cannot be parsed, that is why.
            reason = "TRUNCATED_LINE" if line.last and fault.reason in _UNPARSED else fault.reason
            yield Rejected(position, reason, fault.message, line.data[:MAX_EXCERPT_BYTES])


# --- one event ----------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise BadRecordError("DUPLICATE_KEY", f"a field occurs twice in {sorted(key for key, _ in pairs)}")
    return result


def _no_number(text: str) -> NoReturn:
    raise BadRecordError("INVALID_FIELD", f"{text[:40]} is not an integer")


def _whole(text: str) -> int:
    """Read a number with a point or an exponent: ``1.18e2`` is 118. Raises ``BadRecordError``."""
    if len(text) > _MAX_NUMBER_CHARS:
        _no_number(text)
    try:
        value = Decimal(text)
        # An exponent of a few characters makes an integer of gigabytes.
        if value.is_finite() and value.adjusted() <= _MAX_EXPONENT and value == (whole := int(value)):
            return whole
    except ArithmeticError:
        pass
    _no_number(text)


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_float=_whole, parse_constant=_no_number)
_GAP = object()
_WITH_GAP = json.JSONDecoder(object_pairs_hook=_object, parse_float=_whole, parse_constant=lambda _: _GAP)


def _cut(line: bytes) -> object:
    """Return what ``_JSON`` makes of a line, the long text of a slot read apart; ``None`` if it may differ.

    In place of the string there stands ``NaN`` while the rest is read, the only one. What stands before it,
    ``"text":``, ends outside of any string if the rest is JSON at all, so both lines have the same tokens but
    for this one. A quote that does not end the text leaves something behind it that is no string.
    """
    if not _CUT_BYTES <= len(line) <= _CUT_MOST_BYTES or not (begin := _TEXT.search(line)):
        return None
    start = begin.end() - 1
    end = _QUOTE.search(line, max(start + 1, len(line) - _BEHIND_BYTES))
    if end is None:
        return None
    rest = line[:start] + b"NaN" + line[end.end() :]
    if rest.count(b"NaN") > 1 or b"Infinity" in rest:
        return None
    try:
        value = _WITH_GAP.decode(rest.decode())
        for slot in value["edit"]["slots"]:
            if slot["text"] is _GAP:
                slot["text"] = orjson.loads(line[start : end.end()])
                return value
    except (ValueError, LookupError, TypeError, RecursionError, BadRecordError):
        pass  # the one way names what is wrong
    return None


def _parsed(line: bytes) -> object:
    """Return what a line holds. Raises ``BadRecordError``, ``ValueError`` or ``RecursionError``."""
    value = _cut(line)
    if value is not None:
        return value
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise BadRecordError("INVALID_UTF8", f"byte {error.start} of the line is not UTF-8") from None
    return _JSON.decode(text)


class EventDecoder:
    """Turn one event of a project from JSON into the model's value."""

    def __init__(self, project: str, namespaces: Mapping[str, int]) -> None:
        """``namespaces``: number by name, for titles that come without one."""
        self._project = project
        self._table = fold_table(namespaces)
        self._kinds: dict[str, Callable[[_Fields], Happening]] = {
            "edit": self._edit,
            "move": self._move,
            "delete": self._delete,
            "restore": self._restore,
            "visibility": self._visibility,
        }

    def decode(self, line: bytes) -> Event:
        """Read one line of JSON. Raises ``BadRecordError``."""
        try:
            value = _parsed(line)
        except RecursionError:
            raise BadRecordError("NESTED_TOO_DEEP", "the line is nested too deep") from None
        except ValueError as error:
            raise BadRecordError("INVALID_JSON", f"not JSON: {error}") from None
        return self.event(value)

    def event(self, value: object) -> Event:
        """Read one event from what a JSON parser made of it. Raises ``BadRecordError``."""
        fields = _Fields("", value)
        kinds = [kind for kind in self._kinds if fields.has(kind)]
        if len(kinds) != 1:
            raise _bad(
                "edit, move, delete, restore, visibility", f"one of them is set, not {kinds or 'none'}"
            )
        fields.only(_COMMON | {kinds[0]}, others=frozenset(self._kinds))
        project = fields.text("project")
        if project != self._project:
            raise BadRecordError("WRONG_PROJECT", f"project: {project!r} is not {self._project!r}")
        source_id = fields.text("sourceId")
        if not 1 <= len(source_id.encode()) <= MAX_SOURCE_ID_BYTES:
            raise _bad("sourceId", f"it has 1 to {MAX_SOURCE_ID_BYTES} bytes")
        what = self._kinds[kinds[0]](_Fields(kinds[0], fields.value(kinds[0])))
        return checked(Event(project, fields.integer("pageId"), fields.time("time"), source_id, what))

    def _edit(self, fields: _Fields) -> Edit:
        fields.only(_EDIT)
        return Edit(
            rev_id=fields.integer("revId"),
            parent_rev_id=fields.integer("parentRevId"),
            title=fields.text("title"),
            namespace=fields.integer("namespace", limit=_MAX_INT32),
            title_inferred=fields.flag("titleInferred"),
            contributor=_contributor(fields),
            comment=_comment(fields),
            minor=fields.flag("minor"),
            slots=tuple(map(_slot, fields.items("slots"))),
        )

    def _move(self, fields: _Fields) -> Move:
        fields.only(_MOVE)
        source, target = fields.text("fromTitle"), fields.text("toTitle")
        return Move(
            from_title=source,
            from_namespace=self._namespace(fields, "fromNamespace", source),
            to_title=target,
            to_namespace=self._namespace(fields, "toNamespace", target),
            contributor=_contributor(fields),
            comment=_comment(fields),
        )

    def _delete(self, fields: _Fields) -> Delete:
        return Delete(*self._titled(fields))

    def _restore(self, fields: _Fields) -> Restore:
        return Restore(*self._titled(fields))

    def _titled(self, fields: _Fields) -> tuple[str, int, Contributor, Comment]:
        fields.only(_TITLED)
        title = fields.text("title")
        return title, self._namespace(fields, "namespace", title), _contributor(fields), _comment(fields)

    def _visibility(self, fields: _Fields) -> Visibility:
        fields.only(_VISIBILITY)
        return Visibility(
            rev_id=fields.integer("revId"),
            text_hidden=fields.flag("textHidden"),
            comment_hidden=fields.flag("commentHidden"),
            contributor_hidden=fields.flag("contributorHidden"),
            contributor=_contributor(fields),
            comment=_comment(fields, hidden=""),
        )

    def _namespace(self, fields: _Fields, name: str, title: str) -> int:
        if fields.has(name):
            return fields.integer(name, limit=_MAX_INT32)
        return namespace_of(title, self._table)


_ACT = frozenset({"contributor", "comment", "commentHidden"})
_TITLED = _ACT | {"title", "namespace"}
_EDIT = _TITLED | {"revId", "parentRevId", "titleInferred", "minor", "slots"}
_MOVE = _ACT | {"fromTitle", "fromNamespace", "toTitle", "toNamespace"}
_VISIBILITY = _ACT | {"revId", "textHidden", "contributorHidden"}
_CONTRIBUTOR = frozenset({"name", "id", "hidden"})
_SLOT = frozenset({"role", "model", "format", "text", "presence", "claimedSha1", "claimedBytes"})


def _contributor(fields: _Fields) -> Contributor:
    if not fields.has("contributor"):
        return NOBODY
    inner = _Fields("contributor", fields.value("contributor"))
    inner.only(_CONTRIBUTOR)
    if inner.flag("hidden"):
        if inner.text("name") or inner.has("id"):
            raise _bad("contributor", "a hidden contributor has neither name nor id")
        return HIDDEN_CONTRIBUTOR
    return Contributor.named(inner.text("name"), inner.integer("id") if inner.has("id") else None)


def _comment(fields: _Fields, hidden: str = "commentHidden") -> Comment:
    text = fields.text("comment")
    if hidden and fields.flag(hidden):
        if text:
            raise _bad("comment", "a hidden comment has no text")
        return HIDDEN_COMMENT
    return Comment.of(text) if text else NO_COMMENT


def _slot(value: object) -> SlotText:
    fields = _Fields("slots", value)
    fields.only(_SLOT)
    state = fields.value("presence")
    if isinstance(state, bool | list | dict):
        raise _bad("slots.presence", "not the name or number of a presence")
    presence = Presence.PRESENT if state is None else _PRESENCES.get(state)
    if presence is None:
        raise _bad("slots.presence", f"{state!r:.40} is not a presence")
    text = fields.encoded("text")
    if text and presence is not Presence.PRESENT:
        raise _bad("slots.text", f"a slot that is {presence.name} has no text")
    claimed = fields.integer("claimedBytes") if fields.has("claimedBytes") else None
    return SlotText(
        role=fields.text("role"),
        model=fields.text("model"),
        format=fields.text("format"),
        presence=presence,
        text=text,
        claimed_sha1=fields.text("claimedSha1"),
        claimed_bytes=claimed,
    )


class _Fields:
    """The fields of one message. A field that is missing or null has its default, as proto3 has it."""

    __slots__ = ("_name", "_values")

    def __init__(self, name: str, value: object) -> None:
        if not isinstance(value, dict):
            raise _bad(name or "event", "not an object")
        self._name = name
        self._values: dict[str, object] = value

    def only(self, known: frozenset[str], others: frozenset[str] = frozenset()) -> None:
        """Refuse fields that are not known. ``others`` may stand there as null (an unset oneof).

        A field may have the name that it has in the .proto file: ``page_id`` becomes ``pageId``.
        """
        for name in self._values.keys() - known:
            camel = _UNDERSCORED.sub(lambda match: match[1].upper(), name)
            if camel != name and camel in known:
                if camel in self._values:
                    raise BadRecordError("DUPLICATE_KEY", f"{self._path(name)}: it is there as {camel} too")
                self._values[camel] = self._values.pop(name)
            elif name not in others:
                raise BadRecordError("UNKNOWN_FIELD", f"{self._path(name)}: there is no such field")

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def value(self, name: str) -> object:
        return self._values.get(name)

    def text(self, name: str) -> str:
        value = self._values.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise _bad(self._path(name), "not a string")
        if not value.isascii():
            self._encode(name, value)
        return value

    def encoded(self, name: str) -> bytes:
        value = self._values.get(name)
        if value is None:
            return b""
        if not isinstance(value, str):
            raise _bad(self._path(name), "not a string")
        return self._encode(name, value)

    def _encode(self, name: str, value: str) -> bytes:
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise BadRecordError("LONE_SURROGATE", f"{self._path(name)}: half of a surrogate pair") from None

    def integer(self, name: str, limit: int = _MAX_INT64) -> int:
        value = self._values.get(name)
        if value is None:
            return 0
        if isinstance(value, str):
            value = _number(value)
        if not isinstance(value, int) or isinstance(value, bool) or not -limit - 1 <= value <= limit:
            raise _bad(self._path(name), "not an integer of its width")
        return value

    def flag(self, name: str) -> bool:
        value = self._values.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise _bad(self._path(name), "not true or false")
        return value

    def time(self, name: str) -> int:
        text = self.text(name)
        # A date alone is an as-of, not a google.protobuf.Timestamp.
        if "T" not in text.upper():
            raise BadRecordError("INVALID_TIME", f"{self._path(name)}: not a time: {text[:40]!r}")
        try:
            return parse_instant(text)
        except InvalidTimeError as error:
            raise BadRecordError("INVALID_TIME", f"{self._path(name)}: {error.message}") from None

    def items(self, name: str) -> list[object]:
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise _bad(self._path(name), "not a list")
        return value

    def _path(self, name: str) -> str:
        return f"{self._name}.{name}" if self._name else name


def _number(text: str) -> object:
    """Return the number that a string holds, else the string."""
    if _INT64.fullmatch(text):
        return int(text)
    return _whole(text) if _NUMBER.fullmatch(text) else text


def _bad(field: str, message: str) -> BadRecordError:
    return BadRecordError("INVALID_FIELD", f"{field}: {message}")
