"""Limits on a real server: what a licensee's agreement says binds its calls, and nobody else's."""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from recension.archive.agreements import Agreements
from recension.archive.keyring import Keyring
from recension.archive.pins import LicenseePins
from recension.model import errors
from recension.model.access import Role, Secret
from recension.model.agreement import Quotas as Terms
from recension.model.agreement import parse_document
from recension.model.digest import parse_digest
from recension.model.instant import parse_instant
from recension.model.licensee import make_licensee
from recension.server.door import Caller
from recension.server.limits import desk
from recension.server.limits.quotas import BLOCK, NOTHING, Amount, Quotas
from recension.server.main import main as recension_server
from recension.server.metering import Meter
from recension.server.pepper import Pepper
from recension.store.counters import QUOTAS, Counters
from recension.store.directory import PEPPER_FILE
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.wire.status import error_of
from recension.wire.usage import usage_from_proto, usage_to_proto
from recension_client.async_client import AsyncClient
from recension_client.cli.usage import _usage
from recension_client.client import Client
from tests.server.helpers import PAGE_BYTES, PAGES, Served, fill, refused, serving, until
from tests.server.test_door import shown

LATER = parse_instant("2999-01-01")


class Licensing:
    """A server with a licensee, its key and that of an operator."""

    def __init__(self, served: Served, store: MemoryStore, keyring: Keyring) -> None:
        self.served = served
        self.store = store
        self.agreements = Agreements(store)
        for name in ("acme", "other"):
            self.agreements.add_licensee(make_licensee(name, 1))
        self.key: Secret = keyring.make("acme", Role.LICENSEE, LATER)
        self.operator: Secret = keyring.make("jane", Role.OPERATOR, LATER)
        manifest = next(served.archive.snapshots())
        self.snapshot = f"sha256:{manifest.snapshot_id.hex()}"

    def agree(self, **terms: Any) -> None:
        """Put a version in force."""
        grant = {"projects": ["demo"], "freshness": "realtime"}
        said = {"grants": [grant], "valid_from": "2020-01-01T00:00:00Z", **terms}
        self.agreements.add(parse_document(said, "acme"))

    def ask(self, key: Secret | None = None) -> Any:
        request = catalog_pb.GetServerInfoRequest()
        return self.served.catalog.GetServerInfo(request, metadata=shown(key or self.key))

    def read(self, key: Secret | None = None) -> Any:
        return self.served.read(self.snapshot, metadata=shown(key or self.key))


@pytest.fixture
def licensing(tmp_path: Path) -> Iterator[Licensing]:
    store = MemoryStore()
    fill(store)
    pepper = Pepper(tmp_path / PEPPER_FILE)
    pepper.make()
    with serving(store, tmp_path) as served:
        yield Licensing(served, store, Keyring(store, pepper))
        served.service.limits.close()


def test_the_rate_of_an_agreement(licensing: Licensing) -> None:
    """Refused with whose limit it is and when to come again; others ask on."""
    licensing.agree(rates={"requests_per_second": 1, "burst": 1})
    assert licensing.ask().version
    error = refused(licensing.ask)
    assert isinstance(error, errors.RateLimitedError)
    assert 0 < float(error.metadata["retryDelaySeconds"]) <= 1
    assert "acme" == error.metadata["subject"]
    for _ in range(5):
        assert licensing.ask(licensing.operator).version
    licensing.agree()
    for _ in range(5):
        assert licensing.ask().version


def test_the_streams_of_an_agreement(licensing: Licensing) -> None:
    """Another one begins when one has ended; an operator's are not counted."""
    licensing.agree(rates={"concurrent_streams": 1})
    first = licensing.read()
    next(first)
    assert isinstance(refused(lambda: next(licensing.read())), errors.StreamsExhaustedError)
    others = licensing.read(licensing.operator)
    next(others)
    assert licensing.ask().version
    first.cancel()

    def begins() -> bool:
        stream = licensing.read()
        try:
            next(stream)
        except Exception:  # noqa: BLE001 - not yet
            return False
        stream.cancel()
        return True

    until(begins)
    others.cancel()


def test_what_can_be_read_after_the_end_is_limited_too(licensing: Licensing) -> None:
    """By the version that lets its pins be read, and under its quota."""
    snapshot_id = parse_digest(licensing.snapshot)
    LicenseePins(licensing.store, "acme").create("p", snapshot_id, LATER)
    licensing.agree(
        pin_retention_days=7, quotas={"articles_per_day": PAGES - 1}, rates={"concurrent_streams": 1}
    )
    licensing.agreements.end("acme")
    first = licensing.read()
    next(first)
    assert isinstance(refused(lambda: next(licensing.read())), errors.StreamsExhaustedError)
    assert isinstance(refused(lambda: list(first)), errors.QuotaExhaustedError)
    usage = licensing.served.service.limits.usage("acme")
    assert ("", 1, PAGES - 1) == (usage.agreement, usage.concurrent_streams, usage.periods[0].articles_limit)
    licensing.agreements.end_licensee("acme")
    assert isinstance(refused(lambda: next(licensing.read())), errors.NoAgreementError)


def test_who_has_no_agreement_is_refused_no_more_often_than_others(
    licensing: Licensing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals cost something too: they have a rate, which is over once something is agreed."""
    monkeypatch.setattr(desk, "_UNAGREED", (1, 2))
    for expected in (errors.NoAgreementError, errors.NoAgreementError, errors.RateLimitedError):
        assert isinstance(refused(lambda: next(licensing.read())), expected)
    assert licensing.ask(licensing.operator).version
    licensing.agree()
    for _ in range(5):
        assert licensing.ask().version


def test_counters_that_cannot_be_used(licensing: Licensing, tmp_path: Path) -> None:
    """Nobody is served uncounted, nor told where the files are; an operator is served."""
    licensing.agree(rates={"requests_per_second": 100, "burst": 100})
    (tmp_path / "counters").write_text("in the way")
    error = refused(licensing.ask)
    assert isinstance(error, errors.StoreError)
    assert str(tmp_path) not in error.message + error.hint
    assert licensing.ask(licensing.operator).version
    (tmp_path / "counters").unlink()
    assert licensing.ask().version


def test_nothing_is_made_where_nobody_is_counted(licensing: Licensing, tmp_path: Path) -> None:
    """A server whose callers are all operators has no counters."""
    assert licensing.ask(licensing.operator).version
    assert not (tmp_path / "counters" / "rates").exists()


# --- usage ----------------------------------------------------------------------------------------


def use(licensing: Licensing, articles: int, text_bytes: int) -> None:
    """Have the licensee served something."""
    meter = Meter()
    who = Caller("acme", Role.LICENSEE)
    with licensing.served.service.limits.admitting(who, meter, streaming=False):
        meter.take(articles, text_bytes)
        meter.delivered()


def test_a_licensee_sees_its_own_usage(licensing: Licensing) -> None:
    """Against what its agreement of now allows; not another's, of whom it is not told that there is one."""
    licensing.agree(
        quotas={"articles_per_day": 10, "bytes_per_month": 1_000},
        rates={"requests_per_second": 100, "concurrent_streams": 3},
    )
    use(licensing, 4, 70)
    licensing.served.service.limits.close()
    with Client(licensing.served.target, key=licensing.key.written) as client:
        found = client.usage()
        day, month = found.periods
        assert (4, 70, 10, None) == (day.articles, day.text_bytes, day.articles_limit, day.text_bytes_limit)
        assert (4, 70, None, 1_000) == tuple(
            getattr(month, name) for name in ("articles", "text_bytes", "articles_limit", "text_bytes_limit")
        )
        assert 1 == found.ordinal
        assert (100, 100, 3, 0) == (
            found.requests_per_second,
            found.burst,
            found.concurrent_streams,
            found.open_streams,
        )
        for other in ("other", "nobody"):
            with pytest.raises(errors.LicenseeNotFoundError, match=f"no licensee {other}"):
                client.usage(other)
    with Client(licensing.served.target, key=licensing.operator.written) as client:
        assert found == client.usage("acme")
        with pytest.raises(errors.LicenseeNotFoundError):
            client.usage("nobody")
        unused = client.usage("other")
        assert (0, 0, "", 0) == (
            unused.periods[0].articles,
            unused.periods[1].text_bytes,
            unused.agreement,
            unused.ordinal,
        )
    assert usage_from_proto(usage_to_proto(unused)) == unused


def test_usage_by_command(licensing: Licensing, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """As a table and as JSON; what running servers hold is told apart."""
    licensing.agree(quotas={"articles_per_day": 1_000})
    use(licensing, 4, 70)
    with Client(licensing.served.target, key=licensing.key.written) as client:
        assert 0 == _usage(client, Namespace(licensee="", json=False, all=True))
        head, day, month = capsys.readouterr().out.splitlines()[-3:]  # behind what servers log
        assert ["period", "articles", "of", "bytes", "of", "renews", "at"] == head.split()
        assert "1,000" in day
        assert "-" in month.split()
        assert 0 == _usage(client, Namespace(licensee="", json=True, all=False))
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 4 < said["periods"][0]["articles"] == said["reserved_articles"]
    licensing.served.service.limits.close()
    assert 4 == licensing.served.service.limits.usage("acme").periods[0].articles


def test_usage_by_the_operators_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all licensees or of one, by the data directory alone."""
    data = ("--data", str(tmp_path / "data"))
    with closing(LmdbStore.open(tmp_path / "data", create=True)) as store:
        for name in ("acme", "other"):
            Agreements(store).add_licensee(make_licensee(name, 1))
        counters = Counters(tmp_path / "data", QUOTAS)
        quotas = Quotas(counters)
        quotas.reserve(quotas.open_block("acme", "2020-02-29"), NOTHING, NOTHING, Amount(3, 5), Terms(), 0)
        counters.close()
    assert 0 == recension_server(["usage", *data, "--json"])
    acme, other = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ("acme", "other") == (acme["licensee"], other["licensee"])
    assert ["2020-02-29", "2020-02"] == [period["name"] for period in acme["periods"][2:]]
    assert BLOCK.articles == acme["periods"][2]["articles"] == acme["reserved_articles"]
    assert "2020-03-01T00:00:00Z" == acme["periods"][2]["renews_at"]
    assert 0 == recension_server(["usage", "acme", *data])
    assert "2020-02-29" in capsys.readouterr().out
    assert 3 == recension_server(["usage", "nobody", *data])
    assert "no licensee nobody" in capsys.readouterr().err


def test_a_quota_ends_a_stream_behind_its_last_article(licensing: Licensing) -> None:
    """What is left of it arrives, and is what is counted; then the reason, and nothing is left of the day."""
    licensing.agree(quotas={"articles_per_day": 7})
    received: list[int] = []
    stream = licensing.read()
    with pytest.raises(grpc.RpcError) as caught:
        for message in stream:
            received += [entry.page_id for entry in message.batch.entries]
    error = error_of(caught.value)
    assert isinstance(error, errors.QuotaExhaustedError)
    assert ("articles_per_day", "7", "acme") == tuple(
        error.metadata[name] for name in ("quota", "limit", "subject")
    )
    assert list(range(1, 8)) == received
    assert 7 == licensing.served.service.limits.usage("acme").periods[0].articles
    with Client(licensing.served.target, key=licensing.key.written) as client:
        with pytest.raises(errors.QuotaExhaustedError):
            client.article("demo", 1)
        assert client.article("demo", 1, text=False).revision.page_id == 1
    with Client(licensing.served.target, key=licensing.operator.written) as client:
        assert client.article("demo", 1).revision.slots[0].text


def test_what_a_client_leaves_behind_is_given_back(licensing: Licensing) -> None:
    """Little more than what it took is counted, and in the end no block is held."""
    licensing.agree(quotas={"articles_per_day": 1_000_000})
    stream = licensing.read()
    next(stream)
    stream.cancel()
    until(licensing.served.idle)
    limits = licensing.served.service.limits
    until(lambda: not limits._rates.streams("acme"))
    limits.close()
    usage = limits.usage("acme")
    assert 0 < usage.periods[0].articles <= PAGES
    assert 0 == usage.reserved_articles
    assert usage.periods[0].text_bytes <= PAGES * (PAGE_BYTES + 10)


def test_clients_wait_as_long_as_they_are_told(licensing: Licensing) -> None:
    """A rate slows both clients down, and fails no question that has the time."""
    licensing.agree(rates={"requests_per_second": 20, "burst": 1})
    target, key = licensing.served.target, licensing.key.written
    with Client(target, key=key) as client:
        assert all(client.server_info().version for _ in range(5))
        assert len(list(client.entries(parse_digest(licensing.snapshot, "snapshot")))) == PAGES

    async def ask() -> None:
        async with AsyncClient(target, key=key) as asking:
            for _ in range(5):
                assert (await asking.server_info()).version

    asyncio.run(ask())
    with Client(target, key=key, timeout_seconds=0.01) as hasty, pytest.raises(errors.RecensionError):
        for _ in range(50):
            hasty.server_info()
