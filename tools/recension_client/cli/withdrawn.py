"""What was withdrawn from the pin of a lock, for the commands that ask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recension.model.errors import LockError, PinNotFoundError
from recension.model.retraction import Part, Withdrawn
from recension_client.client import Client
from recension_client.export.fetching import DATA
from recension_client.export.folder import Folder
from recension_client.export.withdrawing import Lost, still_there
from recension_client.lockfile import Lock
from recension_client.trust import trust_of


def pin_of(client: Client, lock: Lock) -> str:
    """Return the name of the lock's pin, if it is the one that the server knows by that name.

    Where the lock names a key, the server has to have signed what it says of the pin, and taken nothing back.
    The snapshot is not asked for: an answer is owed also when nothing can be read any more. Raises
    ``LockError``, ``PinNotFoundError``, ``VerificationError``.
    """
    if lock.pin is None:
        raise LockError(
            "the lock has no pin, so nobody knows what was withdrawn since",
            hint="take one: recension pin ... --name NAME --until T",
        )
    trust = trust_of(lock.server_key) if lock.server_key else None
    if trust is not None:
        trust.refresh(client, lock.server_key)
    for pin in client.pins():
        if pin.statement.id.hex() == lock.pin.id and pin.snapshot_id == lock.manifest.snapshot_id:
            if trust is not None:
                trust.check_pin(client, pin.statement, lock.server_key)
            return pin.name
    raise PinNotFoundError(
        f"the pin {lock.pin.name!r} of the lock is not there any more",
        hint="take another: recension pin --force",
        pin=lock.pin.name,
    )


def lost_of(entries: Sequence[Withdrawn]) -> Lost:
    """Return the pages whose text was withdrawn."""
    lost: dict[str, dict[int, int]] = {}
    for one in entries:
        if Part.TEXT in one.parts:
            lost.setdefault(one.project, {})[one.page_id] = one.rev_id
    return lost


def in_files(lock: Lock, entries: Sequence[Withdrawn], target: Path) -> set[tuple[str, int]] | None:
    """Return the (project, page) whose withdrawn text is in the files; ``None`` where there are no files."""
    if lock.index is None or not (target / DATA).exists():
        return None
    with Folder.at(target) as root:
        return still_there(root, lock.index, lost_of(entries))
