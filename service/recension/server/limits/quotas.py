"""What licensees were served, by UTC day and month: durable, and never too little.

What is about to be served is *reserved* first: added to what was used, durably, in blocks, before the bytes
leave. When a block is *settled*, what was not served of it is taken off again. A process that is killed
settles nothing, so the block that it held counts as used, and is told as *lost*. At any time::

    delivered <= used <= delivered + what running calls have in hand + one block for each process

Blocks shrink as a quota comes to its end, down to the very article that is asked for.
"""

from __future__ import annotations

import secrets
import struct
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from recension.model.agreement import Quotas as Limits
from recension.model.errors import QuotaExhaustedError
from recension.model.instant import format_instant
from recension.server.limits.processes import PROCESS_BYTES, is_alive, this_process
from recension.store.counters import QUOTAS, Cells, Counters
from recension.wire.status import RETRY_DELAY, SUBJECT

_SHARES = 8
"""A block is at most this part of what is left, so that others find some of it too."""
_HELD_RETRY_SECONDS = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_AMOUNTS = struct.Struct(">qqqq")
"""What was used, and what of it was lost."""
_BLOCK = struct.Struct(f">{PROCESS_BYTES}sqq")
_ID_BYTES = 8
_KEY_SEEN = struct.Struct(">q")


class Amount(NamedTuple):
    """Articles, and bytes of their texts."""

    articles: int = 0
    text_bytes: int = 0

    def plus(self, other: Amount) -> Amount:
        """Return both together."""
        return Amount(self.articles + other.articles, self.text_bytes + other.text_bytes)

    def less(self, other: Amount) -> Amount:
        """Return what is left of it without another, which may be less than nothing."""
        return Amount(self.articles - other.articles, self.text_bytes - other.text_bytes)

    def or_nothing(self) -> Amount:
        """Return it, or nothing where it is less."""
        return Amount(max(0, self.articles), max(0, self.text_bytes))

    def lacking(self, other: Amount) -> Amount:
        """Return what it lacks of another."""
        return other.less(self).or_nothing()


NOTHING = Amount()
BLOCK = Amount(2_000, 32 << 20)
"""What is reserved at once where nothing is short; with a message on its way, a stream has twice that."""


@dataclass(frozen=True, slots=True)
class Block:
    """Where a process keeps what it has reserved for a licensee on one day."""

    owner: str
    day: str
    id: bytes

    @property
    def key(self) -> bytes:
        """Key of its row."""
        return _blocks(self.owner) + self.day.encode() + self.id


@dataclass(frozen=True, slots=True)
class Used:
    """What was used in a day or a month."""

    period: str
    """``2026-11-23`` or ``2026-11``."""
    amount: Amount = NOTHING
    """Whatever was reserved and not given back."""
    lost: Amount = NOTHING
    """Of that: held by processes that were killed, and served or not."""


class Quotas:
    """The account of what was used. Safe for concurrent use, by processes too; every change is durable."""

    def __init__(self, counters: Counters) -> None:
        """``counters``: the place for quotas."""
        self._counters = counters
        self._process = this_process()

    def open_block(self, owner: str, day: str) -> Block:
        """Return a block that holds nothing yet, and of which nobody else knows."""
        return Block(owner, day, secrets.token_bytes(_ID_BYTES))

    def reserve(
        self,
        block: Block,
        rest: Amount,
        in_hand: Amount,
        need: Amount,
        limits: Limits,
        now: int,
        *,
        others: Amount = NOTHING,
    ) -> Amount:
        """Count more as used, at least what ``need`` has beyond ``rest``, and return how much more.

        ``rest``: what is left of the block; ``in_hand``: what was taken of it and is not known to have left;
        ``now``: microseconds since the epoch; ``others``: what of ``in_hand`` may come back. Raises
        ``QuotaExhaustedError``, and what ``Counters`` raises.
        """
        lacking = rest.lacking(need)
        with self._counters.changing() as cells:
            left = _left(cells, block, limits)
            short = [one for one in left if lacking[one.kind] > one.amount]
            if not short:
                room = [
                    min((one.amount for one in left if one.kind == kind), default=None) for kind in (0, 1)
                ]
                more = Amount(*map(_share, lacking, rest.lacking(BLOCK), room))
                for key in _periods(block.owner, block.day):
                    used, lost = _used(cells, key)
                    cells.put(key, _AMOUNTS.pack(*used.plus(more), *lost))
                cells.put(block.key, _BLOCK.pack(self._process, *rest.plus(in_hand).plus(more)))
                return more
            self._sweep(cells)
            for key, row in cells.rows(_blocks(block.owner)):
                others = others.plus(NOTHING if key == block.key else _held(row))
        raise _exhausted(block.owner, short[-1], lacking, others, now)

    def settle(self, block: Block, rest: Amount) -> None:
        """End a block: what is left of it was not used. What is then given back is given by ``refund``."""
        with self._counters.changing() as cells:
            cells.delete(block.key)
            _give_back(cells, block, rest)

    def refund(self, block: Block, rest: Amount) -> None:
        """Give back what was taken from a block that has ended, and did not leave after all."""
        with self._counters.changing() as cells:
            _give_back(cells, block, rest)

    def used(self, owner: str) -> list[Used]:
        """Return what was used in each day and month in which anything was, the newest last."""
        prefix = _uses(owner)
        with self._counters.looking() as cells:
            return [Used(key[len(prefix) :].decode(), *_amounts(value)) for key, value in cells.rows(prefix)]

    def reserved(self, owner: str) -> Amount:
        """Return what running servers have reserved and may still give back; counted as used already."""
        total = NOTHING
        with self._counters.looking() as cells:
            for _, row in cells.rows(_blocks(owner)):
                total = total.plus(_held(row))
        return total

    def owners(self) -> list[str]:
        """Return who was ever served anything, by name."""
        with self._counters.looking() as cells:
            return sorted({key[1:].partition(b"\0")[0].decode() for key, _ in cells.rows(b"u")})

    def sweep(self) -> dict[str, Amount]:
        """Tell what killed processes held as lost; return how much was found lost now, of whom."""
        with self._counters.looking() as cells:
            if all(is_alive(row[:PROCESS_BYTES]) for _, row in cells.rows(b"b")):
                return {}
        with self._counters.changing() as cells:
            return self._sweep(cells)

    def _sweep(self, cells: Cells) -> dict[str, Amount]:
        found: dict[str, Amount] = {}
        for key, row in cells.rows(b"b"):
            if is_alive(row[:PROCESS_BYTES]):
                continue
            owner, _, rest = key[1:].partition(b"\0")
            name, day, held = owner.decode(), rest[:-_ID_BYTES].decode(), _held(row)
            for use in _periods(name, day):
                used, lost = _used(cells, use)
                cells.put(use, _AMOUNTS.pack(*used, *lost.plus(held)))
            cells.delete(key)
            found[name] = found.get(name, NOTHING).plus(held)
        return found

    # --- when keys were used last ---------------------------------------------------------------

    def saw_keys(self, seen: dict[bytes, int]) -> None:
        """Remember when keys were used, by their ids; microseconds since the epoch."""
        with self._counters.changing() as cells:
            for key_id, at in seen.items():
                before = cells.get(b"k" + key_id)
                if before is None or _KEY_SEEN.unpack(before)[0] < at:
                    cells.put(b"k" + key_id, _KEY_SEEN.pack(at))

    def keys_seen(self) -> dict[bytes, int]:
        """Return when each key was used last, as far as anyone has said so."""
        with self._counters.looking() as cells:
            return {key[1:]: _KEY_SEEN.unpack(at)[0] for key, at in cells.rows(b"k")}


def keys_seen(data: Path) -> dict[bytes, int]:
    """Return when each key was used last, some seconds late; microseconds since the epoch, by the keys' ids.

    Raises what ``Counters`` raises.
    """
    counters = Counters(data, QUOTAS)
    if not counters.exist():
        return {}
    with closing(counters):
        return Quotas(counters).keys_seen()


def day_of(now: int) -> str:
    """Return the UTC day of an instant: ``2026-11-23``."""
    return (_EPOCH + now * _MICROSECOND).strftime("%Y-%m-%d")


def renews_at(period: str) -> int:
    """Return when a day or a month is over: microseconds since the epoch."""
    if len(period) > len("2026-11"):
        end = datetime.fromisoformat(period).replace(tzinfo=UTC) + timedelta(days=1)
    else:
        first = datetime.fromisoformat(f"{period}-01").replace(tzinfo=UTC)
        end = (first + timedelta(days=31)).replace(day=1)
    return (end - _EPOCH) // _MICROSECOND


def limits_of(limits: Limits, period: str) -> tuple[int | None, int | None]:
    """Return how many articles and bytes a day or a month allows; ``None`` for no limit."""
    if len(period) > len("2026-11"):
        return limits.articles_per_day, limits.bytes_per_day
    return limits.articles_per_month, limits.bytes_per_month


def _uses(owner: str) -> bytes:
    return b"u" + owner.encode() + b"\0"


def _blocks(owner: str) -> bytes:
    return b"b" + owner.encode() + b"\0"


def _periods(owner: str, day: str) -> tuple[bytes, bytes]:
    """Return the keys of what was used in a day, and in its month."""
    return _uses(owner) + day.encode(), _uses(owner) + day[:7].encode()


class _Left(NamedTuple):
    """What a limit leaves."""

    period: str
    kind: int
    """0 for articles, 1 for bytes."""
    limit: int
    amount: int


def _left(cells: Cells, block: Block, limits: Limits) -> list[_Left]:
    """Return what each limit leaves, that of the month last."""
    found = []
    for key, period in zip(_periods(block.owner, block.day), (block.day, block.day[:7]), strict=True):
        used, _ = _used(cells, key)
        found += [
            _Left(period, kind, limit, limit - used[kind])
            for kind, limit in enumerate(limits_of(limits, period))
            if limit is not None
        ]
    return found


def _share(lacking: int, wanted: int, room: int | None) -> int:
    """Return how much to reserve of what ``room`` is left of, ``None`` for any amount."""
    if not lacking:
        return 0
    return max(lacking, wanted if room is None else min(wanted, room // _SHARES))


def _used(cells: Cells, key: bytes) -> tuple[Amount, Amount]:
    row = cells.get(key)
    return (NOTHING, NOTHING) if row is None else _amounts(row)


def _amounts(row: bytes) -> tuple[Amount, Amount]:
    """Return what was used, and what of it was lost."""
    numbers = _AMOUNTS.unpack(row)
    return Amount(*numbers[:2]), Amount(*numbers[2:])


def _held(row: bytes) -> Amount:
    return Amount(*_BLOCK.unpack(row)[1:])


def _give_back(cells: Cells, block: Block, rest: Amount) -> None:
    for key in _periods(block.owner, block.day):
        used, lost = _used(cells, key)
        cells.put(key, _AMOUNTS.pack(*used.less(rest), *lost))


def _exhausted(owner: str, short: _Left, lacking: Amount, others: Amount, now: int) -> QuotaExhaustedError:
    what = ("articles", "bytes of text")[short.kind]
    span = "day" if len(short.period) > len("2026-11") else "month"
    renews = renews_at(short.period)
    if lacking[short.kind] <= short.amount + others[short.kind]:
        # Some of it may be given back: it is not used up before that is settled.
        seconds, hint = float(_HELD_RETRY_SECONDS), "other streams hold the rest of it; try again in a moment"
    else:
        seconds = max(0, renews - now) / 1e6
        hint = f"it renews at {format_instant(renews)}; recension usage says what was used of what"
    return QuotaExhaustedError(
        f"the {short.limit:,} {what} of this {span} are used up but for {max(0, short.amount):,}",
        hint=hint,
        quota=f"{('articles', 'bytes')[short.kind]}_per_{span}",
        limit=short.limit,
        period=short.period,
        **{SUBJECT: owner, RETRY_DELAY: f"{seconds:.0f}"},
    )
