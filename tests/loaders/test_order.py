"""The order of training: what it is, and that no change of ranks and workers repeats or loses a sample."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice, zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model.errors import InvalidArgumentError
from recension.model.manifest import AsOf, ProjectPart, Selector, make_manifest
from recension.model.tree import EMPTY_ROOT
from recension_client.loaders import Order, Share, State

ROOT = bytes(range(32))

Stage = tuple[int, int, int, int]
"""Ranks, workers of each, samples of a batch, batches that each rank takes before the run is stopped."""

stages = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 4), st.integers(1, 6), st.integers(0, 7)), max_size=6
)


def batches(order: Order, start: State, stage: Stage, rank: int, until: int | None) -> Iterator[list[State]]:
    """Yield what a torch ``DataLoader`` makes of the walks of its workers: a batch of each in turn."""
    world, workers, size, _ = stage
    walks = [
        order.walk(start, Share(rank, world, worker, max(1, workers), size), until=until)
        for worker in range(max(1, workers))
    ]
    turns = ([list(islice(walk, size)) for _ in range(order.count * 3 + 1)] for walk in walks)
    for each in chain.from_iterable(zip_longest(*turns)):
        if each:
            yield each


def run(order: Order, stages: list[Stage], until: int | None) -> tuple[list[list[State]], State]:
    """Go through stages, each from the state that the one before has left; the samples in the order taken."""
    state, taken = State(7), []
    for stage in stages:
        world, _, size, steps = stage
        had = [list(islice(batches(order, state, stage, rank, until), steps)) for rank in range(world)]
        taken += [list(chain.from_iterable(step)) for step in zip_longest(*had, fillvalue=[])]
        # Any rank knows where all are, by the steps alone.
        ends = {
            order.reached(state, Share(rank, world, batch=size), steps * size, until=until)
            for rank in range(world)
        }
        ((state, ahead),) = ends
        assert ahead == 0
    return taken, state


@given(count=st.integers(0, 60), stages=stages, until=st.sampled_from([None, 1, 3]))
def test_no_change_of_ranks_and_workers_repeats_or_loses(
    count: int, stages: list[Stage], until: int | None
) -> None:
    """Whatever runs the stages of a training, all of them together go through the one order."""
    order = Order(ROOT, count)
    whole = list(order.walk(State(7), until=until))
    taken, state = run(order, stages, until)
    rest = list(order.walk(state, until=until))
    assert len(whole) == len(list(chain.from_iterable(taken))) + len(rest)
    at = 0
    for step in taken:
        assert set(step) == set(whole[at : at + len(step)])
        at += len(step)
    assert rest == whole[at:]


@given(count=st.integers(1, 60), world=st.integers(1, 5), workers=st.integers(1, 4), size=st.integers(1, 6))
def test_workers_do_not_change_the_batches_of_a_rank(count: int, world: int, workers: int, size: int) -> None:
    """A rank gets the same batches in the same order from any number of workers."""
    order = Order(ROOT, count)
    for rank in range(world):
        alone = list(batches(order, State(1), (world, 0, size, 0), rank, 2))
        assert alone == list(batches(order, State(1), (world, workers, size, 0), rank, 2))


@given(st.data())
def test_a_worker_goes_on_where_it_was(data: st.DataObject) -> None:
    """What one worker says that it reached is where the same worker goes on, also inside a batch."""
    order = Order(ROOT, data.draw(st.integers(0, 60)))
    world, workers = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    rank, worker = data.draw(st.integers(0, world - 1)), data.draw(st.integers(0, workers - 1))
    share = Share(rank, world, worker, workers, data.draw(st.integers(1, 5)))
    start = State(3, 0, data.draw(st.integers(0, order.count)))
    until = data.draw(st.sampled_from([None, 2]))
    whole = list(order.walk(start, share, until=until))
    for had in range(len(whole) + 1):
        state, ahead = order.reached(start, share, had, until=until, ended=had == len(whole))
        assert whole[had:] == list(order.walk(state, share, until=until, had=ahead))


@given(count=st.integers(1, 300), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**63 - 1))
def test_an_epoch_has_every_sample_once(count: int, seed: int, epoch: int) -> None:
    """Each index of the snapshot has one place."""
    order = Order(ROOT, count)
    assert list(range(count)) == sorted(order.index(State(seed, epoch, seen)) for seen in range(count))


def test_places_of_a_large_corpus_are_found_at_once() -> None:
    """Nothing is made of the samples before: any place of 2^62 is asked for, and no two give one sample."""
    order = Order(ROOT, 2**62)
    places = [*range(100), *range(2**61, 2**61 + 100), *range(2**62 - 100, 2**62)]
    assert len({order.index(State(0, 5, seen)) for seen in places}) == len(places)


def test_seeds_epochs_and_roots_give_other_orders() -> None:
    """Neighbours in any of the three agree in about as many places as chance has it: one."""
    count = 2_000
    base = Order(ROOT, count)

    def shown(order: Order, seed: int, epoch: int) -> list[int]:
        return [order.index(State(seed, epoch, seen)) for seen in range(count)]

    first = shown(base, 1, 1)
    other_root = Order(bytes(32), count)
    for other in (shown(base, 2, 1), shown(base, 1, 2), shown(base, 1, 0), shown(other_root, 1, 1)):
        assert sum(a == b for a, b in zip(first, other, strict=True)) < 12


def test_each_sample_comes_at_each_place_about_as_often() -> None:
    """Over 4,000 seeds a sample of 12 is at a place 333 times; 5.5 standard deviations are 96."""
    order = Order(ROOT, 12)
    seen = Counter((at, order.index(State(seed, 0, at))) for seed in range(4_000) for at in range(12))
    assert len(seen) == 144
    assert all(abs(times - 333) < 96 for times in seen.values())


def test_neighbours_come_apart() -> None:
    """Samples next to each other in the snapshot are as far apart in the order as any two: a third of it."""
    count = 5_000
    order = Order(ROOT, count)
    place = {order.index(State(0, 0, seen)): seen for seen in range(count)}
    mean = sum(abs(place[index] - place[index + 1]) for index in range(count - 1)) / (count - 1)
    assert abs(mean / count - 1 / 3) < 0.03


def test_the_order_is_what_it_was() -> None:
    """A training that goes on with another release goes on in the same order."""
    assert [2, 1, 3, 4, 5, 8, 6, 0, 9, 7] == [Order(ROOT, 10).index(State(1, 2, seen)) for seen in range(10)]
    order = Order(ROOT, 6_800_000)
    assert [3482344, 983357, 4981303, 910559] == [order.index(State(42, 0, seen)) for seen in range(4)]


def test_the_order_of_several_projects_depends_on_all() -> None:
    """One project's order is its root's; that of several changes with each of them."""

    def of(*parts: ProjectPart) -> Order:
        selector = Selector.of([part.project for part in parts])
        return Order.of(make_manifest(selector, AsOf(1, 1), parts))

    one = ProjectPart("a", 3, 30, ROOT)
    two = ProjectPart("b", 2, 20, bytes(32))
    assert (of(one).root, of(one).count) == (ROOT, 3)
    both = of(one, two)
    assert both.count == 5
    empty = ProjectPart("c", 0, 0, EMPTY_ROOT)
    others = [of(one), of(two), of(one, ProjectPart("b", 2, 20, ROOT)), of(one, two, empty)]
    assert both.root not in {other.root for other in others}


def test_a_state_is_three_numbers() -> None:
    """They survive a checkpoint as JSON; what is no state is refused by name."""
    state = State(1, 2, 3)
    assert state == State.of(json.loads(json.dumps(state.numbers)))
    for wrong in (
        {"seed": 1, "epoch": 2},
        {"seed": 1, "epoch": 2, "seen": "3"},
        {"seed": True, "epoch": 2, "seen": 3},
    ):
        with pytest.raises(InvalidArgumentError):
            State.of(wrong)
    for seed, epoch, seen in ((-1, 0, 0), (0, 2**63, 0), (0, 0, -1)):
        with pytest.raises(InvalidArgumentError):
            State(seed, epoch, seen)
    with pytest.raises(InvalidArgumentError, match="behind 10"):
        Order(ROOT, 10).index(State(0, 0, 10))


@pytest.mark.parametrize("share", [(2, 2), (-1, 1), (0, 0), (0, 1, 3, 3), (0, 1, 0, 1, 0)])
def test_a_share_of_nothing_is_refused(share: tuple[int, ...]) -> None:
    """Ranks and workers are counted from 0, and a batch has a sample."""
    with pytest.raises(InvalidArgumentError):
        Share(*share)
