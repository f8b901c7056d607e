"""The audit log on a disk without room: licensees are refused by name, and no record is lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from recension.model import errors
from recension.model.access import Role
from recension.model.audit import Call
from recension.server.audit import writer
from recension.server.audit.log import AuditLog
from recension.server.audit.verify import verify
from recension.server.audit.writer import Audit
from recension.store.auditing import AuditStore
from recension.store.memory import MemoryStore
from tests.faults.full_disk import leave_room
from tests.faults.test_full_disk import DISKS
from tests.server.helpers import until
from tests.server.test_audit import NoCheckpoints


@pytest.mark.parametrize("small_disk", DISKS, indirect=True)
def test_a_full_disk_stops_licensees_alone(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators go on; once there is room each record is there, in order, once, and the tree is right."""
    monkeypatch.setattr(writer, "_RETRY_SECONDS", 0.01)
    log = AuditLog(MemoryStore(), AuditStore(small_disk, force_mount=True))
    audit = Audit(log, NoCheckpoints())
    told: list[str] = []

    def call(role: Role) -> bool:
        """Make a call and hand over its record; False when it is refused."""
        try:
            audit.admit(role)
        except errors.AuditUnusableError:
            return False
        told.append(f"r{len(told)}")
        audit.append(
            Call(time.time_ns() // 1000, told[-1], "acme", role, "", "m" * 2_000, "OK", 1, project="p" * 255)
        )
        return True

    assert call(Role.LICENSEE)
    until(lambda: log.env.head().size == 1)
    leave_room(small_disk, 60_000)
    until(lambda: not call(Role.LICENSEE))
    assert all(call(Role.OPERATOR) for _ in range(5))
    assert not call(Role.LICENSEE)
    (small_disk / "ballast").unlink()
    until(lambda: call(Role.LICENSEE))
    audit.stop()
    assert [one.get("request") for one in log.records()] == told
    assert verify(log.env, []).findings == []
    log.env.close()
