"""Commits for stores under test."""

from recension.model.record import EMPTY_LOG, Commit, Head, Kind, Statement, commit_hash, encode_commit


def following(head: Head = EMPTY_LOG, note: bytes = b"") -> tuple[bytes, Head]:
    """Return a record that follows ``head``, and the head that it makes."""
    position = head.position + 1
    record = encode_commit(Commit(position, position, head.hash, "p", (Statement(Kind.PROJECT, note),)))
    return record, Head(position, position, commit_hash(record))
