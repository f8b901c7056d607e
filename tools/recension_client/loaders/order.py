"""The order of training: which page comes when, as a pure function of (root, seed, epoch).

Any place of the order is found in constant time and memory, so a run goes on anywhere, on any number of
machines and workers. ``docs/loaders.md`` has the order to the byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from math import isqrt
from typing import Self

from recension.model.errors import InvalidArgumentError
from recension.model.manifest import Manifest

_TAG = b"recension/order/v1\0"
_HEAD = struct.Struct(">QQ")
_PART = struct.Struct(">Q32s")
_NUMBER = struct.Struct(">Q")
_ROUNDS = 6
_KEY_BYTES = 16
_MAX_NUMBER = 2**63
"""Where counting ends: beyond it nothing stores a number as one."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a run is: three numbers, the same for all its ranks and workers."""

    seed: int = 0
    epoch: int = 0
    seen: int = 0
    """Samples of the epoch that came before, on all ranks together."""

    def __post_init__(self) -> None:
        """Refuse what is no place of any order. Raises ``InvalidArgumentError``."""
        for name in ("seed", "epoch", "seen"):
            _check_number(name, getattr(self, name))

    @classmethod
    def of(cls, numbers: Mapping[str, object]) -> Self:
        """Read what ``numbers`` returned. Raises ``InvalidArgumentError``."""
        if not {"seed", "epoch", "seen"} <= numbers.keys():
            raise InvalidArgumentError("a state has seed, epoch and seen", field="state")
        found = {name: _check_number(name, numbers[name]) for name in ("seed", "epoch", "seen")}
        return cls(**found)

    @property
    def numbers(self) -> dict[str, int]:
        """The three numbers by their names, for a checkpoint."""
        return {"seed": self.seed, "epoch": self.epoch, "seen": self.seen}


def _check_number(name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise InvalidArgumentError(
            f"{name}: {str(value)[:80]} is not a number from 0 to 2^63-1", field=name, value=str(value)[:80]
        )
    return value


@dataclass(frozen=True, slots=True)
class Share:
    """What one reader gets of an order: the samples of its rank, and of these the batches of its worker.

    Ranks take turns sample by sample, so after as many samples on each rank as on any other, what all have
    had together is a piece of the order without holes. Workers of a rank take turns batch by batch, as a
    torch ``DataLoader`` asks them.
    """

    rank: int = 0
    world: int = 1
    """Number of ranks."""
    worker: int = 0
    workers: int = 1
    """Number of workers of each rank."""
    batch: int = 1
    """Samples that a worker has in one turn."""

    def __post_init__(self) -> None:
        """Refuse a share of nothing. Raises ``InvalidArgumentError``."""
        for name, number, count in (("rank", self.rank, self.world), ("worker", self.worker, self.workers)):
            if not 0 <= number < count:
                raise InvalidArgumentError(
                    f"no {name} {number} of {count}", hint="they are counted from 0", field=name
                )
        if self.batch < 1:
            raise InvalidArgumentError(f"a batch of {self.batch} samples", field="batch", value=self.batch)

    def sample(self, n: int) -> int:
        """Return how many samples of the order come before the share's ``n``-th, counted from 0."""
        turn, within = divmod(n, self.batch)
        return self.rank + self.world * (self.batch * (self.workers * turn + self.worker) + within)


ALL = Share()


class Order:
    """The order of a snapshot's samples, for every seed and epoch. Safe for concurrent use."""

    def __init__(self, root: bytes, count: int) -> None:
        """``root``: 32 bytes, which the order is derived from; ``count``: samples of an epoch."""
        self.root = root
        self.count = count

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return the order of a snapshot. Its root is the project's; that of several is made of theirs."""
        roots = [part.root for part in manifest.parts]
        if len(roots) > 1:
            parts = b"".join(_PART.pack(part.count, part.root) for part in manifest.parts)
            roots = [sha256(_TAG + parts).digest()]
        return cls(roots[0], sum(part.count for part in manifest.parts))

    def index(self, state: State) -> int:
        """Return the sample at a place of the order: its index in the snapshot, from 0 on."""
        if not state.seen < self.count:
            raise InvalidArgumentError(
                f"an epoch has {self.count:,} samples, there is none behind {state.seen:,}", field="seen"
            )
        return permutation(self.root, self.count, state.seed, state.epoch)(state.seen)

    def walk(
        self, start: State, share: Share = ALL, *, until: int | None = None, had: int = 0
    ) -> Iterator[State]:
        """Yield the places of a share, from ``start`` on.

        ``until``: the first epoch that is not gone through any more; else the walk ends with the epoch of
        ``start``. From one epoch to the next there is no seam: turns and batches go on. ``had``: places of
        the share that are left out at the beginning.
        """
        first, end = self._span(start, until)
        while (place := first + share.sample(had)) < end:
            yield State(start.seed, *divmod(place, self.count))
            had += 1

    def reached(
        self, start: State, share: Share, had: int, *, until: int | None = None, ended: bool = False
    ) -> tuple[State, int]:
        """Return where a share that had ``had`` places since ``start`` goes on: (a start, places had since).

        The latter is 0 at the end of a batch, and always without workers; then, when all shares had as many,
        the start is that of every other one too, of any kind. ``ended``: the walk is over.
        """
        first, end = self._span(start, until)
        turn = share.batch if share.workers > 1 else 1
        place = first + share.world * share.workers * (had - had % turn)
        place = end if ended else min(place, end)
        if (
            until is None or not self.count
        ):  # an epoch that is over is not the next one, which was not asked for
            return State(start.seed, start.epoch, place - start.epoch * self.count), had % turn
        return State(start.seed, *divmod(place, self.count)), had % turn

    def _span(self, start: State, until: int | None) -> tuple[int, int]:
        """Return the places of ``start`` and of the end of a walk, counted from the first epoch on."""
        end = self.count * (start.epoch + 1 if until is None else until)
        return start.epoch * self.count + start.seen, end


class Permutation:
    """One epoch's order: each number below ``count`` goes to one of its own.

    A Feistel network over two digits, ``left`` of base ``a`` and ``right`` of base ``b``, with ``a * b``
    just not below ``count``: what falls beyond it is sent through again. No closeness of the snapshot is
    left: neighbours come as far apart as any two. Of fewer than some ten samples, some orders are likelier
    than others.
    """

    def __init__(self, key: bytes, count: int) -> None:
        """``count``: at least 1."""
        self._count = count
        self._a = isqrt(count - 1) + 1
        self._b = -(-count // self._a)
        keys = [sha256(key + bytes([number])).digest()[:_KEY_BYTES] for number in range(_ROUNDS)]
        self._rounds = list(zip(keys[::2], keys[1::2], strict=True))

    def __call__(self, number: int) -> int:
        """Return where a number below ``count`` goes."""
        a, b = self._a, self._b
        while True:
            left, right = divmod(number, b)
            for one, other in self._rounds:
                left = (left + _mixed(one, right)) % a
                right = (right + _mixed(other, left)) % b
            number = left * b + right
            if number < self._count:
                return number


def _mixed(key: bytes, digit: int) -> int:
    return int.from_bytes(sha256(key + _NUMBER.pack(digit)).digest()[:8], "big")


@lru_cache(maxsize=4)
def permutation(root: bytes, count: int, seed: int, epoch: int) -> Permutation:
    """Return the order of an epoch."""
    return Permutation(sha256(_TAG + root + _HEAD.pack(seed, epoch)).digest(), count)
