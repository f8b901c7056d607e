"""Pins: whose they are, when they end, what they hold, and that the log alone brings them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.archive import pins as pins_module
from recension.archive.agreements import Agreements
from recension.archive.garbage import collect, lacks_nodes
from recension.archive.pins import LicenseePins
from recension.archive.rebuild import rebuild
from recension.model import errors
from recension.model.licensee import make_licensee
from recension.model.manifest import canonical_json
from recension.model.pin import make_pin, read_pin
from recension.model.record import Kind, Statement, decode_commit
from recension.store import keys
from recension.store.interface import Outcome, Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.helpers import DAY, NOW, World, edit
from tests.archive.test_check import found, position_of, put, relog, rows
from tests.archive.test_garbage import counts
from tests.archive.test_rebuild import assert_same, blobs_of, index_of

LATER = NOW + 30 * DAY


class Clock:
    """Stands until the test moves it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with closing(LmdbStore.open(tmp_path, create=True, force_mount=True)) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world(store: Store) -> World:
    world = World(store)
    for day in (1, 2, 3):
        world.add(*(world.event(page, day, edit(100 * day + page, f"{day}")) for page in range(1, 60)))
    return world


@pytest.fixture
def pins(world: World, clock: Clock) -> LicenseePins:
    return LicenseePins(world.store, clock=clock)


def test_a_pin_is_made_found_extended_and_deleted(world: World, pins: LicenseePins) -> None:
    """Every step is one commit, and the answer is what the log says."""
    wanted = world.snapshot(2)
    head = world.store.log.head().position
    pin, created = pins.create("run-17", wanted, LATER, {"model": "m1", "commit": "0a1b"})
    assert created
    assert (pin.name, pin.snapshot_id, pin.readable_until, pin.expired) == ("run-17", wanted, LATER, False)
    assert (pin.labels, pin.statement.made_at) == ({"commit": "0a1b", "model": "m1"}, head + 1)
    assert pin.created_at == world.store.log.head().recorded_at
    assert pins.get("run-17") == pin
    longer = pins.extend("run-17", LATER + DAY)
    assert longer.statement.id == pin.statement.id
    assert longer.created_at == pin.created_at
    assert pins.get("run-17").readable_until == LATER + DAY
    pins.delete("run-17")
    with pytest.raises(errors.PinNotFoundError):
        pins.get("run-17")
    assert list(pins.all()) == []
    assert world.store.log.head().position == head + 3
    last = decode_commit(world.store.log.read(head + 3, 1)[0]).items[0]
    assert isinstance(last, Statement)
    assert (last.kind, read_pin(last.payload).deleted) == (Kind.PIN, True)


def test_making_a_pin_can_be_repeated(world: World, pins: LicenseePins) -> None:
    """The same content gives the same pin and no commit, extended or not, other content a conflict."""
    wanted, other = world.snapshot(2), world.snapshot(3)
    first, _ = pins.create("a", wanted, LATER, {"k": "v"})
    head = world.store.log.head()
    assert pins.create("a", wanted, LATER, {"k": "v"}) == (first, False)
    assert world.store.log.head() == head
    longer = pins.extend("a", LATER + DAY)
    assert pins.create("a", wanted, LATER, {"k": "v"}) == (longer, False)
    assert pins.create("a", wanted, LATER + DAY, {"k": "v"}) == (longer, False)
    for content in ((other, LATER, {"k": "v"}), (wanted, LATER + 1, {"k": "v"}), (wanted, LATER, {})):
        with pytest.raises(errors.PinExistsError):
            pins.create("a", *content)


def test_a_name_is_free_once_its_pin_is_deleted_or_expired(
    world: World, pins: LicenseePins, clock: Clock
) -> None:
    """A new pin under an old name is another pin."""
    wanted, other = world.snapshot(2), world.snapshot(3)
    first, _ = pins.create("a", wanted, LATER)
    pins.delete("a")
    second, created = pins.create("a", wanted, LATER)
    assert created
    assert second.statement.id != first.statement.id
    clock.now = LATER
    third, created = pins.create("a", other, LATER + DAY)
    assert created
    assert pins.get("a") == third
    assert [pin.statement.id for pin in pins.all()] == [second.statement.id, third.statement.id]


def test_an_expired_pin_says_so(world: World, pins: LicenseePins, clock: Clock) -> None:
    """From the very microsecond on it is listed as expired, and neither given, extended nor made again."""
    wanted = world.snapshot(2)
    pins.create("a", wanted, LATER)
    clock.now = LATER - 1
    assert not pins.get("a").expired
    clock.now = LATER
    for call in (
        lambda: pins.get("a"),
        lambda: pins.extend("a", LATER + DAY),
        lambda: pins.create("a", wanted, LATER),
    ):
        with pytest.raises(errors.PinExpiredError) as caught:
            call()
        assert caught.value.metadata["snapshot"] == f"sha256:{wanted.hex()}"
    assert [pin.expired for pin in pins.all()] == [True]
    pins.delete("a")
    assert list(pins.all()) == []


def test_a_clock_that_goes_back_revives_nothing(world: World, pins: LicenseePins, clock: Clock) -> None:
    """Now is never before the newest commit."""
    pins.create("a", world.snapshot(2), NOW + DAY)
    clock.now = NOW + 2 * DAY
    pins.create("b", world.snapshot(3), LATER)
    clock.now = NOW
    with pytest.raises(errors.PinExpiredError):
        pins.get("a")


def test_a_licensee_sees_no_pins_of_another(world: World, pins: LicenseePins, clock: Clock) -> None:
    """To others a pin does not exist, whatever they ask; one name may be used by each."""
    wanted = world.snapshot(2)
    acme, zeta = (LicenseePins(world.store, owner, clock=clock) for owner in ("acme", "zeta"))
    acme.create("a", wanted, LATER, {"secret": "plan"})
    for calls in (zeta, pins):
        for call in (calls.get, partial(calls.extend, readable_until=LATER + DAY), calls.delete):
            with pytest.raises(errors.PinNotFoundError) as caught:
                call("a")
            assert caught.value.message == "no pin 'a'"
        assert list(calls.all()) == []
    assert zeta.create("a", wanted, LATER + DAY)[1]
    zeta.delete("a")
    assert acme.get("a").labels == {"secret": "plan"}


def test_pins_are_listed_in_the_order_of_their_making(
    world: World, pins: LicenseePins, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, as it is now, however its statements fall into slices; of a snapshot, or behind a place."""
    a, b = world.snapshot(2), world.snapshot(3)
    made = [pins.create(f"p{n}", b if n % 3 else a, LATER)[0] for n in range(9)]
    for n in (0, 4, 4, 8):
        pins.extend(f"p{n}", pins.get(f"p{n}").readable_until + DAY)
    pins.delete("p5")
    for size in (1, 2, 3, 500):
        monkeypatch.setattr(pins_module, "_SLICE", size)
        assert [pin.name for pin in pins.all()] == [f"p{n}" for n in range(9) if n != 5]
        until = {pin.name: pin.readable_until for pin in pins.all()}
        assert (until["p0"], until["p4"], until["p7"]) == (LATER + DAY, LATER + 2 * DAY, LATER)
        assert [pin.name for pin in pins.all(snapshot_id=a)] == ["p0", "p3", "p6"]
        assert [pin.name for pin in pins.all(after=made[6].statement.made_at)] == ["p7", "p8"]


def test_what_is_no_pin_is_refused(world: World, pins: LicenseePins) -> None:
    """Names, labels and times are checked before anything is stored."""
    wanted = world.snapshot(2)
    head = world.store.log.head()
    for name in ("", "-a", "a b", "a/b", "ä", "a" * 129, "a\n", "../a"):
        with pytest.raises(errors.InvalidArgumentError):
            pins.create(name, wanted, LATER)
    bad: list[dict[str, str]] = [
        {"": "x"}, {"a b": "x"}, {"a" * 64: "x"}, {"a": "x" * 257}, {"a": "\n"}, {"a": "\ud800"},
        {f"k{n}": "" for n in range(33)},
    ]  # fmt: skip
    for labels in bad:
        with pytest.raises(errors.InvalidArgumentError):
            pins.create("a", wanted, LATER, labels)
    for until in (NOW, NOW - DAY, 2**62):
        with pytest.raises(errors.InvalidArgumentError):
            pins.create("a", wanted, until)
    with pytest.raises(errors.SnapshotNotFoundError):
        pins.create("a", bytes(32), LATER)
    assert world.store.log.head() == head
    pins.create("a", wanted, LATER, {"k" * 63: "ß" * 128})
    with pytest.raises(errors.InvalidArgumentError):
        pins.extend("a", LATER - 1)
    pins.delete("b", allow_missing=True)
    with pytest.raises(errors.PinNotFoundError):
        pins.delete("b")


def test_another_writer_in_between_changes_nothing(world: World, pins: LicenseePins) -> None:
    """A commit that comes between reading and writing makes the pin be decided anew."""
    wanted = world.snapshot(2)
    store: Any = world.store
    commit = store.commit
    raced: list[int] = []

    def late(*arguments: Any) -> Outcome:
        if not raced:
            raced.append(1)
            world.add(world.event(1, 4, edit(900, "between")))
        return Outcome(commit(*arguments))

    store.commit = late
    pin, created = pins.create("a", wanted, LATER)
    store.commit = commit
    assert created
    assert pin.statement.made_at == world.store.log.head().position
    assert found(store) == {}


def test_a_rebuilt_store_has_the_same_pins(world: World, pins: LicenseePins, clock: Clock) -> None:
    """The log alone brings them back, row by row, and a check finds nothing."""
    wanted = world.snapshot(2)
    for mine in (pins, LicenseePins(world.store, "acme", clock=clock)):
        for name in ("a", "b", "c"):
            mine.create(name, wanted, LATER, {"n": name})
        mine.extend("a", LATER + DAY)
        mine.delete("b")
        mine.create("b", wanted, LATER)
    assert found(world.store) == {}
    target = MemoryStore()
    rebuild(world.store, target)
    assert_same(world.store, target)
    assert list(LicenseePins(target, clock=clock).all()) == list(pins.all())


# --- what pins hold -----------------------------------------------------------------------------


def test_without_the_option_no_snapshot_is_released(world: World, clock: Clock) -> None:
    """A collection as ever keeps all that a manifest names."""
    world.snapshot(2)
    assert collect(world.store, delete=True, clock=clock).is_none


def test_a_live_pin_holds_its_snapshot(world: World, pins: LicenseePins, clock: Clock) -> None:
    """What no live pin holds is released; a pinned snapshot can be read to the last page."""
    kept, gone = world.snapshot(2), world.snapshot(3)
    pins.create("a", kept, LATER)
    before = [list(world.archive.read(one)) for one in (kept, gone)]
    left = index_of(world.store)
    dry = collect(world.store, unpinned_days=0, clock=clock)
    assert (dry.snapshots, dry.is_none) == (1, False)
    assert dry.nodes > 0
    assert index_of(world.store) == left
    done = collect(world.store, delete=True, unpinned_days=0, clock=clock)
    assert (done.snapshots, counts(done)) == (1, counts(dry))
    assert list(world.archive.read(kept)) == before[0]
    for call in (
        lambda: list(world.archive.read(gone)),
        lambda: list(world.archive.diff(kept, gone)),
        lambda: world.archive.prove(gone, "w", 1),
        lambda: pins.create("late", gone, LATER),
    ):
        with pytest.raises(errors.SnapshotReleasedError):
            call()
    assert world.archive.snapshot(gone).snapshot_id == gone
    assert found(world.store) == {}
    assert collect(world.store, delete=True, unpinned_days=0, clock=clock).is_none
    assert world.snapshot(3) == gone  # made again, it is the same
    assert list(world.archive.read(gone)) == before[1]
    assert pins.create("late", gone, LATER)[1]
    assert found(world.store) == {}


def test_a_deleted_or_expired_pin_holds_nothing(world: World, pins: LicenseePins, clock: Clock) -> None:
    """From then on the next collection takes what it held; another pin of the snapshot still holds it."""
    wanted = world.snapshot(2)
    other = LicenseePins(world.store, "acme", clock=clock)
    pins.create("a", wanted, LATER)
    other.create("b", wanted, LATER + DAY)
    pins.delete("a")
    assert collect(world.store, unpinned_days=0, clock=clock).snapshots == 0
    clock.now = LATER + DAY - 1
    assert collect(world.store, unpinned_days=0, clock=clock).snapshots == 0
    clock.now = LATER + DAY
    assert collect(world.store, delete=True, unpinned_days=0, clock=clock).snapshots == 1
    with pytest.raises(errors.SnapshotReleasedError):
        list(world.archive.read(wanted))


def test_the_pins_of_an_ended_licensee_hold_nothing(world: World, clock: Clock) -> None:
    """Whatever date they bear, for nobody can read them; those of others hold on."""
    agreements = Agreements(world.store, clock=clock)
    agreements.add_licensee(make_licensee("acme", 1))
    wanted = world.snapshot(2)
    LicenseePins(world.store, "acme", clock=clock).create("a", wanted, LATER)
    others = LicenseePins(world.store, "jane", clock=clock)
    others.create("b", wanted, LATER)
    agreements.end_licensee("acme")
    assert collect(world.store, unpinned_days=0, clock=clock).snapshots == 0
    others.delete("b")
    assert collect(world.store, unpinned_days=0, clock=clock).snapshots == 1
    agreements.add_licensee(make_licensee("acme", 1), replace=True)
    assert collect(world.store, unpinned_days=0, clock=clock).snapshots == 0


def test_young_snapshots_are_left_alone(world: World, clock: Clock) -> None:
    """Whoever has just made a snapshot has time to pin it."""
    world.snapshot(2)
    clock.now = NOW + 7 * DAY
    assert collect(world.store, unpinned_days=8, clock=clock).snapshots == 0
    assert collect(world.store, unpinned_days=6, clock=clock).snapshots == 1


def test_nothing_is_derived_from_a_released_snapshot(world: World, clock: Clock) -> None:
    """Some of its nodes may be left by a collection that was killed: they are no base for another."""
    wanted = world.snapshot(2)
    root = world.archive.snapshot(wanted).parts[0].root
    collect(world.store, delete=True, unpinned_days=0, clock=clock)
    world.snapshot(2)
    put(world.store, {keys.released(wanted): bytes(8)})  # released, and nothing but a leaf node is gone
    leaf = next(row for row in rows(world.store, b"N") if row[1][0] == 0)
    put(world.store, {leaf[0]: None})
    assert lacks_nodes(world.store, root)
    near = world.archive.snapshot(world.snapshot(2.5))
    assert not lacks_nodes(world.store, near.parts[0].root)


@pytest.mark.parametrize("what", ["pin", "snapshot"])
def test_what_is_held_while_garbage_is_collected_is_kept(
    world: World, pins: LicenseePins, clock: Clock, what: str
) -> None:
    """A pin, or a snapshot made again, between the decision and any deletion is noticed."""
    wanted = world.snapshot(2)
    store: Any = world.store
    rewrite = store.rewrite
    outcomes: list[str] = []

    def late(changes: Any) -> list[bool]:
        store.rewrite = rewrite
        try:
            if what == "pin":
                pins.create("a", wanted, LATER)
            else:
                list(rewrite(changes))
                world.snapshot(2)
                outcomes.append("made again")
                return [True]
        finally:
            store.rewrite = rewrite
        outcomes.append("pinned")
        return list(rewrite(changes))

    store.rewrite = late
    collect(store, delete=True, unpinned_days=0, clock=clock)
    store.rewrite = rewrite
    assert outcomes
    assert list(world.archive.read(wanted))
    assert found(store) == {}


# --- statements ---------------------------------------------------------------------------------


@given(
    st.text(max_size=5),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    st.binary(min_size=16, max_size=16),
    st.dictionaries(
        st.sampled_from(["a", "b", "C9"]), st.text(st.characters(min_codepoint=0x20), max_size=9)
    ),
    st.integers(-(2**40), 2**50),
    st.integers(1, 2**63 - 1),
    st.booleans(),
)
def test_statements_are_read_back(
    owner: str,
    name: str,
    id_: bytes,
    labels: dict[str, str],
    until: int,
    made_at: int,
    deleted: bool,  # noqa: FBT001
) -> None:
    """What is written is read as it was; what would be written in another way is refused."""
    try:
        pin = make_pin(owner, name, id_, bytes(32), labels, until, made_at, deleted=deleted)
    except errors.InvalidArgumentError:
        return
    assert read_pin(pin.encoded) == pin
    for other in (pin.encoded + b" ", pin.encoded.replace(b'"id"', b'"ID"'), b"[]", b"{}", b"\xff"):
        with pytest.raises(errors.InvalidArgumentError):
            read_pin(other)


def test_damage_is_found() -> None:
    """A lost, foreign or unreadable row or statement of a pin is told for what it is."""

    def made() -> tuple[MemoryStore, LicenseePins]:
        store = MemoryStore()
        world = World(store)
        world.add(world.event(1, 1, edit(1, "x")))
        pins = LicenseePins(store, clock=lambda: NOW)
        pins.create("a", world.snapshot(2), LATER)
        return store, pins

    store, pins = made()
    put(store, {rows(store, b"O")[0][0]: None})
    assert found(store) == {"row-missing": 1}
    with pytest.raises(errors.DataLossError):
        pins.get("a")
    store, pins = made()
    key = rows(store, b"O")[0][0]
    put(store, {key: canonical_json({})})
    assert found(store) == {"row-wrong": 1}
    with pytest.raises(errors.DataLossError):
        pins.get("a")
    store, _ = made()
    put(store, {key[:-1] + b"\1": b"{}", keys.pin_name("z", "z", 1): b"", keys.released(bytes(32)): bytes(8)})
    assert found(store) == {"row-orphan": 3}
    store, _ = made()
    at = position_of(store, Kind.PIN)
    relog(store, at, lambda one: type(one)(**{**_fields(one), "items": (Statement(Kind.PIN, b"{}"),)}))
    assert found(store)["log-statement"] == 1
    assert blobs_of(store)


def _fields(commit: Any) -> dict[str, Any]:
    return {name: getattr(commit, name) for name in ("position", "recorded_at", "parent", "project", "items")}
