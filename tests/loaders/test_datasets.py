"""The order of training in Hugging Face datasets itself."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node

from recension.model import errors
from recension_client.loaders import COLUMNS, Share, State, walk
from recension_client.loaders.datasets import dataset
from tests.loaders.conftest import PAGES, Corpus

START = State(4, 1, 30)


def test_a_dataset_gives_the_order(corpus: Corpus) -> None:
    """With the columns and their types, over gRPC and from files."""
    expected = [sample for _, sample in walk(corpus.unpacked, START)]
    for source in (corpus.unpacked, corpus.served):
        made = dataset(source, START)
        assert isinstance(made, IterableDataset)
        assert list(COLUMNS) == made.column_names
        assert "int64" == made.features["rev_id"].dtype
        assert expected == list(made)


def test_a_state_is_where_the_order_is(corpus: Corpus) -> None:
    """It goes through JSON, and says the three numbers from which any other loader goes on."""
    made = dataset(corpus.unpacked, START, rank=1, world=2)
    expected = list(made)
    taken = list(islice(made, 50))
    state = json.loads(json.dumps(made.state_dict()))
    again = dataset(corpus.unpacked, START, rank=1, world=2)
    again.load_state_dict(state)
    assert expected == taken + list(again)
    reached = State.of(state["examples_iterable"])
    assert reached == State(4, 1, 130)
    ((place, _),) = islice(walk(corpus.unpacked, reached), 1)
    assert place == reached


def test_what_is_made_of_a_dataset_goes_on_too(corpus: Corpus) -> None:
    """The library's own ways keep the order and the state: map, filter, batches, an epoch that is set."""

    def derived() -> IterableDataset:
        rows = dataset(corpus.unpacked, START).map(lambda row: {"length": len(row["text"] or "")})
        rows = rows.filter(lambda row: row["length"] % 2 == 0).select_columns(["rev_id", "length"])
        rows.set_epoch(3)
        return rows

    expected = [
        {"rev_id": sample["rev_id"], "length": len(sample["text"] or "")}
        for _, sample in walk(corpus.unpacked, START)
        if len(sample["text"] or "") % 2 == 0
    ]
    first = derived()
    taken = list(islice(first, 40))
    again = derived()
    again.load_state_dict(first.state_dict())
    assert expected == taken + list(again)


def test_nodes_and_workers_share_it(corpus: Corpus) -> None:
    """Whatever the library cuts it into, the shares are those of ranks, and together the whole."""
    nodes = [split_dataset_by_node(dataset(corpus.unpacked).reshard(), rank, 3) for rank in range(3)]
    for rank, node in enumerate(nodes):
        assert [sample for _, sample in walk(corpus.unpacked, State(), Share(rank, 3))] == list(node)
    shares = [node.shard(4, index, contiguous=False) for node in nodes for index in range(4)]
    had = [row["rev_id"] for share in shares for row in share]
    assert sorted(had) == sorted(sample["rev_id"] for _, sample in walk(corpus.unpacked, State()))


def test_a_foreign_state_is_refused(corpus: Corpus) -> None:
    """A checkpoint of another corpus would give another order unnoticed."""
    made = dataset(corpus.unpacked)
    state = made.state_dict()
    state["examples_iterable"]["root"] = "00" * 32
    made.load_state_dict(state)
    with pytest.raises(errors.ForeignStateError):
        next(iter(made))
    assert PAGES == len(list(dataset(corpus.unpacked)))
