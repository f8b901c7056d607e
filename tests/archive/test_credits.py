"""Whom to credit, against what others count in the same sources."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recension.archive import clock
from recension.archive import credits as module
from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.archive.retracting import Retractor, Wanted
from recension.model import errors
from recension.model.credit import Attribution, ContributorKind, read_periods
from recension.model.event import HIDDEN_CONTRIBUTOR, NO_COMMENT, NOBODY, Contributor, Edit, Visibility
from recension.model.instant import parse_instant
from recension.model.manifest import OnHidden, Selector
from recension.model.reading import ProjectInfo, Shard, wanted
from recension.model.retraction import Part, Reason
from recension.sources.containers import open_container
from tests.archive.helpers import NOW, World, delete, edit, move, restore, shared
from tests.archive.test_truth import ingest, opened

SAMPLE = Path(str(files("recension.server") / "sample" / "aawiki-20260101-pages-meta-history.xml.7z"))
ANN, BOB = Contributor.named("Ann", 1), Contributor.named("Bob", 2)


class Said(NamedTuple):
    """A revision as a dump has it."""

    page: int
    rev: int
    time: int
    who: tuple[str, str]
    """(element, text) of the contributor."""


def revisions(path: Path) -> list[Said]:
    """Read a dump by another parser than ours."""
    with open_container(path) as source:
        content = b"".join(iter(lambda: source.read(1 << 20), b""))
    out = []
    root = ET.fromstring(content)  # noqa: S314 - a file of ours
    for page in root.iter():
        if not page.tag.endswith("page"):
            continue
        for rev in page.iterfind("{*}revision"):
            (who,) = rev.iterfind("{*}contributor")
            name, ip = who.find("{*}username"), who.find("{*}ip")
            if "deleted" in who.attrib:
                said = ("hidden", "")
            elif name is not None:
                said = ("name", name.text or "")
            else:
                assert ip is not None
                said = ("ip", ip.text or "")
            time = parse_instant(rev.findtext("{*}timestamp") or "")
            out.append(Said(int(page.findtext("{*}id") or 0), int(rev.findtext("{*}id") or 0), time, said))
    return out


def counted(said: list[Said], page: int, time: int, rev: int) -> tuple[Counter[str], int]:
    """Return how many edits each name has up to a revision, and how many are hidden."""
    before = [one.who for one in said if one.page == page and (one.time, one.rev) <= (time, rev)]
    names = Counter(name for element, name in before if element != "hidden")
    return names, sum(element == "hidden" for element, _ in before)


def as_recorded(found: Attribution) -> Counter[str]:
    """Return the edits of each contributor by the name that the source wrote."""
    return Counter(
        {
            f"{share.person.origin}>{share.person.name}"
            if share.person.origin
            else share.person.name: share.edits
            for share in found.shares
        }
    )


@pytest.fixture(scope="module")
def wiki() -> Archive:
    """A whole wiki, with the licences that it had."""
    ingestor, archive, _ = opened("aawiki")
    ingestor.set_licenses("aawiki", read_periods(["CC-BY-SA-3.0", "CC-BY-SA-4.0@2023-06-07"]))
    ingest(ingestor, "history", SAMPLE, "aawiki")
    return archive


def test_contributors_of_a_whole_wiki(wiki: Archive) -> None:
    """Each page of three past days names those whom the dump names, with as many edits."""
    said, archive = revisions(SAMPLE), wiki
    kinds: Counter[ContributorKind] = Counter()
    for day in ("2006-06-01", "2014-01-01", "2026-01-01"):
        manifest = archive.create_snapshot(Selector.of(["aawiki"]), valid_at=parse_instant(day))
        attributed = list(archive.attributions(manifest.snapshot_id))
        entries = list(archive.entries(manifest.snapshot_id))
        assert [(one.page_id, one.rev_id, one.title) for one in entries] == [
            (one.page_id, one.rev_id, one.title) for one in attributed
        ]
        for one in attributed:
            names, hidden = counted(said, one.page_id, one.timestamp, one.rev_id)
            assert (names, hidden, 0) == (as_recorded(one), one.hidden_edits, one.unstated_edits)
            assert names.total() == one.edits
            assert min(each.time for each in said if each.page == one.page_id) == one.first_edit_at
            before = one.timestamp < parse_instant("2023-06-07")
            assert ("CC-BY-SA-3.0" if before else "CC-BY-SA-4.0") == one.license
            assert sorted((share.edits for share in one.shares), reverse=True) == [
                share.edits for share in one.shares
            ]
        for share in (share for one in attributed for share in one.shares):
            kinds[share.person.kind] += share.edits
    elements = {one.who[1]: one.who[0] for one in said}
    manifest = archive.create_snapshot(Selector.of(["aawiki"]))
    for share in (share for one in archive.attributions(manifest.snapshot_id) for share in one.shares):
        if share.person.kind is not ContributorKind.IMPORTED:
            assert (elements[share.person.name] == "ip") == (share.person.kind is ContributorKind.ADDRESS)
    assert {ContributorKind.REGISTERED, ContributorKind.ADDRESS, ContributorKind.IMPORTED} == set(kinds)


def test_single_revisions_and_pages_agree_with_the_whole(wiki: Archive) -> None:
    """What a snapshot says of a page is what its revision and the page as of that day say."""
    archive = wiki
    day = parse_instant("2014-01-01")
    manifest = archive.create_snapshot(Selector.of(["aawiki"]), valid_at=day)
    for one in archive.attributions(manifest.snapshot_id, shard=Shard(1, 4)):
        credited = archive.article_attribution("aawiki", one.page_id, valid_at=day)
        assert one == credited.attribution
        assert day == credited.as_of.valid_at
        alone = archive.revision_attribution("aawiki", one.rev_id).attribution
        assert one.shares == alone.shares


def test_a_contributor_who_was_hidden_later_is_hidden_in_every_past() -> None:
    """An address of 2023 that upstream hid by 2025 leaves also the attribution of what was known in 2023."""
    early = shared("wikimedia/refinery-content-export/simplewiki-dump1.0-2023-07.xml")
    late = shared("wikimedia/refinery-content-export/simplewiki-content-export-2025-11.xml")
    ingestor, archive, store = opened("simplewiki")
    ingest(ingestor, "history", early, "simplewiki")
    known = store.log.head().position
    selector = Selector.of(["simplewiki"], on_hidden=OnHidden.KEEP)
    snapshot = archive.create_snapshot(selector, known_at=known).snapshot_id
    for path in (early, late):
        if path is late:
            ingest(ingestor, "history", late, "simplewiki")
        said = revisions(path)
        for one in archive.attributions(snapshot):
            names, hidden = counted(said, one.page_id, one.timestamp, one.rev_id)
            assert (names, hidden) == (as_recorded(one), one.hidden_edits)
    (address,) = {one.who[1] for one in revisions(early)} - {one.who[1] for one in revisions(late)}
    assert address not in str(list(archive.attributions(snapshot)))
    assert address not in str(archive.revision_attribution("simplewiki", 1714215, known_at=known))


def by(rev: int, who: Contributor, text: str = "") -> Edit:
    """Return an edit of somebody."""
    made = edit(rev, text or f"text {rev}")
    return Edit(rev, 0, made.title, 0, False, who, NO_COMMENT, minor=False, slots=made.slots)  # noqa: FBT003


def hide_who(rev: int, *, hidden: bool = True) -> Visibility:
    """Return a visibility change of the contributor alone."""
    return Visibility(rev, text_hidden=False, comment_hidden=False, contributor_hidden=hidden)


def shares(found: Attribution) -> list[tuple[str, int]]:
    """Return (name, edits)."""
    return [(share.person.shown, share.edits) for share in found.shares]


def test_who_counts_and_who_does_not() -> None:
    """Edits up to the revision count, also before a deletion; no moves, nothing that was learned later."""
    world = World()
    world.add(
        world.event(1, 1, by(1, ANN)),
        world.event(1, 2, by(2, BOB)),
        world.event(1, 3, delete()),
        world.event(1, 4, restore()),
        world.event(1, 5, by(3, BOB)),
        world.event(1, 6, move("A", "B")),
        world.event(1, 7, by(4, NOBODY)),
        world.event(1, 8, by(5, HIDDEN_CONTRIBUTOR)),
    )
    known = world.store.log.head().position
    world.add(world.event(1, 1.5, by(6, ANN)))
    found = world.archive.article_attribution("w", 1).attribution
    assert [("Ann", 2), ("Bob", 2)] == shares(found)
    assert (1, 1, 6) == (found.hidden_edits, found.unstated_edits, found.edits)
    assert world.day(1) == found.first_edit_at
    before = world.archive.article_attribution("w", 1, valid_at=world.day(5), known_at=known).attribution
    assert [("Bob", 2), ("Ann", 1)] == shares(before)
    assert "A" == before.title
    with pytest.raises(errors.RevisionNotFoundError):
        world.archive.revision_attribution("w", 77)
    with pytest.raises(errors.PageNotFoundError):
        world.archive.article_attribution("w", "B", valid_at=world.day(1))


def test_a_renamed_account_is_one_contributor() -> None:
    """It goes by its later name; others of the same name are others."""
    world = World()
    people = [ANN, Contributor.named("Anna", 1), Contributor.named("Ann", 9), Contributor.named("Ann")]
    world.add(*(world.event(1, at, by(at, who)) for at, who in enumerate(people, 1)))
    found = world.archive.article_attribution("w", 1).attribution
    assert [("Anna", 2), ("Ann", 1), ("Ann", 1)] == shares(found)


def test_a_contributor_who_was_retracted_is_hidden_at_once_and_for_ever() -> None:
    """Masked, then erased: what is left says that there was somebody, in a snapshot made before too."""
    world = World()
    world.add(*(world.event(1, rev, by(rev, who)) for rev, who in ((1, ANN), (2, BOB), (3, BOB))))
    snapshot = world.snapshot(4)
    retractor = Retractor(world.store, clock=lambda: NOW)
    plan = retractor.plan("w", Wanted(contributors=frozenset({"Bob"})), tuple(Part))

    def told() -> list[tuple[list[tuple[str, int]], int]]:
        alone = world.archive.article_attribution("w", 1).attribution
        return [(shares(one), one.hidden_edits) for one in (alone, *world.archive.attributions(snapshot))]

    assert 2 * [([("Bob", 2), ("Ann", 1)], 0)] == told()
    retractor.mask(plan, "case-1", Reason.PRIVACY)
    assert 2 * [([("Ann", 1)], 2)] == told()
    with world.store.exclusive_writer():
        retractor.erase(plan)
    assert 2 * [([("Ann", 1)], 2)] == told()


@pytest.mark.parametrize("seconds, told", [(0.0, []), (1e9, [("Bob", 1)])])
def test_who_takes_credits_slowly_is_not_told_who_was_withdrawn_since(
    monkeypatch: pytest.MonkeyPatch, seconds: float, told: list[tuple[str, int]]
) -> None:
    """What was read before it was hidden, and is taken later, is read again, unless it is fresh."""
    monkeypatch.setattr(clock, "FRESH_SECONDS", seconds)
    world = World()
    world.add(*(world.event(page, 1, by(page, who)) for page, who in ((1, ANN), (2, ANN), (3, BOB))))
    stream = world.archive.attributions(world.snapshot(4))
    assert [("Ann", 1)] == shares(next(stream))
    retractor = Retractor(world.store, clock=lambda: NOW)
    plan = retractor.plan("w", Wanted(contributors=frozenset({"Bob"})), tuple(Part))
    retractor.mask(plan, "case-1", Reason.PRIVACY)
    assert [[("Ann", 1)], told] == [shares(one) for one in stream]


def test_a_lost_text_that_came_later_is_no_second_edit() -> None:
    """A revision that is stored again is counted once."""
    world = World()
    world.add(world.event(1, 1, edit(1, "", lost=True)))
    world.add(world.event(1, 1, edit(1, "found")), world.event(1, 2, edit(2, "more")))
    assert 2 == world.archive.article_attribution("w", 1).attribution.edits


def test_what_changed_since_a_snapshot() -> None:
    """Only pages whose entry is another are attributed anew; the increment and the rest are the whole."""
    world = World()
    world.add(*(world.event(page, 1, edit(page, "a", f"P{page}")) for page in range(1, 600)))
    world.add(world.event(2, 3, edit(1002, "b", "P2")), world.event(300, 3, delete("P300")))
    world.add(world.event(700, 3, edit(700, "b", "New")), world.event(9, 3, move("P9", "Q9")))
    before, after = world.snapshot(2), world.snapshot(4)
    whole = list(world.archive.attributions(after))
    changed = list(world.archive.attributions(after, since=before))
    assert [2, 9, 700] == [one.page_id for one in changed]
    assert [one for one in whole if one.page_id in {2, 9, 700}] == changed
    assert changed[1:] == list(world.archive.attributions(after, since=before, after=("w", 2)))
    assert [] == list(world.archive.attributions(after, since=after))
    parts = [list(world.archive.attributions(after, since=before, shard=Shard(at, 2))) for at in range(2)]
    assert changed == sorted(chain.from_iterable(parts), key=lambda one: one.page_id)


def test_a_question_that_nobody_waits_for_ends() -> None:
    """Work on a page of many edits stops once its caller has left."""
    world = World()
    world.add(world.event(1, 1, edit(1, "a")))
    token = wanted.set(lambda: False)
    try:
        with pytest.raises(errors.DeadlineError):
            world.archive.article_attribution("w", 1)
    finally:
        wanted.reset(token)


def test_licences_of_a_project_can_be_said_anew() -> None:
    """They hold for the whole past; a definition without periods stays as it was, to the byte."""
    world = World()
    world.add(world.event(1, 1, edit(1, "a")), world.event(1, 5, edit(2, "b")))
    assert not world.archive.project("w").licenses
    assert not world.ingestor.set_licenses("w", read_periods(["CC0-1.0"]))
    assert world.ingestor.set_licenses("w", read_periods(["CC-BY-SA-3.0", "CC-BY-SA-4.0@2020-01-04"]))
    assert not world.ingestor.set_licenses("w", read_periods(["CC-BY-SA-3.0", "CC-BY-SA-4.0@2020-01-04"]))
    assert "CC-BY-SA-4.0" == world.archive.project("w").license
    assert ["CC-BY-SA-3.0", "CC-BY-SA-4.0"] == [
        world.archive.revision_attribution("w", rev).attribution.license for rev in (1, 2)
    ]
    world.ingestor.learn_site("w", {0: "", 1: "Talk"}, "")
    assert 2 == len(world.archive.project("w").licenses)
    assert world.ingestor.set_licenses("w", read_periods(["CC0-1.0"]))
    assert () == world.archive.project("w").licenses
    other = ProjectInfo(
        "x", "https://x.example", "en", "CC0-1.0", licenses=read_periods(["MIT", "ISC@2020-01-01"])
    )
    with pytest.raises(errors.InvalidArgumentError):
        Ingestor(world.store).create_project(other)


people = st.sampled_from([ANN, BOB, Contributor.named("192.0.2.1"), NOBODY, HIDDEN_CONTRIBUTOR])
steps = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 20), people, st.sampled_from(["edit", "hide", "show"])),
    max_size=25,
)


@settings(max_examples=60)
@given(steps, st.integers(0, 20), st.data())
def test_any_history(history: list[tuple[int, int, Contributor, str]], day: int, data: st.DataObject) -> None:
    """A fold of all events, done in the plainest way, names the same people for each page of a snapshot."""
    world = World()
    world.add(world.event(9, 0, by(900, ANN)))
    edits: list[tuple[int, int, int, int, Contributor]] = []
    hidden: dict[int, bool] = {}
    for rev, (page, when, who, what) in enumerate(history, 1):
        if what == "edit":
            world.add(world.event(page, when, by(rev, who)))
            edits.append((world.store.log.head().position, page, when, rev, who))
        elif edits:
            _, page_, _, rev_, _ = edits[rev % len(edits)]
            world.add(world.event(page_, when, hide_who(rev_, hidden=what == "hide")))
            hidden[rev_] = what == "hide"
    known = data.draw(st.integers(2, world.store.log.head().position))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_EDITS", 2)
        patch.setattr(module, "_PAGES", 2)
        snapshot = world.snapshot(day, known)
        attributed = list(world.archive.attributions(snapshot))
    for found in attributed:
        if found.page_id == 9:
            continue
        rows = sorted(
            (when, rev, who)
            for position, page, when, rev, who in edits
            if position <= known and page == found.page_id and when <= day
        )  # fmt: skip
        names: Counter[str] = Counter()
        classes: Counter[str] = Counter()
        for _, rev, who in rows:
            own = who is HIDDEN_CONTRIBUTOR
            if hidden.get(rev, own) or own:
                classes["hidden"] += 1
            elif who is NOBODY:
                classes["unstated"] += 1
            else:
                names[who.name] += 1
        assert names == dict(shares(found))
        assert (classes["hidden"], classes["unstated"]) == (found.hidden_edits, found.unstated_edits)
        assert len(rows) == found.edits
        assert rows[-1][1] == found.rev_id
