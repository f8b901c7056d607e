"""Licensees and their agreements in a store: added, ended, found, made anew, and checked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from recension.archive.agreements import Agreements
from recension.archive.ingest import Ingestor
from recension.archive.rebuild import rebuild
from recension.model import errors
from recension.model.agreement import Agreement, parse_document
from recension.model.instant import format_instant, parse_instant
from recension.model.licensee import Licensee, make_licensee, read_licensee
from recension.model.reading import ProjectInfo
from recension.model.record import Kind, Statement
from recension.store import keys
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.test_check import found, position_of, put, relog, rows, with_item
from tests.archive.test_rebuild import assert_same

NOW = parse_instant("2026-06-01")
DAY = 86_400_000_000


class Clock:
    """Stands where it is put."""

    now = NOW

    def __call__(self) -> int:
        return self.now


def prepared(store: Store, clock: Clock) -> Agreements:
    """Return the agreements of a store with a project and a licensee."""
    Ingestor(store, clock=clock).create_project(ProjectInfo("w", "https://w.example", "en", "CC0-1.0"))
    agreements = Agreements(store, clock=clock)
    agreements.add_licensee(make_licensee("acme", 1, display_name="Acme Ltd"))
    return agreements


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with closing(LmdbStore.open(tmp_path / "data", create=True, force_mount=True)) as held:
        yield held


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def agreements(store: Store, clock: Clock) -> Agreements:
    return prepared(store, clock)


def document(days: int | None = None, *, start: int = 0, licensee: str = "acme", **other: Any) -> Agreement:
    """Return an agreement from ``start`` days after now on, for some days."""
    times = {"valid_from": format_instant(NOW + start * DAY)}
    if days is not None:
        times["valid_until"] = format_instant(NOW + (start + days) * DAY)
    grants = [{"projects": ["w"], "freshness": "realtime"}]
    return parse_document({"licensee": licensee, "grants": grants, **times, **other})


def test_versions_over_time(store: Store, agreements: Agreements, clock: Clock) -> None:
    """The newest that holds rules, until it is over or ended; an end is not of what is added later."""
    assert agreements.current("acme", NOW) is None
    first, new = agreements.add(document())
    assert (1, True) == (first.ordinal, new)
    second, _ = agreements.add(document(5, start=10, pin_retention_days=3))
    expected = {-1: None, 0: first, 9: first, 10: second, 14: second, 15: first}
    for day, version in expected.items():
        assert version == agreements.current("acme", NOW + day * DAY)
    clock.now = NOW + 11 * DAY
    ended = agreements.end("acme", NOW + 12 * DAY)
    assert [NOW + 12 * DAY] * 2 == [one.over_at for one in ended]
    assert 2 == (agreements.current("acme", NOW + 12 * DAY - 1) or first).ordinal
    assert agreements.current("acme", NOW + 12 * DAY) is None
    third, _ = agreements.add(document())
    assert third == agreements.current("acme", NOW + 12 * DAY)
    assert (3, first.digest) == (third.ordinal, third.digest)
    over_at = agreements.end("acme")[2].over_at
    assert over_at is not None
    assert clock.now <= over_at <= store.log.head().recorded_at
    for held in (agreements, Agreements(store)):
        assert held.current("acme", over_at) is None
        assert 3 == (held.current("acme", over_at - 1) or first).ordinal
        assert [1, 2, 3] == [one.ordinal for one in held.versions("acme")]


def test_the_same_document_twice(store: Store, agreements: Agreements) -> None:
    """The newest one again is no new version; an older one again, or one that was ended, is."""
    first, _ = agreements.add(document())
    position = store.log.head().position
    assert (first, False) == agreements.add(document())
    assert position == store.log.head().position
    agreements.add(document(5))
    again, new = agreements.add(document())
    assert (3, True) == (again.ordinal, new)
    agreements.end("acme")
    assert 4 == agreements.add(document())[0].ordinal
    assert 4 == agreements.version("acme", first.name).ordinal
    assert 2 == agreements.version("acme", "2").ordinal
    assert 4 == agreements.version("acme").ordinal


def test_what_is_refused(agreements: Agreements, clock: Clock) -> None:
    """Each for its own reason, and nothing is recorded."""
    with pytest.raises(errors.LicenseeNotFoundError):
        agreements.add(document(licensee="nobody"))
    with pytest.raises(errors.ProjectNotFoundError) as caught:
        agreements.add(document(grants=[{"projects": ["w", "x"], "freshness": "daily"}]))
    assert {"project": "x", "field": "grants"} == caught.value.metadata
    with pytest.raises(errors.AgreementNotFoundError):
        agreements.end("acme")
    with pytest.raises(errors.AgreementNotFoundError):
        agreements.version("acme")
    clock.now = NOW + 5 * DAY
    with pytest.raises(errors.InvalidAgreementError, match="over already"):
        agreements.add(document(5))
    assert 1 == agreements.add(document(6))[0].ordinal
    with pytest.raises(errors.InvalidArgumentError, match="in the past"):
        agreements.end("acme", NOW)
    with pytest.raises(errors.AgreementEndedError):
        agreements.end("acme", NOW + 6 * DAY)
    with pytest.raises(errors.AgreementNotFoundError, match="it has 1"):
        agreements.version("acme", "2")
    for name in ("Acme", "", "a\nb"):
        with pytest.raises(errors.InvalidArgumentError, match="owner"):
            agreements.versions(name)
        assert agreements.current(name, NOW) is None
    assert 1 == len(agreements.versions("acme"))


def test_two_agreements_at_once(store: Store, agreements: Agreements) -> None:
    """Whoever is first, each gets a number of its own, and the same document is added once."""
    days = [*range(20), *range(20)]
    begin = Barrier(4)

    def add(some: list[int]) -> list[tuple[int, bool]]:
        begin.wait(timeout=60)
        mine = Agreements(store)
        return [
            (version.ordinal, new)
            for version, new in (mine.add(document(pin_retention_days=one)) for one in some)
        ]

    with ThreadPoolExecutor(4) as pool:
        made = [one for some in pool.map(add, (days[at::4] for at in range(4))) for one in some]
    new = sorted(ordinal for ordinal, added in made if added)
    assert list(range(1, len(new) + 1)) == new
    assert len(new) == len(agreements.versions("acme")) >= 20
    digests = [one.digest for one in agreements.versions("acme")]
    assert all(one != other for one, other in pairwise(digests))


def test_an_end_is_never_put_off(agreements: Agreements) -> None:
    """A later end of what ends already is refused; a sooner one counts."""
    agreements.add(document())
    agreements.end("acme", NOW + 5 * DAY)
    with pytest.raises(errors.AgreementEndedError):
        agreements.end("acme", NOW + 6 * DAY)
    assert NOW + 2 * DAY == agreements.end("acme", NOW + 2 * DAY)[0].over_at


def test_an_ended_licensee(agreements: Agreements) -> None:
    """Nothing rules any more, whatever is agreed, until the licensee is added again."""
    version, _ = agreements.add(document())
    ended = agreements.end_licensee("acme")
    assert ended.ended
    assert ended == agreements.end_licensee("acme")
    assert agreements.current("acme", NOW) is None
    with pytest.raises(errors.LicenseeEndedError):
        agreements.add(document(7))
    with pytest.raises(errors.LicenseeExistsError):
        agreements.add_licensee(make_licensee("acme", 1, display_name="Acme Ltd"))
    agreements.add_licensee(make_licensee("acme", 1, display_name="Acme Ltd"), replace=True)
    assert version == agreements.current("acme", NOW)
    with pytest.raises(errors.LicenseeNotFoundError):
        agreements.end_licensee("nobody")


def test_a_licensee_is_added_once(store: Store, agreements: Agreements) -> None:
    """The same again changes nothing; other words need to be meant."""
    position = store.log.head().position
    same, new = agreements.add_licensee(make_licensee("acme", 99, display_name="Acme Ltd"))
    assert not new
    assert position == store.log.head().position == same.made_at
    other = make_licensee("acme", 1, display_name="Acme Inc", contact="law@acme.example")
    with pytest.raises(errors.LicenseeExistsError):
        agreements.add_licensee(other)
    changed, new = agreements.add_licensee(other, replace=True)
    assert (True, "Acme Inc", position + 1) == (new, changed.display_name, changed.made_at)
    agreements.add_licensee(make_licensee("aaa", 1))
    assert ["aaa", "acme"] == [one.name for one in agreements.licensees()]


def test_certificates_and_tokens_are_of_one(agreements: Agreements) -> None:
    """A licensee is found by them, and no other may have them while it is not ended."""
    first = make_licensee("one", 1, certificate_names=["DNS:a.example", "URI:spiffe://a/b"], jwt_subject="s")
    agreements.add_licensee(first)
    assert "one" == agreements.by_certificate("URI:spiffe://a/b")
    assert "one" == agreements.by_subject("s")
    assert agreements.by_certificate("s") is None
    assert agreements.by_subject("DNS:a.example") is None
    assert agreements.by_subject("") is None
    for other in (
        make_licensee("two", 1, certificate_names=["DNS:a.example"]),
        make_licensee("two", 1, jwt_subject="s"),
    ):
        with pytest.raises(errors.LicenseeExistsError, match="one has"):
            agreements.add_licensee(other)
    agreements.end_licensee("one")
    assert agreements.by_subject("s") is None
    agreements.add_licensee(make_licensee("two", 1, jwt_subject="s"))
    assert "two" == agreements.by_subject("s")
    with pytest.raises(errors.LicenseeExistsError, match="two has"):
        agreements.add_licensee(first, replace=True)


def test_what_others_do_is_seen_at_once(store: Store, agreements: Agreements) -> None:
    """What one adds or ends, the next call of another sees, whatever it holds in memory."""
    reads = Agreements(store)
    assert reads.current("acme", NOW) is None
    added, _ = agreements.add(document())
    assert added == reads.current("acme", NOW)
    agreements.end("acme", NOW + DAY)
    assert reads.current("acme", NOW + DAY) is None
    agreements.end_licensee("acme")
    assert reads.current("acme", NOW) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"display_name": "a\u202eb"},
        {"display_name": "a" * 257},
        {"contact": "a\nb"},
        {"jwt_subject": "\x00"},
        {"certificate_names": ["a.example"]},
        {"certificate_names": ["DNS:"]},
        {"certificate_names": ["DNS:a b"]},
        {"certificate_names": [f"DNS:{n}" for n in range(33)]},
    ],
)
def test_what_is_no_licensee(fields: dict[str, Any]) -> None:
    """It is refused by the name of the field."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        make_licensee("acme", 1, **fields)
    assert [caught.value.metadata["field"]] == list(fields)


def test_statements_of_licensees_are_read_as_they_are_written() -> None:
    """Anything else is refused by name."""
    one = make_licensee("acme", 7, display_name="Ä", certificate_names=["DNS:b", "DNS:a"], ended=True)
    assert one == read_licensee(one.encoded)
    assert read_licensee(make_licensee("acme", 7).encoded) == Licensee("acme", 7)
    good = one.encoded
    for bad in (
        b"",
        b"[]",
        b"{}",
        good + b" ",
        good.replace(b"licensee/v1", b"licensee/v2"),
        good.replace(b'"7"', b"7"),
        good.replace(b'"7"', b'"0"'),
        good.replace(b"acme", b"ACME"),
        good.replace(b'"DNS:a","DNS:b"', b'"DNS:b","DNS:a"'),
        good.replace(b"true", b"1"),
        good[:-1] + b',"x":1}',
        b"[" * 100_000,
    ):
        with pytest.raises(errors.InvalidArgumentError):
            read_licensee(bad)


def test_rows_follow_from_the_log(store: Store, agreements: Agreements) -> None:
    """Made anew from the log they are the same, and a check finds nothing."""
    agreements.add(document())
    agreements.add(document(5, start=3))
    agreements.end("acme", NOW + DAY)
    agreements.add_licensee(make_licensee("other", 1))
    agreements.end_licensee("other")
    target = MemoryStore()
    rebuild(store, target)
    assert_same(store, target)
    anew = Agreements(target)
    assert agreements.licensees() == anew.licensees()
    assert agreements.versions("acme") == anew.versions("acme")
    assert found(target) == {}


def test_damage_is_found() -> None:
    """A lost, foreign or unreadable row of a licensee or an agreement is told for what it is."""

    def made() -> tuple[MemoryStore, Agreements]:
        store = MemoryStore()
        agreements = prepared(store, Clock())
        agreements.add(document())
        return store, agreements

    store, agreements = made()
    assert found(store) == {}
    licensee, version = (key for key, _ in rows(store, b"l"))
    for key in (licensee, version):
        store, agreements = made()
        put(store, {key: None})
        assert found(store) == {"row-missing": 1}
        assert agreements.current("acme", NOW) is None
        store, agreements = made()
        put(store, {key: b"{}"})
        assert found(store) == {"row-wrong": 1}
        with pytest.raises(errors.DataLossError):
            agreements.current("acme", NOW)
        with pytest.raises(errors.DataLossError):
            agreements.add(document(9))
    for orphan in (keys.licensee("other", 2), keys.licensee("acme", 1)):
        store, _ = made()
        put(store, {orphan: b"{}"})
        assert found(store) == {"row-orphan": 1}


@pytest.mark.parametrize("kind", [Kind.LICENSEE, Kind.AGREEMENT])
def test_a_damaged_statement_of_the_log_is_found(kind: Kind) -> None:
    """A check says which commit it is in; a rebuild refuses the log rather than guess."""
    store = MemoryStore()
    prepared(store, Clock()).add(document())
    at = position_of(store, kind)
    relog(store, at, lambda commit: with_item(commit, kind, lambda item: Statement(item.kind, b"{}")))
    assert 1 == found(store)["log-statement"]
    with pytest.raises(errors.DataLossError, match=f"commit {at} cannot be read"):
        rebuild(store, MemoryStore())
