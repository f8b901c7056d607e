"""The clock of embargoes: whatever the machine's clock does, nothing is released before its time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recension.model.errors import ClockUnusableError
from recension.model.instant import parse_instant
from recension.server import embargo
from recension.server.embargo import SLACK, EmbargoClock
from recension.server.main import main

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOON = parse_instant("2026-06-15T12:00:00Z")


class Machine:
    """A wall clock that may jump, and one that counts since the machine was started."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.true = self.wall = NOON
        self.since_boot = 5 * DAY
        self.boot = "a"
        # What is written down is looked at again each time.
        monkeypatch.setattr(embargo, "_LOOK_SECONDS", -1.0)

    def clock(self) -> EmbargoClock:
        """Return the clock of a process that starts now."""
        return EmbargoClock(
            self.path, wall=lambda: self.wall, since_boot=lambda: self.since_boot, boot=self.boot
        )

    def pass_by(self, time: int) -> None:
        self.true += time
        self.wall += time
        self.since_boot += time

    def restart(self, off: int, boot: str = "b") -> None:
        """Switch the machine off for a time."""
        self.true += off
        self.wall += off
        self.since_boot, self.boot = MINUTE, boot


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "clock.json", monkeypatch)


def test_it_is_the_wall_clock_as_long_as_that_goes_on(machine: Machine) -> None:
    """And all processes of the machine have the same."""
    clock = machine.clock()
    for _ in range(10):
        machine.pass_by(7 * HOUR)
        assert machine.true == clock.now() == machine.clock().now()
        clock.persist()
    assert not clock.state().held


@pytest.mark.parametrize("jump", [2 * HOUR, 30 * DAY, 10_000 * DAY])
def test_a_jump_forward_releases_nothing(machine: Machine, jump: int) -> None:
    """Neither at once, nor by being written down, nor in a process that starts after it."""
    clock = machine.clock()
    clock.now()
    machine.wall += jump
    for _ in range(20):
        machine.pass_by(MINUTE)
        for one in (clock, machine.clock()):
            one.persist()
            assert one.now() <= machine.true + SLACK
    assert jump - SLACK == clock.state().behind
    machine.wall -= jump
    assert machine.true == clock.now()


@pytest.mark.parametrize("jump", [2 * HOUR, 30 * DAY])
def test_a_jump_back_holds_back(machine: Machine, jump: int) -> None:
    """What lies in the future of a clock that went back waits; when it is right again, so is now."""
    clock = machine.clock()
    clock.now()
    machine.wall -= jump
    machine.pass_by(HOUR)
    clock.persist()
    assert machine.true - jump == clock.now()
    machine.wall += jump
    assert machine.true == clock.now()


def test_small_corrections_pass(machine: Machine) -> None:
    """Half a minute forward is no jump."""
    clock = machine.clock()
    clock.now()
    machine.wall += MINUTE // 2
    assert machine.wall == clock.now()


def test_a_server_that_was_off_for_an_hour(machine: Machine) -> None:
    """After a restart of the machine the wall clock is trusted up to a day."""
    machine.clock().persist()
    machine.restart(HOUR)
    assert machine.true == machine.clock().now()


def test_a_process_that_was_off_for_a_week(machine: Machine) -> None:
    """The machine went on and has counted: nobody needs to say anything."""
    machine.clock().persist()
    machine.pass_by(7 * DAY)
    assert machine.true == machine.clock().now()


def test_a_machine_that_was_off_for_a_week(machine: Machine) -> None:
    """What is under embargo stays so, moves with what is counted, and is released by the operator's word."""
    machine.clock().persist()
    off_at = machine.true
    machine.restart(7 * DAY)
    clock = machine.clock()
    assert clock.state().held
    assert off_at <= clock.now() <= off_at + SLACK
    machine.pass_by(3 * HOUR)
    clock.persist()
    assert clock.now() <= off_at + 3 * HOUR + SLACK
    machine.restart(MINUTE, "c")
    assert machine.clock().state().held
    other = machine.clock()
    other.now()
    assert machine.true == clock.confirm().now
    assert machine.true == other.now()
    assert not other.state().held


def test_a_clock_that_died(machine: Machine) -> None:
    """A machine that starts in 1970 serves nothing of today, and what it knew is not forgotten."""
    machine.clock().persist()
    last = machine.true
    machine.restart(HOUR)
    machine.wall = 0
    clock = machine.clock()
    assert clock.now() == 0
    clock.persist()
    machine.wall = machine.true
    assert last <= clock.now() <= last + SLACK


@pytest.mark.parametrize("written", ["", "{}", "[]", '{"format": "recension/clock/v2"}', "\xff", "null", "1"])
def test_what_cannot_be_read_releases_nothing(machine: Machine, written: str) -> None:
    """It is an error by name until the operator says that the clock is right."""
    machine.path.write_text(written, "latin-1")
    machine.path.chmod(0o600)
    clock = machine.clock()
    for act in (clock.now, clock.persist, clock.state):
        with pytest.raises(ClockUnusableError, match=r"clock\.json"):
            act()
    assert machine.true == clock.confirm().now == clock.now()


def test_others_may_not_write_it(machine: Machine) -> None:
    """Whoever could write it could release what is under embargo."""
    clock = machine.clock()
    clock.persist()
    assert 0o600 == machine.path.stat().st_mode & 0o777
    machine.path.chmod(0o666)
    with pytest.raises(ClockUnusableError, match="others may"):
        clock.now()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """It cannot be written down, so it is not known."""
    with pytest.raises(ClockUnusableError, match="No such"):
        EmbargoClock(tmp_path / "none" / "clock.json").now()


def test_the_machine_itself(tmp_path: Path) -> None:
    """The real clocks agree."""
    clock = EmbargoClock(tmp_path / "clock.json")
    assert abs(clock.state().behind) <= SLACK


def test_the_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They show what is held back and why, and end it."""
    data = tmp_path / "data"
    assert 3 == main(["clock", "show", "--data", str(data)])
    made = ["--base-url", "https://w.example", "--language", "en", "--license", "CC0-1.0"]
    assert 0 == main(["project", "create", "w", *made, "--data", str(data)])
    monkeypatch.setattr(embargo, "_LOOK_SECONDS", -1.0)
    EmbargoClock(data / "clock.json", wall=lambda: NOON, since_boot=lambda: DAY, boot="old").persist()
    capsys.readouterr()
    assert 0 == main(["clock", "show", "--data", str(data)])
    said = capsys.readouterr()
    assert "held" in said.out
    assert "clock confirm" in said.err
    assert 0 == main(["clock", "confirm", "--data", str(data), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (False, 0.0) == (found["held"], found["behind_seconds"])
    assert 0 == main(["clock", "show", "--data", str(data)])
    assert not capsys.readouterr().err
