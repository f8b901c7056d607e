"""The order of training for Hugging Face ``datasets``: an ``IterableDataset`` with a state.

Needs the extra ``datasets``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recension.model.errors import ExtraMissingError
from recension_client.loaders.order import Share, State
from recension_client.loaders.samples import COLUMNS, Sample, Source, check_root, walk

try:
    from datasets import DatasetInfo, Features, IterableDataset, Value

    # No public class keeps a state of one's own: what `IterableDataset.from_generator` makes goes on by
    # generating all samples from the first, and leaves out those that were taken. The tests run against the
    # library itself, so a release that renames this one is noticed.
    from datasets.iterable_dataset import _BaseExamplesIterable
except ModuleNotFoundError:
    raise ExtraMissingError(
        "this loader needs datasets, which is not installed", hint="pip install 'recension[datasets]'"
    ) from None

_INTEGERS = {"page_id": "int64", "rev_id": "int64", "namespace": "int32"}
_SHARDS = 720_720
"""What the library may hand out to nodes and workers: shared evenly among any number of them up to 16."""


def dataset(
    source: Source, start: State | None = None, *, rank: int = 0, world: int = 1, until: int | None = None
) -> IterableDataset:
    """Return the samples of a rank in the order of training, from ``start`` on.

    ``state_dict`` of what is returned has the three numbers under ``examples_iterable``. ``until``: the
    first epoch that an iteration does not go on to, else the one after that of ``start``. The order is what
    ``start`` says, so ``set_epoch`` and the shuffling of the shards change nothing.
    """
    features = Features({name: Value(_INTEGERS.get(name, "string")) for name in COLUMNS})
    examples = _Examples(source, start or State(), Share(rank, world), until)
    return IterableDataset(examples, info=DatasetInfo(features=features))


class _Examples(_BaseExamplesIterable):  # type: ignore[misc] # the library has no types that are checked
    def __init__(self, source: Source, start: State, share: Share, until: int | None) -> None:
        super().__init__()
        self._source = source
        self._start = start
        self._share = share
        self._until = until

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        order, share, until = self._source.order, self._share, self._until
        start = self._start
        if self._state_dict:
            check_root(self._source, self._state_dict)
            start = State.of(self._state_dict)
        for had, (place, sample) in enumerate(walk(self._source, start, share, until=until), 1):
            if self._state_dict:
                self._state_dict.update(order.reached(start, share, had, until=until)[0].numbers)
            yield f"{place.epoch}-{place.seen}", sample

    def _init_state_dict(self) -> dict[str, Any]:
        self._state_dict = {"root": self._source.order.root.hex(), **self._start.numbers}
        return self._state_dict

    def shuffle_data_sources(self, generator: object) -> _Examples:  # noqa: ARG002 - the library's shape
        """Return itself: it is shuffled."""
        return self

    def reshard_data_sources(self) -> _Examples:
        """Return itself: a share can be cut into any number of shares."""
        return self

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> _Examples:  # noqa: ARG002, FBT001, FBT002 - the library's shape
        """Return a share of this share: turns are taken sample by sample."""
        rank, world = self._share.rank, self._share.world
        share = Share(rank + world * index, world * num_shards)
        return _Examples(self._source, self._start, share, self._until)

    @property
    def num_shards(self) -> int:
        """Return into how many shares the library may cut it."""
        return _SHARDS
