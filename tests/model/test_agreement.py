"""Agreements: one form for what says the same, a refusal for each fault, and which version rules when."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recension.model import agreement as module
from recension.model.agreement import (
    Agreement,
    Cadence,
    Duty,
    Freshness,
    Version,
    horizon,
    in_force,
    make_end,
    parse_document,
    read_statement,
    retained,
    spans,
    version_statement,
    versions_of,
)
from recension.model.agreement_words import Difference, differences, words_of
from recension.model.errors import BY_REASON, InvalidAgreementError, InvalidArgumentError
from recension.model.instant import MAX_INSTANT, format_instant, parse_instant

DAY = 86_400_000_000
NOW = parse_instant("2026-05-20T10:11:12.131415Z")  # a Wednesday


def minimal(**other: Any) -> dict[str, Any]:
    """Return a document that says no more than it has to, and ``other``."""
    return {
        "licensee": "acme",
        "grants": [{"projects": ["enwiki"], "freshness": "realtime"}],
        "valid_from": "2026-01-01",
    } | other


def grant(**other: Any) -> dict[str, Any]:
    """Return a document with one grant, which says ``other`` too."""
    return minimal(grants=[{"projects": ["enwiki"], "freshness": "realtime"} | other])


def full() -> dict[str, Any]:
    """Return a document that says everything."""
    return {
        "format": "recension/agreement/v1",
        "licensee": "acme",
        "grants": [
            {
                "projects": ["enwiki", "dewiki"],
                "namespaces": [0, 14],
                "slots": ["main"],
                "freshness": "monthly",
            },
            {"projects": ["itwiki"], "namespaces": [1], "freshness": {"delay_seconds": 86_400}},
            {
                "projects": ["commons"],
                "freshness": "realtime",
                "earliest": "2020-01-01",
                "latest": "2026-01-01",
            },
        ],
        "rates": {"requests_per_second": 50, "burst": 100, "concurrent_streams": 4},
        "quotas": {
            "articles_per_day": 10_000,
            "articles_per_month": 100_000,
            "bytes_per_day": 2**30,
            "bytes_per_month": 2**34,
        },
        "valid_from": "2026-01-01",
        "valid_until": "2027-01-01T00:00:00Z",
        "licenses": ["CC-BY-SA-4.0", "CC-BY-SA-3.0"],
        "terms": {"url": "https://example.org/terms/2026", "sha256": "sha256:" + "ab" * 32},
        "attribution": {"duties": ["title", "contributors"], "statement": "Name us on every page."},
        "pin_retention_days": 90,
    }


# --- the canonical form ---------------------------------------------------------------------------


def test_the_bytes_of_a_document_are_fixed() -> None:
    """What they are decides every digest: this one is never another."""
    assert (
        b'{"format":"recension/agreement/v1","grants":[{"freshness":"realtime","projects":["enwiki"]}],'
        b'"licensee":"acme","valid_from":"2026-01-01T00:00:00Z"}'
    ) == parse_document(minimal()).encoded
    whole = parse_document(full())
    assert whole.digest == sha256(whole.encoded).digest()
    assert whole.name == "sha256:6e8a4a8d3aea660a13d61b1aafa54197924930e5b144429776a6ccd30fdf4e51"


def test_a_document_is_read_for_what_it_says() -> None:
    """Each field is in its place."""
    found = parse_document(full())
    assert ("acme", 90, ("CC-BY-SA-3.0", "CC-BY-SA-4.0")) == (
        found.licensee,
        found.pin_retention_days,
        found.licenses,
    )
    by_cadence = {one.freshness.cadence: one for one in found.grants}
    assert Freshness(Cadence.DELAY, 86_400) == by_cadence[Cadence.DELAY].freshness
    monthly = by_cadence[Cadence.MONTHLY]
    assert monthly.covers("dewiki", 14, "main")
    assert not monthly.covers("dewiki", 1, "main")
    assert not monthly.covers("dewiki", 14, "mediainfo")
    assert not monthly.covers("frwiki", 0, "main")
    assert (parse_instant("2020-01-01"), parse_instant("2026-01-01")) == (
        by_cadence[Cadence.REALTIME].earliest,
        by_cadence[Cadence.REALTIME].latest,
    )
    assert (50, 100, 4) == (
        found.rates.requests_per_second,
        found.rates.burst,
        found.rates.concurrent_streams,
    )
    assert 2**34 == found.quotas.bytes_per_month
    assert found.terms is not None
    assert bytes.fromhex("ab" * 32) == found.terms.sha256
    assert (Duty.CONTRIBUTORS, Duty.TITLE) == found.attribution.duties


NAMES = st.sampled_from(["enwiki", "dewiki", "commons", "w", "a.b-c_d"])
INSTANTS = st.integers(0, MAX_INSTANT // 2).map(format_instant)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Return a document whose grants differ by namespace, with any of the other fields."""
    spaces = draw(st.lists(st.integers(-2, 20), unique=True, min_size=1, max_size=6))
    freshness = draw(
        st.one_of(
            st.sampled_from(["realtime", "daily", "weekly", "monthly"]),
            st.integers(1, module.MAX_DELAY_SECONDS).map(lambda seconds: {"delay_seconds": seconds}),
        )
    )
    document: dict[str, Any] = {
        "licensee": draw(st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")),
        "grants": [
            {
                "projects": draw(st.lists(NAMES, unique=True, min_size=1)),
                "namespaces": [space],
                "freshness": freshness,
            }
            for space in spaces
        ],
        "valid_from": "1970-01-01",
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "valid_until": st.integers(1, MAX_INSTANT).map(format_instant),
        "rates": st.fixed_dictionaries(
            {"requests_per_second": st.integers(1, module.MAX_RATE)},
            optional={"burst": st.integers(1, module.MAX_RATE), "concurrent_streams": st.integers(1, 9)},
        ),
        "quotas": st.dictionaries(
            st.sampled_from(["articles_per_day", "bytes_per_day"]), st.integers(1, 2**53 - 1), min_size=1
        ),
        "licenses": st.lists(
            st.sampled_from(["CC0-1.0", "GPL-3.0+", "LicenseRef-x"]), unique=True, min_size=1
        ),
        "pin_retention_days": st.integers(0, 36_600),
        "attribution": st.fixed_dictionaries(
            {},
            optional={
                "duties": st.lists(st.sampled_from([one.value for one in Duty]), unique=True, min_size=1),
                "statement": st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1),
            },
        ),
    }
    for name, values in optional.items():
        if draw(st.booleans()):
            document[name] = draw(values)
    return document


def shuffled(value: Any, by: random.Random) -> Any:
    """Return what says the same: mappings and lists in another order."""
    if isinstance(value, dict):
        pairs = [(key, shuffled(one, by)) for key, one in value.items()]
        return dict(by.sample(pairs, len(pairs)))
    if isinstance(value, list):
        return by.sample([shuffled(one, by) for one in value], len(value))
    return value


@settings(max_examples=40)
@given(documents(), st.randoms(use_true_random=False))
def test_one_form_for_what_says_the_same(document: dict[str, Any], by: random.Random) -> None:
    """Order does not count, and the canonical form is read back as itself."""
    found = parse_document(document)
    assert parse_document(shuffled(document, by)).encoded == found.encoded
    again = parse_document(json.loads(found.encoded))
    assert (again, again.encoded) == (found, found.encoded)
    compact = json.dumps(json.loads(found.encoded), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert compact.encode() == found.encoded
    assert read_statement(version_statement(found, 3, 9)) == Version(found, 3, 9)


@settings(max_examples=40)
@given(documents(), documents())
def test_other_words_have_other_digests(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two that differ in anything that is read differ in their bytes."""
    first, second = parse_document(one), parse_document(other)
    assume(first != second)
    assert first.digest != second.digest


# --- bad input ------------------------------------------------------------------------------------

BIDI = "ac\u202eme"
BAD: list[tuple[str, Any]] = [
    ("document", []),
    ("document", "text"),
    ("document", None),
    ("format", minimal(format="recension/agreement/v2")),
    ("format", minimal(format=1)),
    ("grant", minimal(grant=[])),
    ("?", {**minimal(), 7: 1}),
    ("?", minimal(**{"grants\x00": []})),
    ("licensee", minimal(licensee="Acme")),
    ("licensee", minimal(licensee=BIDI)),
    ("licensee", minimal(licensee="")),
    ("licensee", minimal(licensee=["acme"])),
    ("grants", {"licensee": "acme", "valid_from": "2026-01-01"}),
    ("grants", minimal(grants=[])),
    ("grants", minimal(grants={})),
    ("grants", minimal(grants=None)),
    ("grants", minimal(grants=[{"projects": [f"p{n}"], "freshness": "daily"} for n in range(101)])),
    ("grants[0]", minimal(grants=["enwiki"])),
    ("grants[0].project", grant(project="enwiki")),
    ("grants[0].projects", minimal(grants=[{"freshness": "realtime"}])),
    ("grants[0].projects", grant(projects="enwiki")),
    ("grants[0].projects", grant(projects=[])),
    ("grants[0].projects", grant(projects=[f"p{n}" for n in range(1001)])),
    ("grants[0].projects[0]", grant(projects=["en wiki"])),
    ("grants[0].projects[0]", grant(projects=["p" * 64])),
    ("grants[0].projects[0]", grant(projects=["enwiki\n"])),
    ("grants[0].projects[0]", grant(projects=[None])),
    ("grants[0].projects[0]", grant(projects=["\ud800"])),
    ("grants[0].projects[1]", grant(projects=["enwiki", "enwiki"])),
    ("grants[0].namespaces", grant(namespaces=[])),
    ("grants[0].namespaces", grant(namespaces=0)),
    ("grants[0].namespaces", grant(namespaces=list(range(501)))),
    ("grants[0].namespaces[0]", grant(namespaces=[2**31])),
    ("grants[0].namespaces[0]", grant(namespaces=[True])),
    ("grants[0].namespaces[0]", grant(namespaces=["0"])),
    ("grants[0].namespaces[0]", grant(namespaces=[0.0])),
    ("grants[0].slots", grant(slots=[])),
    ("grants[0].slots[0]", grant(slots=["ma in"])),
    ("grants[0].slots[0]", grant(slots=["m" * 256])),
    ("grants[0].freshness", minimal(grants=[{"projects": ["enwiki"]}])),
    ("grants[0].freshness", grant(freshness="yearly")),
    ("grants[0].freshness", grant(freshness="delay")),
    ("grants[0].freshness", grant(freshness=86_400)),
    ("grants[0].freshness.days", grant(freshness={"days": 1})),
    ("grants[0].freshness.delay_seconds", grant(freshness={})),
    ("grants[0].freshness.delay_seconds", grant(freshness={"delay_seconds": 0})),
    ("grants[0].freshness.delay_seconds", grant(freshness={"delay_seconds": -1})),
    ("grants[0].freshness.delay_seconds", grant(freshness={"delay_seconds": 10**12})),
    ("grants[0].earliest", grant(earliest="yesterday")),
    ("grants[0].earliest", grant(earliest=20260101)),
    ("grants[0].latest", grant(latest="2026-01-01T00:00:00")),
    ("grants[0].latest", grant(earliest="2026-01-02", latest="2026-01-01")),
    ("valid_from", {key: value for key, value in minimal().items() if key != "valid_from"}),
    ("valid_from", minimal(valid_from="2026-02-30")),
    ("valid_from", minimal(valid_from="10000-01-01")),
    ("valid_until", minimal(valid_until="2026-01-01")),
    ("valid_until", minimal(valid_until="2025-12-31")),
    ("valid_until", minimal(valid_until=None)),
    ("rates", minimal(rates=5)),
    ("rates.per_minute", minimal(rates={"per_minute": 5})),
    ("rates.requests_per_second", minimal(rates={"requests_per_second": -1})),
    ("rates.requests_per_second", minimal(rates={"requests_per_second": 0})),
    ("rates.requests_per_second", minimal(rates={"requests_per_second": 0.5})),
    ("rates.requests_per_second", minimal(rates={"requests_per_second": float("nan")})),
    ("rates.burst", minimal(rates={"burst": 5})),
    ("rates.burst", minimal(rates={"requests_per_second": 1, "burst": 10**9})),
    ("rates.concurrent_streams", minimal(rates={"concurrent_streams": True})),
    ("quotas.articles_per_day", minimal(quotas={"articles_per_day": 2, "articles_per_month": 1})),
    ("quotas.bytes_per_day", minimal(quotas={"bytes_per_day": 2, "bytes_per_month": 1})),
    ("quotas.bytes_per_month", minimal(quotas={"bytes_per_month": 2**53})),
    ("quotas.articles_per_day", minimal(quotas={"articles_per_day": "many"})),
    ("licenses", minimal(licenses="CC0-1.0")),
    ("licenses[0]", minimal(licenses=["CC0 1.0"])),
    ("licenses[1]", minimal(licenses=["CC0-1.0", "CC0-1.0"])),
    ("licenses", minimal(licenses=[f"L-{n}" for n in range(65)])),
    ("terms.sha256", minimal(terms={"url": "https://example.org/"})),
    ("terms.sha256", minimal(terms={"url": "https://example.org/", "sha256": "ab"})),
    ("terms.url", minimal(terms={"url": "http://example.org/", "sha256": "00" * 32})),
    ("terms.url", minimal(terms={"url": "https://example.org/\u202e", "sha256": "00" * 32})),
    ("terms.url", minimal(terms={"url": "https://user@example.org/", "sha256": "00" * 32})),
    ("terms.url", minimal(terms={"url": "https://e.org/" + "a" * 2048, "sha256": "00" * 32})),
    ("attribution.duties[0]", minimal(attribution={"duties": ["praise"]})),
    ("attribution.statement", minimal(attribution={"statement": "  "})),
    ("attribution.statement", minimal(attribution={"statement": "a\x1b[31m"})),
    ("attribution.statement", minimal(attribution={"statement": "\u2066a"})),
    ("attribution.statement", minimal(attribution={"statement": "a" * 4097})),
    ("pin_retention_days", minimal(pin_retention_days=-1)),
    ("pin_retention_days", minimal(pin_retention_days=10**6)),
]


@pytest.mark.parametrize("place,document", BAD)
def test_what_is_wrong_is_refused_where_it_is(place: str, document: Any) -> None:
    """The error has a name, and names the place; nothing hostile is repeated as it is."""
    with pytest.raises(InvalidAgreementError) as caught:
        parse_document(document)
    assert place == caught.value.metadata["field"]
    assert "INVALID_AGREEMENT" == caught.value.reason
    assert InvalidAgreementError is BY_REASON[caught.value.reason]
    assert all(char.isprintable() for char in caught.value.message)
    assert len(caught.value.message) < 400


def test_a_document_of_another_licensee() -> None:
    """It is refused for this one; one that names none is anybody's."""
    with pytest.raises(InvalidAgreementError, match="acme's, not other's"):
        parse_document(minimal(), "other")
    nobodys = {key: value for key, value in minimal().items() if key != "licensee"}
    assert parse_document(minimal(), "acme") == parse_document(nobodys, "acme")
    with pytest.raises(InvalidAgreementError, match="licensee"):
        parse_document(nobodys)


def test_a_huge_document() -> None:
    """Each list may be within its bound, and the whole is not."""
    projects = [f"p{n:062}" for n in range(1000)]
    grants = [{"projects": projects, "namespaces": [n], "freshness": "daily"} for n in range(100)]
    with pytest.raises(InvalidAgreementError, match="more than 262144"):
        parse_document(minimal(grants=grants))


@pytest.mark.parametrize(
    "one,other,clash",
    [
        ({}, {"namespaces": [0]}, True),
        ({"projects": ["dewiki", "enwiki"]}, {"projects": ["enwiki", "frwiki"]}, True),
        ({"projects": ["dewiki"]}, {"projects": ["enwiki"]}, False),
        ({"namespaces": [0]}, {}, True),
        ({"namespaces": [0, 1]}, {"namespaces": [1]}, True),
        ({"namespaces": [0]}, {"namespaces": [1]}, False),
        ({"slots": ["main"]}, {"slots": ["mediainfo"]}, False),
        ({"slots": ["main"]}, {"slots": ["main", "mediainfo"]}, True),
        ({"slots": ["main"]}, {"namespaces": [4]}, True),
        ({"slots": ["main"], "namespaces": [0]}, {"slots": ["main"], "namespaces": [1]}, False),
        ({"latest": "2020-01-01"}, {"earliest": "2021-01-01"}, True),
    ],
)
def test_grants_that_contradict_each_other(one: dict[str, Any], other: dict[str, Any], clash: bool) -> None:  # noqa: FBT001
    """Two that cover the same project, namespace and slot, at whatever time: nobody could say which rules."""
    base = {"projects": ["enwiki"], "freshness": "daily"}
    document = minimal(grants=[base | one, base | other])
    if not clash:
        assert 2 == len(parse_document(document).grants)
        return
    with pytest.raises(InvalidAgreementError, match="contradict") as caught:
        parse_document(document)
    assert "grants[1]" == caught.value.metadata["field"]


def test_a_project_is_of_one_freshness() -> None:
    """Grants of one project that divide it say the same of how fresh it is; an answer is of one moment."""
    main = {"projects": ["dewiki", "enwiki"], "slots": ["main"], "freshness": "daily"}
    other = {"projects": ["enwiki", "frwiki"], "slots": ["mediainfo"]}
    assert 2 == len(parse_document(minimal(grants=[main, other | {"freshness": "daily"}])).grants)
    with pytest.raises(InvalidAgreementError, match="grants enwiki too") as caught:
        parse_document(minimal(grants=[main, other | {"freshness": "monthly"}]))
    assert "grants[1].freshness" == caught.value.metadata["field"]


# --- over time ------------------------------------------------------------------------------------


def version(ordinal: int, start: int, stop: int | None = None) -> Version:
    """Return a version that holds from a day of 2026 to another."""
    times = {"valid_from": format_instant(parse_instant("2026-01-01") + start * DAY)}
    if stop is not None:
        times["valid_until"] = format_instant(parse_instant("2026-01-01") + stop * DAY)
    return Version(parse_document(minimal(**times)), ordinal, ordinal + 10)


def rules(versions: tuple[Version, ...], day: float) -> int:
    """Return the ordinal that rules on a day of 2026; 0 for none."""
    found = in_force(versions, parse_instant("2026-01-01") + int(day * DAY))
    return 0 if found is None else found.ordinal


def test_the_newest_that_holds_rules() -> None:
    """From its first instant to the one before its last; an older one is back after it."""
    versions = (version(1, 0), version(2, 10, 20), version(3, 15, 30))
    expected = {-1: 0, 0: 1, 9.99: 1, 10: 2, 14: 2, 15: 3, 20: 3, 29.99: 3, 30: 1, 1000: 1}
    assert expected == {day: rules(versions, day) for day in expected}
    assert expected == {day: rules(versions[::-1], day) for day in expected}
    assert 0 == rules((), 5)


def test_an_end_is_of_all_that_there_were() -> None:
    """The sooner of two ends counts; what is added later is not meant."""
    start = parse_instant("2026-01-01")
    first, second, third = version(1, 0), version(2, 10), version(3, 20, 40)
    ends = make_end("acme", start + 25 * DAY, 2, 13), make_end("acme", start + 30 * DAY, 2, 14)
    for order in (ends, ends[::-1]):
        found = versions_of((first, second, *order, third))
        assert [start + 25 * DAY, start + 25 * DAY, None] == [one.ends_at for one in found]
        assert {5: 1, 15: 2, 20: 3, 26: 3, 40: 0} == {day: rules(found, day) for day in (5, 15, 20, 26, 40)}
        assert [start + 25 * DAY] * 2 + [start + 40 * DAY] == [one.over_at for one in found]


@given(st.lists(st.tuples(st.integers(0, 40), st.one_of(st.none(), st.integers(1, 40))), max_size=6))
def test_the_rule_is_the_one_of_a_list(spans: list[tuple[int, int | None]]) -> None:
    """For each day: the last of a list that holds."""
    versions = tuple(
        version(at, start, None if length is None else start + length)
        for at, (start, length) in enumerate(spans, 1)
    )
    for day in range(-1, 85):
        holding = [
            at
            for at, (start, length) in enumerate(spans, 1)
            if start <= day and (length is None or day < start + length)
        ]
        assert max(holding, default=0) == rules(versions, day)


@given(st.lists(st.tuples(st.integers(0, 20), st.one_of(st.none(), st.integers(1, 20))), max_size=5))
def test_spans_say_which_version_rules_when(times: list[tuple[int, int | None]]) -> None:
    """They are in order and apart, each is as long as it can be, and say of each day what the rule says."""
    versions = tuple(
        version(at, start, None if length is None else start + length)
        for at, (start, length) in enumerate(times, 1)
    )
    found = spans(versions)
    start = parse_instant("2026-01-01")
    for day in range(-1, 45):
        at = start + day * DAY
        ruling = [one.ordinal for begin, end, one in found if begin <= at and (end is None or at < end)]
        expected = rules(versions, day)
        assert ([expected] if expected else []) == ruling
    for (_, end, one), (begin, _, other) in pairwise(found):
        assert end is not None
        assert end <= begin
        assert end < begin or one != other


def test_what_is_kept_after_the_end() -> None:
    """The last version that ruled says for how long; none does while one rules, or before any did."""
    start = parse_instant("2026-01-01")
    kept = parse_document(minimal(valid_until="2026-01-11", pin_retention_days=5))
    shorter = parse_document(minimal(valid_until="2026-01-21"))
    versions = (Version(kept, 1, 1), version(2, 30, 40))
    expected = {-1: 0, 0: 0, 9.99: 0, 10: 1, 14.99: 1, 15: 0, 30: 0, 40: 0}
    for day, ordinal in expected.items():
        found = retained(versions, start + int(day * DAY))
        assert ordinal == (0 if found is None else found.ordinal)
    replaced = (Version(kept, 1, 1), Version(shorter, 2, 2))
    assert retained(replaced, start + 12 * DAY) is None
    assert retained(replaced, start + 20 * DAY) is None
    assert retained((), start) is None


def test_spans_of_versions_that_follow_each_other() -> None:
    """An older version is back when the newer one is over, and between two there may be none."""
    start = parse_instant("2026-01-01")
    first, second, third = version(1, 0, 30), version(2, 10, 20), version(3, 40)
    assert [
        (start, start + 10 * DAY, first),
        (start + 10 * DAY, start + 20 * DAY, second),
        (start + 20 * DAY, start + 30 * DAY, first),
        (start + 40 * DAY, None, third),
    ] == spans((first, second, third))


def test_differences_in_words() -> None:
    """Grants that cover the same are compared field by field, others are there or not."""
    before = parse_document(full())
    other = full()
    other["grants"] = [
        {"projects": ["enwiki", "dewiki"], "namespaces": [0], "slots": ["main"], "freshness": "daily"},
        {"projects": ["frwiki"], "namespaces": [1], "freshness": {"delay_seconds": 60}},
        {"projects": ["commons"], "freshness": "realtime", "earliest": "2020-01-01", "latest": "2026-01-01"},
    ]
    other["valid_until"] = "2028-01-01"
    del other["pin_retention_days"]
    other["licenses"] = ["CC-BY-SA-4.0"]
    many = "grant of dewiki and 1 more: "
    assert [
        Difference(many + "namespaces", "0, 14", "0"),
        Difference(many + "freshness", "monthly", "daily"),
        Difference("grant", "projects itwiki; namespaces 1; slots all; freshness 86400 s late", ""),
        Difference("grant", "", "projects frwiki; namespaces 1; slots all; freshness 60 s late"),
        Difference("licenses", "CC-BY-SA-3.0, CC-BY-SA-4.0", "CC-BY-SA-4.0"),
        Difference("pin_retention_days", "90", ""),
        Difference("valid_until", "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"),
    ] == differences(before, parse_document(other))
    assert differences(before, before) == []
    assert dict(words_of(before))["grant 1"].endswith(
        "freshness realtime; from 2020-01-01T00:00:00Z; to 2026-01-01T00:00:00Z"
    )


@pytest.mark.parametrize(
    "freshness,expected",
    [
        (Freshness(Cadence.REALTIME), "2026-05-20T10:11:12.131415Z"),
        (Freshness(Cadence.DELAY, 86_400), "2026-05-19T10:11:12.131415Z"),
        (Freshness(Cadence.DAILY), "2026-05-20"),
        (Freshness(Cadence.WEEKLY), "2026-05-18"),
        (Freshness(Cadence.MONTHLY), "2026-05-01"),
    ],
)
def test_horizons(freshness: Freshness, expected: str) -> None:
    """The first instant of a day, a week from Monday on, or a month; now, or some time before it."""
    assert parse_instant(expected) == horizon(freshness, NOW)


@given(st.integers(-(10**15), 10**16), st.sampled_from([Cadence.DAILY, Cadence.WEEKLY, Cadence.MONTHLY]))
def test_a_horizon_is_where_its_span_begins(now: int, cadence: Cadence) -> None:
    """Not behind now, midnight, its own horizon, and the microsecond before it has another."""
    freshness = Freshness(cadence)
    at = horizon(freshness, now)
    begin = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
    assert at <= now
    assert 0 == at % DAY
    assert at == horizon(freshness, at)
    assert at > horizon(freshness, at - 1)
    assert now - at < {Cadence.DAILY: DAY, Cadence.WEEKLY: 7 * DAY, Cadence.MONTHLY: 31 * DAY}[cadence]
    assert cadence is not Cadence.WEEKLY or 0 == begin.weekday()
    assert cadence is not Cadence.MONTHLY or 1 == begin.day


# --- statements -----------------------------------------------------------------------------------


def test_statements_are_read_as_they_are_written() -> None:
    """Anything else is refused by name."""
    added: Agreement = parse_document(minimal())
    good = version_statement(added, 2, 7)
    end = make_end("acme", NOW, 2, 8)
    assert Version(added, 2, 7) == read_statement(good)
    assert end == read_statement(end.encoded)
    for bad in (
        b"",
        b"[]",
        b"{}",
        b"\xff",
        good + b" ",
        good.replace(b"realtime", b"monthly "),
        good.replace(b"agreement-version/v1", b"agreement-version/v2"),
        good.replace(b'"7"', b'"0"'),
        good.replace(b'"7"', b"7"),
        good.replace(b'"ordinal":2', b'"ordinal":0'),
        good.replace(b'"ordinal":2', b'"ordinal":true'),
        good.replace(b"acme", b"ACME"),
        good.replace(b"T00:00:00Z", b""),
        good[:-1] + b',"ended":false}',
        end.encoded.replace(b'"upto":2', b'"upto":0'),
        end.encoded.replace(b"acme", b"ACME"),
        end.encoded.replace(b"2026-", b"26-"),
        b"[" * 100_000,
    ):
        with pytest.raises(InvalidAgreementError):
            read_statement(bad)
    with pytest.raises(InvalidArgumentError):
        make_end("acme", MAX_INSTANT + 1, 1, 1)
