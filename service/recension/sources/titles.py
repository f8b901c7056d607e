"""Namespaces of titles: the prefix before the first colon, as MediaWiki reads it."""

from __future__ import annotations

from collections.abc import Mapping


def plain_title(title: str) -> str:
    """A title with spaces, as dumps write it; logs and event streams write underscores."""
    return title.replace("_", " ").strip(" ")


def namespace_table(names: Mapping[int, str]) -> dict[str, int]:
    """Turn a dump's namespaces (name by number) into the table that ``namespace_of`` reads."""
    return {fold_name(name): number for number, name in names.items() if name}


def fold_table(numbers: Mapping[str, int]) -> dict[str, int]:
    """Make the same table from numbers by name, whatever their case and underscores."""
    return {fold_name(name): number for name, number in numbers.items() if name}


def fold_name(name: str) -> str:
    """The form in which MediaWiki compares namespace names: no case, spaces for underscores."""
    return plain_title(name).casefold()


def namespace_of(title: str, table: Mapping[str, int]) -> int:
    """Number of the namespace that ``title`` names in its prefix; 0 when it names none of ``table``."""
    prefix, colon, _ = title.partition(":")
    return table.get(fold_name(prefix), 0) if colon and table else 0
