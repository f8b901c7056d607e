"""What pins lost since they were made, whether by a retraction or upstream; answers, and who owes one."""

from __future__ import annotations

import pytest

from recension.archive.check.run import Check
from recension.archive.duties import LicenseeDuties, owing
from recension.archive.garbage import collect
from recension.archive.pins import LicenseePins
from recension.archive.retracting import Retractor, Wanted
from recension.model.errors import InvalidArgumentError, PinNotFoundError
from recension.model.manifest import OnHidden
from recension.model.retraction import Part, Reason
from tests.archive.helpers import DAY, NOW, World, edit, hide

BOTH = (Part.COMMENT, Part.TEXT)


@pytest.fixture
def world() -> World:
    """Thirty pages of one revision each, and a pin of acme on all of them; page 30 was hidden before."""
    world = World()
    world.add(*(world.event(page, 1, edit(100 + page, f"text {page}")) for page in range(1, 31)))
    world.add(world.event(30, 2, hide(130)))
    LicenseePins(world.store, "acme", clock=lambda: NOW).create(
        "run", world.snapshot(3, on_hidden=OnHidden.KEEP), NOW + DAY
    )
    return world


def duties(world: World, owner: str = "acme") -> LicenseeDuties:
    """Return what someone owes."""
    return LicenseeDuties(world.store, owner, b"\7" * 8, clock=lambda: NOW)


def retract(world: World, *revs: int) -> int:
    """Hide some revisions, and return the position."""
    retractor = Retractor(world.store, clock=lambda: NOW)
    plan = retractor.plan("w", Wanted(revisions=frozenset(revs)))
    (position,) = retractor.mask(plan, "c", Reason.COPYRIGHT)
    return position


def told(world: World) -> list[tuple[int, str, tuple[Part, ...], bool]]:
    """Return what acme is told of each entry."""
    return [(one.rev_id, one.reason, one.parts, one.acknowledged) for one in duties(world).retractions("run")]


def test_both_kinds_of_withdrawal_are_told(world: World) -> None:
    """With reason and position; what was hidden before the pin is no news, nor is what it does not hold."""
    assert told(world) == []
    position = retract(world, 101, 117)
    world.add(world.event(2, 5, hide(102)))
    world.add(world.event(1, 9, edit(201, "newer")))
    retract(world, 201)
    assert told(world) == [
        (101, "copyright", BOTH, False),
        (102, "upstream", (Part.TEXT,), False),
        (117, "copyright", BOTH, False),
    ]
    first = next(duties(world).retractions("run"))
    assert (first.project, first.page_id, first.position, first.withdrawn_at) == ("w", 1, position, NOW + 5)
    assert [one.rev_id for one in duties(world).retractions("run", after=("w", 101))] == [102, 117]


def test_what_upstream_shows_again_is_no_loss(world: World) -> None:
    """Unless it was retracted; then it stays withdrawn."""
    world.add(world.event(2, 5, hide(102)))
    world.add(world.event(3, 5, hide(103)))
    retract(world, 103)
    world.add(world.event(2, 6, hide(102, text=False)), world.event(3, 6, hide(103, text=False)))
    assert told(world) == [(103, "copyright", BOTH, False)]


def test_retraction_of_what_was_hidden_is_news(world: World) -> None:
    """Even if upstream had hidden it before the pin: now it is to be destroyed."""
    retract(world, 130)
    assert [(rev, reason) for rev, reason, _, _ in told(world)] == [(130, "copyright")]


def test_answers(world: World) -> None:
    """An answer covers what was withdrawn up to its position, and what comes later is owed again."""
    position = retract(world, 101)
    later = retract(world, 102)
    said = duties(world).acknowledge("run", position)
    assert (said.owner, said.through, said.entries, said.key_id) == ("acme", position, 1, b"\7" * 8)
    assert [acknowledged for _, _, _, acknowledged in told(world)] == [True, False]
    (owes,) = owing(world.store, lambda: NOW)
    assert (owes.pin.owner, owes.entries, owes.since, owes.through) == ("acme", 1, later, position)
    assert duties(world).acknowledge("run", later).entries == 2
    assert duties(world).acknowledge("run", position).through == later  # an older answer changes nothing
    assert owing(world.store, lambda: NOW) == []
    retract(world, 103)
    assert [one.entries for one in owing(world.store, lambda: NOW)] == [1]
    check = Check(world.store)
    check.run()
    assert check.state.shown == []


def test_pins_of_others_do_not_exist(world: World) -> None:
    """Neither to be asked about nor to be answered for."""
    with pytest.raises(PinNotFoundError):
        list(duties(world, "bell").retractions("run"))
    with pytest.raises(PinNotFoundError):
        duties(world, "bell").acknowledge("run", 1)


@pytest.mark.parametrize("through", [0, -1, 99])
def test_positions_that_are_not_there(world: World, through: int) -> None:
    """Nobody answers for the future."""
    with pytest.raises(InvalidArgumentError):
        duties(world).acknowledge("run", through)


def test_expired_and_released(world: World) -> None:
    """Whoever held it may have it still: the duty outlives the pin, and the tree of its snapshot."""
    much_later = NOW + 400 * DAY
    with world.store.exclusive_writer():
        assert collect(world.store, delete=True, unpinned_days=1, clock=lambda: much_later).snapshots == 1
    retract(world, 101)
    assert told(world) == [(101, "copyright", BOTH, False)]
    (owes,) = owing(world.store, lambda: much_later)
    assert (owes.expired, owes.entries) == (True, 1)
