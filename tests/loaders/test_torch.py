"""The order of training in torch itself: batches, workers, states, changes of both."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest

from recension.model import errors
from recension_client.loaders import Share, Source, State, walk
from tests.loaders.conftest import PAGES, Corpus

WHY = "THE TORCH LOADER IS NOT TESTED: no CPU build of torch in reach, see tools/scripts/torch_cpu.sh"
torch = pytest.importorskip("torch", reason=WHY)
pytest.importorskip("torchdata", reason=WHY)

from torch import distributed  # noqa: E402 - where there is torch
from torch.utils.data import DataLoader  # noqa: E402
from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: E402

from recension_client.loaders.torch import Samples  # noqa: E402

BATCH = 8

pytestmark = [
    # The order does not depend on how many processors there are.
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    # torchdata asks torch for something that it wishes not to be asked for.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]

# One process imports torch for all workers of all tests; they are its forks.
multiprocessing.set_forkserver_preload(["recension_client.loaders.torch"])


def ids(batch: Iterable[Any]) -> list[int]:
    return [sample["rev_id"] for sample in batch]


def expected(source: Source, start: State, share: Share = Share(), until: int | None = None) -> list[int]:  # noqa: B008 - a value
    return ids(sample for _, sample in walk(source, start, share, until=until))


def batched(numbers: list[int], size: int = BATCH) -> list[list[int]]:
    return [numbers[at : at + size] for at in range(0, len(numbers), size)]


def loader(samples: Samples, workers: int = 0, kind: Any = DataLoader, **options: Any) -> Any:
    options = {"batch_size": BATCH, "collate_fn": list} | options
    if workers:
        options |= {"num_workers": workers, "multiprocessing_context": "forkserver"}
    return kind(samples, **options)


def test_a_loader_gives_the_order(corpus: Corpus) -> None:
    """Alone and with workers, over gRPC and from files: the same batches in the same order."""
    whole = batched(expected(corpus.unpacked, State(5)))
    assert len(whole) == PAGES / BATCH
    for source, workers in ((corpus.unpacked, 0), (corpus.unpacked, 3), (corpus.served, 2)):
        samples = Samples(source, seed=5, batch=BATCH)
        assert whole == [ids(batch) for batch in loader(samples, workers)]


def test_a_training_goes_on_in_another_world(corpus: Corpus) -> None:
    """Three ranks stop in the middle, one with workers goes on, then four: they had the order once."""
    source = corpus.unpacked
    whole = expected(source, State(1))

    def take(state: dict[str, Any] | None, world: int, workers: int, batches: int) -> dict[str, Any]:
        nonlocal whole
        had, after = [], []
        for rank in range(world):
            samples = Samples(source, seed=1, batch=BATCH, rank=rank, world=world)
            if state is not None:
                samples.load_state_dict(state)
            had += [ids(batch) for batch in islice(loader(samples, workers), batches)]
            after.append(samples.state_after(batches))
            if not workers:
                assert samples.state_dict() == after[-1]
        count = world * batches * BATCH
        assert sorted(number for batch in had for number in batch) == sorted(whole[:count])
        whole = whole[count:]
        assert all(one == after[0] for one in after)
        return after[0]

    state = take(None, 3, 0, 4)
    assert (State(1, 0, 96), source.order.root.hex()) == (State.of(state), state["root"])
    state = take(state, 1, 2, 5)
    state = take(state, 4, 0, 6)
    assert (State(1, 0, 328), 72) == (State.of(state), len(whole))


def test_epochs(corpus: Corpus) -> None:
    """Workers that stay learn of the next epoch; a state in its middle is kept for it alone."""
    source = corpus.unpacked
    samples = Samples(source, seed=2, batch=BATCH)
    samples.load_state_dict({"root": source.order.root.hex()} | State(2, 1, 360).numbers)
    batches = loader(samples, 2, persistent_workers=True)
    for epoch in range(samples.state.epoch, 4):
        samples.set_epoch(epoch)
        begin = State(2, epoch, 360 if epoch == 1 else 0)
        assert begin == samples.state
        assert batched(expected(source, begin)) == [ids(batch) for batch in batches]
    through = Samples(source, seed=2, batch=BATCH, until=2)
    assert batched(expected(source, State(2, 0), until=2)) == [ids(batch) for batch in loader(through)]
    assert State(2, 2, 0) == State.of(through.state_dict())


def test_the_end_of_an_epoch_is_the_same_on_all_ranks(corpus: Corpus) -> None:
    """Also where some had a sample more than others."""
    source = corpus.unpacked
    ends = []
    for rank in range(3):
        samples = Samples(source, rank=rank, world=3)
        assert len(list(samples)) == (134 if rank == 0 else 133)
        ends.append(State.of(samples.state_dict()))
    assert [State(0, 0, PAGES)] * 3 == ends
    over = Samples(source)
    over.load_state_dict({"root": source.order.root.hex()} | ends[0].numbers)
    assert [] == list(over)


@pytest.mark.parametrize("workers,batch", [(0, BATCH), (2, BATCH), (2, 3)])
def test_a_stateful_loader_goes_on(corpus: Corpus, workers: int, batch: int) -> None:
    """Its own checkpoint, with a state of each worker, also where batches are none of ours."""
    source = corpus.unpacked

    def fresh() -> Any:
        return loader(Samples(source, seed=9, batch=batch), workers, StatefulDataLoader)

    first = fresh()
    whole = [ids(each) for each in first]
    assert sorted(expected(source, State(9))) == sorted(number for each in whole for number in each)
    for stop in (7, len(whole)):
        begun = fresh()
        had = [ids(each) for each in islice(begun, stop)]
        state = begun.state_dict()
        again = fresh()
        again.load_state_dict(state)
        assert whole == had + [ids(each) for each in again]


def test_a_foreign_state_is_refused(corpus: Corpus) -> None:
    """A checkpoint of another corpus would give another order unnoticed."""
    samples = Samples(corpus.unpacked)
    state = samples.state_dict()
    samples.load_state_dict(state)
    for wrong in (state | {"root": "00" * 32}, {key: state[key] for key in ("seed", "epoch", "seen")}):
        with pytest.raises(errors.ForeignStateError):
            samples.load_state_dict(wrong)
    with pytest.raises(errors.InvalidArgumentError):
        samples.load_state_dict(state | {"seen": -1})
    with pytest.raises(errors.InvalidArgumentError):
        Samples(corpus.unpacked, rank=1)


@contextmanager
def ranked(rank: int, world: int) -> Iterator[None]:
    """Be a rank of a group whose others say nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: PLC0415 - registers the backend

    distributed.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def test_the_rank_is_that_of_torch(corpus: Corpus) -> None:
    """Where torch.distributed is initialised and nothing else is said."""
    with ranked(2, 3):
        assert expected(corpus.unpacked, State(), Share(2, 3)) == ids(Samples(corpus.unpacked))
        assert expected(corpus.unpacked, State()) == ids(Samples(corpus.unpacked, rank=0, world=1))
