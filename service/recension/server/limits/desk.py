"""What stands between a licensee and an answer besides the scope: rate, streams at once, quota."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import structlog

from recension.archive.agreements import Agreements
from recension.archive.clock import Clock, system_clock
from recension.model.access import Role
from recension.model.agreement import Quotas as QuotaLimits
from recension.model.agreement import Rates as RateLimits
from recension.model.errors import RecensionError
from recension.model.usage import MAX_PERIODS, Period, Usage
from recension.server import logs
from recension.server.door import Caller
from recension.server.limits.pools import Allowance, Pools
from recension.server.limits.quotas import NOTHING, Quotas, Used, day_of, limits_of, renews_at
from recension.server.limits.rates import Rates
from recension.server.metering import Meter
from recension.store.counters import QUOTAS, RATES, Counters
from recension.store.interface import Store

TEND_SECONDS = 2.0
"""How often what is not needed is given back, and what killed processes held is looked for."""


_UNLIMITED = nullcontext()
_UNAGREED = 10, 100
"""Requests a second, and burst, of a licensee whom no agreement serves: enough to see to what it owes."""


class _Settling:
    """Settles what a call takes at its end. A class, for ``contextmanager`` takes twice as long."""

    __slots__ = ("_allowance",)

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._allowance.settle()


class Limits:
    """The limits of all licensees, by their agreements of the moment. Safe for concurrent use."""

    def __init__(self, data: Path, store: Store, *, wall: Clock = system_clock) -> None:
        """``data``: where is counted; nothing is touched before a licensee calls.

        ``wall``: when agreements hold. Quotas are of the days and months of the system's clock.
        """
        self._counters = Counters(data, RATES), Counters(data, QUOTAS)
        self._rates = Rates(self._counters[0])
        self._quotas = Quotas(self._counters[1])
        self._pools = Pools(self._quotas, system_clock)
        self._agreements = Agreements(store)
        self._wall = wall
        self._seen: dict[bytes, int] = {}

    def admitting(self, who: Caller, meter: Meter, *, streaming: bool) -> AbstractContextManager[None]:
        """Count a call, and have ``meter`` take what it brings from the quota of who calls, until it ends.

        Licensees alone have limits; after the end those of the version by which pins can still be read. Who
        has none is refused by what decides of scopes, and not more often than ``_UNAGREED`` says. The version
        that rules is noted, whatever becomes of the call. Raises ``RateLimitedError``,
        ``StreamsExhaustedError``, and what ``Counters`` raises.
        """
        now = self._wall()
        if who.key_id:
            self._seen[who.key_id] = now
        if who.role is not Role.LICENSEE:
            return _UNLIMITED
        version = self._agreements.current(who.owner, now)
        if version is not None:
            meter.version = version
            meter.note(agreement=version.name)
        else:
            version = self._agreements.retained(who.owner, now)
            if version is None:
                self._rates.ask(who.owner, *_UNAGREED, unsold=True)
                return _UNLIMITED
        rates = version.agreement.rates
        if rates.requests_per_second is not None:
            self._rates.ask(who.owner, rates.requests_per_second, rates.burst or 1)
        allowance = self._pools.of(who.owner).begin(version.agreement.quotas, streaming=streaming)
        meter.draw_on(allowance)
        if streaming and rates.concurrent_streams is not None:
            return self._streaming(who.owner, rates.concurrent_streams, allowance)
        return _Settling(allowance)

    @contextmanager
    def _streaming(self, owner: str, limit: int, allowance: Allowance) -> Iterator[None]:
        with self._rates.stream(owner, limit), _Settling(allowance):
            yield

    def usage(self, owner: str) -> Usage:
        """Return what a licensee has used. Raises what ``Counters`` raises."""
        now = system_clock()
        version = self._agreements.current(owner, now)
        binding = version or self._agreements.retained(owner, now)
        quotas = QuotaLimits() if binding is None else binding.agreement.quotas
        rates = RateLimits() if binding is None else binding.agreement.rates
        used = {one.period: one for one in self._quotas.used(owner)} if self._counters[1].exist() else {}
        day = day_of(now)
        before = sorted(used.keys() - {day, day[:7]}, reverse=True)
        held = self._quotas.reserved(owner) if used else NOTHING
        counted = rates.concurrent_streams is not None and self._counters[0].exist()
        return Usage(
            licensee=owner,
            agreement="" if version is None else version.name,
            ordinal=0 if version is None else version.ordinal,
            periods=tuple(
                _period(used.get(name, Used(name)), quotas) for name in (day, day[:7], *before)[:MAX_PERIODS]
            ),
            reserved_articles=held.articles,
            reserved_text_bytes=held.text_bytes,
            requests_per_second=rates.requests_per_second,
            burst=rates.burst,
            concurrent_streams=rates.concurrent_streams,
            open_streams=self._rates.streams(owner) if counted else 0,
        )

    def licensees(self) -> list[str]:
        """Return who was ever served anything, by name. Raises what ``Counters`` raises."""
        return self._quotas.owners() if self._counters[1].exist() else []

    def tend(self) -> None:
        """Give back what is not needed now, tell what was lost, and remember when keys were used."""
        self._pools.settle()
        self._remember()
        if not self._counters[1].exist():
            return
        for owner, lost in self._quotas.sweep().items():
            structlog.get_logger().warning(
                logs.QUOTA_LOST, licensee=owner, articles=lost.articles, text_bytes=lost.text_bytes
            )

    def close(self) -> None:
        """Give back all that is reserved and was not used: nothing is served any more."""
        self._pools.settle(idle_seconds=0)
        try:
            self._remember()
        except RecensionError as error:
            structlog.get_logger().error(logs.CHORE_FAILED, reason=error.reason)
        for counters in self._counters:
            counters.close()

    def _remember(self) -> None:
        seen, self._seen = self._seen, {}
        if seen:
            self._quotas.saw_keys(seen)


def _period(used: Used, quotas: QuotaLimits) -> Period:
    articles, text_bytes = limits_of(quotas, used.period)
    return Period(
        name=used.period,
        articles=used.amount.articles,
        text_bytes=used.amount.text_bytes,
        lost_articles=used.lost.articles,
        lost_text_bytes=used.lost.text_bytes,
        articles_limit=articles,
        text_bytes_limit=text_bytes,
        renews_at=renews_at(used.period),
    )
