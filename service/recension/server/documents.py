"""Agreements as people write them: files of YAML, TOML or JSON, and JSON on the wire.

Nothing is guessed. A key that is there twice is an error in each of the three. Of YAML what JSON has is read:
a date stays a string, ``no`` and ``010`` too, and there are neither aliases nor tags.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from recension.model.agreement import Agreement, parse_document
from recension.model.errors import InvalidAgreementError
from recension.model.fields import SHOWN, bad

MAX_FILE_BYTES = 2**20
_FORMS = ".yaml, .yml, .toml or .json"


def read_file(path: Path, licensee: str) -> Agreement:
    """Read a file as its suffix says. Raises ``InvalidAgreementError``."""
    readers: dict[str, Callable[[str], object]] = {
        ".json": _json,
        ".toml": _toml,
        ".yaml": _yaml,
        ".yml": _yaml,
    }
    read = readers.get(path.suffix.lower())
    if read is None:
        raise bad("", f"{path}: what it is written in is not known", f"name it {_FORMS}")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise bad("", f"{path} has more than {MAX_FILE_BYTES} bytes")
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise bad("", f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise bad("", f"{path} is no UTF-8 at byte {error.start}") from None
    return parse_document(_parsed(read, text), licensee)


def read_json(text: str, licensee: str) -> Agreement:
    """Read a document of JSON. Raises ``InvalidAgreementError``."""
    if len(text) > MAX_FILE_BYTES:
        raise bad("", f"the document has more than {MAX_FILE_BYTES} characters")
    return parse_document(_parsed(_json, text), licensee)


def _parsed(read: Callable[[str], object], text: str) -> object:
    try:
        return read(text)
    except InvalidAgreementError:
        raise
    except RecursionError:
        raise bad("", "it has lists or mappings in each other without end") from None
    except (ValueError, yaml.YAMLError) as error:
        raise bad("", f"it cannot be read: {_said(error)}") from None


def _said(error: Exception) -> str:
    """Return what a parser says, in one line, without what it quotes of the file."""
    if isinstance(error, yaml.MarkedYAMLError):
        at = error.problem_mark
        where = "" if at is None else f" (line {at.line + 1}, column {at.column + 1})"
        said = f"{error.problem or error.context}{where}"
    else:
        said = str(error)
    return "".join(char if char.isprintable() else "?" for char in said.partition("\n")[0])[:200]


def _twice(name: object) -> InvalidAgreementError:
    return bad("", f"the key {str(name)[:SHOWN]!a} is there twice", "one of the two would be ignored")


# --- JSON and TOML --------------------------------------------------------------------------------


def _json(text: str) -> object:
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _twice(name)
        found[name] = value
    return found


def _toml(text: str) -> object:
    return _written(tomllib.loads(text))  # which refuses keys that are there twice


def _written(value: Any) -> object:
    """Return dates, which TOML has and JSON has not, as they are written."""
    if isinstance(value, dict):
        return {name: _written(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_written(one) for one in value]
    return value.isoformat() if isinstance(value, date) else value  # also of a datetime


# --- YAML -----------------------------------------------------------------------------------------

_TAG = "tag:yaml.org,2002:"
_TAGS = {"str", "int", "float", "bool", "null", "timestamp", "merge", "value", "map", "seq"}
"""What YAML may take a plain scalar for, and its lists and mappings; others were asked for with ``!``."""
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}


def _yaml(text: str) -> object:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return None if node is None else _value(node, set())


def _value(node: yaml.Node, seen: set[int]) -> object:
    """Return what a node says; ``seen`` are the nodes before it."""
    if id(node) in seen:
        raise yaml.MarkedYAMLError(problem="an alias of this is not read", problem_mark=node.start_mark)
    seen.add(id(node))
    if node.tag.removeprefix(_TAG) not in _TAGS:
        raise yaml.MarkedYAMLError(problem="a tag is not read", problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        return _object([(_key(key, seen), _value(value, seen)) for key, value in node.value])
    if isinstance(node, yaml.SequenceNode):
        return [_value(one, seen) for one in node.value]
    text: str = node.value
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:  # quoted, or a block of lines
        return text
    if _NUMBER.fullmatch(text):
        return json.loads(text)
    return _WORDS.get(text, text)


def _key(node: yaml.Node, seen: set[int]) -> str:
    key = _value(node, seen)
    if not isinstance(key, str):
        raise yaml.MarkedYAMLError(problem="a key is no string", problem_mark=node.start_mark)
    return key
