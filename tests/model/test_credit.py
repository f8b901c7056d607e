"""Who a name is, which licence held when, and how an address is written."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model.credit import (
    Attribution,
    ContributorKind,
    LicensePeriod,
    Person,
    Share,
    check_periods,
    credit_line,
    history_link,
    license_at,
    license_of,
    permalink,
    person_of,
    read_periods,
    statement,
)
from recension.model.errors import InvalidArgumentError
from recension.model.event import Contributor
from recension.model.instant import parse_instant

KIND = ContributorKind


@pytest.mark.parametrize(
    "name, number, kind, shown",
    [
        ("Arde~aawiki", 5, KIND.REGISTERED, "Arde~aawiki"),
        ("192.0.2.7", 5, KIND.REGISTERED, "192.0.2.7"),  # an old account is one, whatever its name
        ("192.0.2.7", None, KIND.ADDRESS, "192.0.2.7"),
        ("192.0.2.7", 0, KIND.ADDRESS, "192.0.2.7"),
        ("2001:DB8:0:0:0:0:0:1", None, KIND.ADDRESS, "2001:DB8:0:0:0:0:0:1"),
        ("62.253.64.xxx", None, KIND.ADDRESS, "62.253.64.xxx"),
        ("~2025-12345-6", 99, KIND.TEMPORARY, "~2025-12345-6"),
        ("~2025-12345-6", None, KIND.TEMPORARY, "~2025-12345-6"),
        ("~2025", 99, KIND.REGISTERED, "~2025"),
        ("en>Jimbo Wales", 0, KIND.IMPORTED, "Jimbo Wales (of en)"),
        ("w:de>Ünï", None, KIND.IMPORTED, "Ünï (of w:de)"),
        ("imported>192.0.2.7", 0, KIND.IMPORTED, "192.0.2.7 (imported)"),
        (">Nobody", 0, KIND.NAMED, ">Nobody"),
        ("a>b>c", 0, KIND.NAMED, "a>b>c"),
        ("<i>x</i>", None, KIND.NAMED, "<i>x</i>"),
        ("Conversion script", 0, KIND.NAMED, "Conversion script"),
        ("", None, KIND.NAMED, ""),
    ],
)
def test_who_a_name_is(name: str, number: int | None, kind: ContributorKind, shown: str) -> None:
    """Accounts go by their ids, everything else by the form of the name."""
    person = person_of(Contributor.named(name, number))
    assert (kind, shown, number) == (person.kind, person.shown, person.id)


def test_the_licence_is_that_of_the_day() -> None:
    """A licence holds from its first instant on, the first from the beginning of time."""
    periods = read_periods(["GFDL-1.2-only", "CC-BY-SA-3.0@2009-06-15", "CC-BY-SA-4.0@2023-06-07"])
    changed = parse_instant("2023-06-07")
    assert ["GFDL-1.2-only", "CC-BY-SA-3.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0"] == [
        license_at(periods, at) for at in (-(10**17), parse_instant("2009-06-15"), changed - 1, changed)
    ]
    assert "CC0-1.0" == license_at([LicensePeriod("CC0-1.0")], 0)


@pytest.mark.parametrize(
    "said",
    [
        [],
        [""],
        ["<b>"],
        ["CC-BY-4.0@2020-01-01"],
        ["CC-BY-3.0", "CC-BY-4.0"],
        ["CC-BY-3.0", "CC-BY-4.0@yesterday"],
        ["CC-BY-3.0", "CC-BY-4.0@2020-01-02", "CC0-1.0@2020-01-01"],
        ["CC-BY-3.0", "CC-BY-4.0@2020-01-01", "CC0-1.0@2020-01-01"],
        ["x" * 256],
        ["CC0-1.0"] * 65,
    ],
)
def test_licences_with_a_gap_are_refused(said: list[str]) -> None:
    """There is exactly one licence for each instant, and it looks like one."""
    with pytest.raises(InvalidArgumentError) as caught:
        read_periods(said)
    assert "license" == caught.value.metadata["field"]


def test_licences_as_people_know_them() -> None:
    """Well-known licences have the address of their text, others that of their list, if any."""
    known = license_of("CC-BY-SA-3.0")
    assert ("CC BY-SA 3.0", "https://creativecommons.org/licenses/by-sa/3.0/") == (known.short, known.url)
    assert "https://creativecommons.org/publicdomain/zero/1.0/" == license_of("CC0-1.0").url
    assert "https://spdx.org/licenses/GFDL-1.3-or-later.html" == license_of("GFDL-1.3-or-later").url
    assert "" == license_of("LicenseRef-ours").url
    assert "" == license_of("MIT OR Apache-2.0").url
    assert check_periods([LicensePeriod("MIT OR (Apache-2.0 WITH x)")])


@given(st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable()), st.integers(1, 2**63 - 1))
def test_links_hold_any_title(title: str, rev_id: int) -> None:
    """Whoever reads the address has the title again, and can put it into an attribute as it is."""
    link = permalink("https://w.example", title, rev_id)
    parts = urlsplit(link)
    assert ("w.example", "/w/index.php", "") == (parts.netloc, parts.path, parts.fragment)
    assert {"title": [title.replace(" ", "_")], "oldid": [str(rev_id)]} == parse_qs(
        parts.query, keep_blank_values=True
    )
    assert link.isascii()
    assert not set("<>\"' `") & set(link)
    assert {"action": ["history"]}.items() <= parse_qs(
        urlsplit(history_link("https://w.example", title)).query
    ).items()


def found(names: int, **more: object) -> Attribution:
    shares = tuple(Share(Person(KIND.REGISTERED, f"P{at}", at), 1) for at in range(1, names + 1))
    one = Attribution("w", 1, 2, 0, "A", 0, False, False, "CC0-1.0", 0, names, shares)  # noqa: FBT003
    return one._replace(**more)  # type: ignore[arg-type] # whatever a test varies


def test_credit_lines() -> None:
    """Three are named, the others counted; those who are hidden are said to be."""
    assert "" == credit_line(found(0))
    assert "P1" == credit_line(found(1))
    assert "P1, P2 and P3" == credit_line(found(3))
    assert "P1, P2, P3 and 1 other contributor" == credit_line(found(4))
    assert "P1, P2, P3 and 1,001 other contributors" == credit_line(found(4, omitted=1000))
    assert "P1 and contributors whose names are hidden" == credit_line(found(1, hidden_edits=2))
    assert "contributors whom the source does not name" == credit_line(found(0, unstated_edits=2))


def test_a_statement_has_all_that_a_licence_asks_for() -> None:
    """Title, revision, address, authors, licence with its text, and what was changed."""
    said = statement(found(1), "https://w.example")
    for needed in (
        "“A”, revision 2 of 1970-01-01T00:00:00Z", "index.php?title=A&oldid=2", "by P1", "CC0", "byte"
    ):  # fmt: skip
        assert needed in said
    assert "action=history" in statement(found(1, text_hidden=True), "https://w.example")
