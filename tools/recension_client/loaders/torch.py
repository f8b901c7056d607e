"""The order of training for torch: an ``IterableDataset`` with a state. Needs the extra ``torch``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from recension.model.errors import ExtraMissingError, InvalidArgumentError
from recension_client.loaders.order import Share, State
from recension_client.loaders.samples import Sample, Source, check_root, walk

try:
    import torch
    from torch import distributed
    from torch.utils.data import IterableDataset, get_worker_info
except ModuleNotFoundError:
    raise ExtraMissingError(
        "this loader needs torch, which is not installed", hint="pip install 'recension[torch]'"
    ) from None


class Samples(IterableDataset[Sample]):  # type: ignore[misc] # torch is not there for every type check
    """A snapshot's samples in the order of training, for one rank and the workers of its ``DataLoader``.

    Every iteration begins at ``state``, which ``set_epoch`` and ``load_state_dict`` move.
    """

    def __init__(
        self,
        source: Source,
        *,
        seed: int = 0,
        batch: int = 1,
        rank: int | None = None,
        world: int | None = None,
        until: int | None = None,
    ) -> None:
        """``batch``: the ``batch_size`` of the ``DataLoader``.

        With it, batches come in the one order whatever the number of workers; with another, no sample is
        lost or repeated, but batches are made of others. ``rank`` and ``world``: else those of
        ``torch.distributed`` where it is initialised. ``until``: the first epoch that an iteration does not
        go on to, else the next.
        """
        known = distributed.is_available() and distributed.is_initialized()
        if (rank is None) != (world is None):
            raise InvalidArgumentError("rank and world are given together", field="rank")
        self.source = source
        self._share = Share(
            rank if rank is not None else distributed.get_rank() if known else 0,
            world if world is not None else distributed.get_world_size() if known else 1,
            batch=batch,
        )
        self._until = until
        # Shared, so that workers that stay from one iteration to the next learn where it begins.
        self._start = torch.tensor([State(seed).seed, 0, 0], dtype=torch.int64).share_memory_()
        self._own_start: tuple[State, int] | None = None
        self._reached: tuple[State, int] | None = None

    @property
    def state(self) -> State:
        """Where the next iteration begins."""
        return State(*map(int, self._start.tolist()))

    def set_epoch(self, epoch: int) -> None:
        """Begin with an epoch; its place is kept if it is the one that ``state`` is in."""
        if epoch != self.state.epoch:
            self._begin(State(self.state.seed, epoch))

    def _begin(self, state: State) -> None:
        self._start.copy_(torch.tensor(list(state.numbers.values()), dtype=torch.int64))
        self._reached = None

    def __iter__(self) -> Iterator[Sample]:
        share, info = self._share, get_worker_info()
        if info is not None:
            share = Share(share.rank, share.world, info.id, info.num_workers, share.batch)
        order, until = self.source.order, self._until
        start, had = self._own_start or (self.state, 0)
        self._own_start, self._reached = None, (start, had)
        for _, sample in walk(self.source, start, share, until=until, had=had):
            had += 1
            self._reached = order.reached(start, share, had, until=until)
            yield sample
        if info is None:
            self._reached = order.reached(start, share, had, until=until, ended=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the state behind the sample that was given out last by an iteration of this process.

        Workers give out samples of their own: ``state_after`` says where a ``DataLoader`` with workers is.
        """
        return self._document(*(self._reached or (self.state, 0)))

    def state_after(self, batches: int) -> dict[str, Any]:
        """Return the state when that many batches came from an iteration, on each rank as many."""
        had = batches * self._share.batch
        return self._document(*self.source.order.reached(self.state, self._share, had, until=self._until))

    def _document(self, state: State, ahead: int) -> dict[str, Any]:
        return {"root": self.source.order.root.hex(), **state.numbers, "ahead": ahead}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Begin where a state was taken: of any rank, in any world. Raises ``ForeignStateError``.

        In a worker, where a ``StatefulDataLoader`` hands each its own, for the next iteration alone.
        """
        check_root(self.source, state_dict)
        state = State.of(state_dict)
        if get_worker_info() is None:
            self._begin(state)
        else:
            self._own_start = state, int(state_dict.get("ahead", 0))
