"""What history and logging dumps share: the head of the dump, contributors, comments and times."""

from __future__ import annotations

from recension.model.errors import InvalidTimeError
from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    MAX_ID,
    NO_COMMENT,
    NOBODY,
    Comment,
    Contributor,
)
from recension.model.instant import parse_instant
from recension.sources.items import BadRecordError, SiteInfo
from recension.sources.xml_records import Node, number

_MAX_CHARS = 255
"""Of one value of the head; a longer one is nonsense and is cut."""


def read_siteinfo(node: Node) -> SiteInfo:
    """Read ``<siteinfo>``. What is missing or not a number is left out: no record depends on it alone."""
    table = node.child("namespaces")
    namespaces: dict[int, str] = {}
    for entry in table.children if table is not None else ():
        try:
            namespaces[number(entry.attributes.get("key"), "namespace number")] = entry.text[:_MAX_CHARS]
        except BadRecordError:
            continue
    dbname, sitename, base, case = (
        (node.value(name) or "")[:_MAX_CHARS] for name in ("dbname", "sitename", "base", "case")
    )
    return SiteInfo(dbname, sitename, base, case, namespaces)


def read_contributor(node: Node | None) -> Contributor:
    """Read ``<contributor>``: an account, an ``<ip>`` (which may be any words), hidden, or nobody.

    An id of 0 is kept: old system accounts and imported ``prefix>Name`` users have it. A negative one
    marks an import that went wrong; it names no account.
    """
    if node is None:
        return NOBODY
    if "deleted" in node.attributes:
        return HIDDEN_CONTRIBUTOR
    name, address = node.value("username"), node.value("ip")
    if name is None and address is not None:
        return Contributor.named(address)
    user = number(node.value("id"), "contributor id", absent=-1)
    if name is None and user < 0:
        return NOBODY
    if user > MAX_ID:
        raise BadRecordError("INVALID_NUMBER", f"its contributor id is above 2^63-1: {user}")
    return Contributor.named(name or "", user if user >= 0 else None)


def read_comment(node: Node | None) -> Comment:
    """Read ``<comment>``; writers leave it out when it is empty."""
    if node is None:
        return NO_COMMENT
    return HIDDEN_COMMENT if "deleted" in node.attributes else Comment.of(node.text)


def read_time(text: str | None) -> int:
    """Read ``<timestamp>``, microseconds since the epoch. Raises ``BadRecordError``, ``INVALID_TIME``."""
    if not text or "T" not in text:
        raise BadRecordError("INVALID_TIME", f"its timestamp is not a time: {(text or '')[:40]!r}")
    try:
        return parse_instant(text)
    except InvalidTimeError as error:
        raise BadRecordError("INVALID_TIME", f"its timestamp is {error.message}") from None
