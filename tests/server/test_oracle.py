"""Random agreements, questions and clocks: the server answers what the oracle says, and not a byte more."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ClassVar, TypeVar, cast

import pytest

from recension.archive.changes import Changes
from recension.archive.horizons import Horizons
from recension.archive.ingest import Ingestor
from recension.archive.projects import Numbers
from recension.archive.reader import Archive
from recension.model import decision, errors
from recension.model.access import Role
from recension.model.agreement import Agreement, Grant, Version, parse_document
from recension.model.decision import FOREVER, ContentRequest, Decision, Reason, Request, grants_of
from recension.model.digest import digest_of, format_digest
from recension.model.event import (
    NO_COMMENT,
    NOBODY,
    Delete,
    Edit,
    Event,
    Happening,
    Move,
    Presence,
    Restore,
    SlotText,
    Visibility,
)
from recension.model.instant import parse_instant
from recension.model.manifest import Manifest, Selector
from recension.model.reading import ProjectInfo
from recension.model.tree import build
from recension.server import scope as scopes
from recension.server.cursors import Cursors
from recension.server.door import Caller, act_for
from recension.server.fanout import Fanout
from recension.server.gate import Gate
from recension.server.licensed import Licensed
from recension.server.rpc.catalog import CatalogRpc
from recension.server.rpc.change import ChangeRpc
from recension.server.rpc.revision import RevisionRpc
from recension.server.rpc.snapshot import SnapshotRpc
from recension.store.memory import MemoryStore
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import change_service_pb2 as change_pb
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.wire import convert
from recension.wire.frames import decoded
from recension_client.watching import Commit, WatchStream
from tests.server.oracle import HIDDEN, WITHHELD, Happened, Oracle

PROJECTS = ("p", "q", "r")
NAMESPACES = (0, 2, 4)
ROLES = ("extra", "main")
START = parse_instant("2024-01-01")
HOUR = 3_600_000_000
STEP = 31 * HOUR
END = parse_instant("2025-01-01")
NOWHERE = 10**7
CANARY = re.compile(rb"canary-[0-9a-f]{12}")
FRESHNESS = ("realtime", "realtime", {"delay_seconds": 86_400}, "daily", "weekly", "monthly")


class Still:
    """A call that nobody leaves."""

    def is_active(self) -> bool:
        return True


class Outlet:
    """Where a follower's messages go, until it is told that there is nothing more."""

    def __init__(self) -> None:
        self.messages: list[change_pb.WatchResponse] = []
        self.articles = self.text_bytes = 0
        self._done = threading.Event()
        self._error: Exception | None = None
        self._then: list[Callable[[], None]] = []

    def check(self) -> None:
        """Nothing ends it."""

    def take(self, articles: int, text_bytes: int) -> None:
        self.articles += articles
        self.text_bytes += text_bytes

    def send(self, message: bytes) -> None:
        if self._done.is_set():
            return
        found = change_pb.WatchResponse.FromString(message)
        self.messages.append(found)
        if found.HasField("heartbeat") and not found.heartbeat.more:
            self._done.set()

    def end(self, error: Exception | None = None) -> None:
        self._error = error
        self._done.set()

    def when_over(self, then: Callable[[], None]) -> None:
        self._then.append(then)

    def all(self) -> Iterator[change_pb.WatchResponse]:
        """Wait for everything and leave; yield the messages. Raises what ended them."""
        assert self._done.wait(60)
        for then in self._then:
            then()
        if self._error is not None:
            raise self._error
        yield from self.messages


_T = TypeVar("_T")


class World:
    """Three projects, and one licensee whose agreement and clock each case sets."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.store = MemoryStore()
        self.now = START
        self.at = START
        ingestor = Ingestor(self.store, clock=lambda: self.at)
        for name in PROJECTS:
            ingestor.create_project(ProjectInfo(name, f"https://{name}.example", "en", "CC0-1.0"))
        # Each microsecond one, as the clock stands still.
        self.commits = [(number + 1, START + number) for number in range(len(PROJECTS))]
        self.events: list[Happened] = []
        for one in self._history():
            appended = ingestor.append(one.project, [self._event(one)])
            assert appended.accepted == 1, appended
            self.commits.append((appended.position, appended.recorded_at))
            self.events.append(replace(one, position=appended.position, recorded_at=appended.recorded_at))
        archive = Archive(self.store, clock=lambda: END)
        self.texts = {text for one in self.events for _, text in one.slots}
        self.manifests = [manifest for _ in range(80) if (manifest := self._snapshot(archive)) is not None]
        reader = Licensed(archive, self, Horizons(self.store), wall=lambda: END, embargo=lambda: self.now)
        cursors = Cursors(lambda: bytes(32), lambda _: self.version.name)
        gates = [Gate(8) for _ in range(4)]
        self.catalog = CatalogRpc(reader, cursors)
        self.revision = RevisionRpc(reader, gates[0], gates[1], cursors)
        self.snapshots = SnapshotRpc(reader, gates[2], gates[3], cursors)
        self._reader = reader
        self.follow_anew()

    def follow_anew(self) -> None:
        """Forget what followers were sent."""
        fanout = Fanout(Changes(self.store, lambda: END, Numbers()), limit=2, builders=2)
        self.changes = ChangeRpc(self._reader, fanout)

    def current(self, licensee: str, now: int) -> Version | None:
        """Return the agreement of this case."""
        return self.version

    def retained(self, licensee: str, now: int) -> Version | None:
        """Return none: here nothing ever ended."""

    # --- what happened ------------------------------------------------------------------------------

    def _canary(self) -> str:
        return f"canary-{self.random.randrange(16**12):012x}"

    def _history(self) -> Iterator[Happened]:
        """Yield what happens to some pages, a commit each; some edits come late."""
        random, rev = self.random, 0
        pages: dict[tuple[str, int], Happened] = {}
        deleted: set[tuple[str, int]] = set()
        for step in range(150):
            self.at = START + (step + 1) * STEP
            project, page = random.choice(PROJECTS), random.randrange(1, 7)
            page += 10 * PROJECTS.index(project)
            before = pages.get((project, page))
            time = self.at - HOUR
            kind = "edit" if before is None else random.choice(("edit",) * 5 + ("move", "delete", "hide"))
            if (project, page) in deleted:
                kind = random.choice(("restore", "edit"))
            if before is None or kind == "edit":
                late = random.random() < 0.2
                rev += 1
                roles = random.choice((("main",), ROLES))
                done = Happened(
                    project,
                    page,
                    time - random.randrange(1, 40) * 24 * HOUR if late else time,
                    "edit",
                    rev=rev,
                    namespace=before.namespace if before else random.choice(NAMESPACES),
                    title=before.title if before else f"T {self._canary()}",
                    slots=tuple((role, f"{role} {self._canary()} " * 3) for role in roles),
                )
                if not late:
                    deleted.discard((project, page))
            elif kind == "hide":
                revs = [one.rev for one in self.events if one.what == "edit" and one.project == project]
                own = [one for one in self.events if one.page == page and one.rev in revs]
                if not own:
                    continue
                done = Happened(project, page, time, "hide", rev=random.choice(own).rev)
            else:
                namespace, title = before.namespace, before.title
                if kind == "move":
                    namespace, title = random.choice(NAMESPACES), f"T {self._canary()}"
                done = Happened(
                    project,
                    page,
                    time,
                    kind,
                    namespace=namespace,
                    title=title,
                    from_namespace=before.namespace,
                    from_title=before.title,
                )
                (deleted.add if kind == "delete" else deleted.discard)((project, page))
            if kind != "hide":
                pages[project, page] = done
            yield done

    def _event(self, one: Happened) -> Event:
        what: Happening
        match one.what:
            case "edit":
                slots = tuple(
                    SlotText(role, "wikitext", "text/x-wiki", Presence.PRESENT, text.encode())
                    for role, text in one.slots
                )
                what = Edit(
                    one.rev,
                    0,
                    one.title,
                    one.namespace,
                    title_inferred=False,
                    contributor=NOBODY,
                    comment=NO_COMMENT,
                    minor=False,
                    slots=slots,
                )
            case "move":
                what = Move(one.from_title, one.from_namespace, one.title, one.namespace, NOBODY, NO_COMMENT)
            case "hide":
                what = Visibility(one.rev, text_hidden=True, comment_hidden=False, contributor_hidden=False)
            case _:
                shape = Delete if one.what == "delete" else Restore
                what = shape(one.title, one.namespace, NOBODY, NO_COMMENT)
        return Event(one.project, one.page, one.time, f"s{self.at}", what)

    def _snapshot(self, archive: Archive) -> Manifest | None:
        projects, namespaces, time, known_at = self._selection()
        try:
            return archive.create_snapshot(
                Selector.of(projects, namespaces), valid_at=time, known_at=min(known_at, self.commits[-1][0])
            )
        except errors.AsOfOutOfRangeError:
            return None

    # --- what is asked ------------------------------------------------------------------------------

    def _selection(self) -> tuple[list[str], list[int], int | None, int]:
        random = self.random
        projects = sorted(random.sample(PROJECTS, random.choice((1, 1, 1, 2))))
        namespaces = sorted(random.sample(NAMESPACES, random.choice((0, 0, 1, 2))))
        return projects, namespaces, self._time(), self._position()

    def _time(self) -> int | None:
        return self.random.choice((None, START + self.random.randrange(0, 160) * STEP))

    def _position(self) -> int:
        last = self.commits[-1][0]
        return self.random.choice(
            (0, 0, 0, self.random.randint(1, last), self.random.randint(1, last), NOWHERE)
        )

    def agree(self) -> None:
        """Make another agreement, and move the clock."""
        random = self.random
        grants: list[dict[str, Any]] = []
        for project in random.sample(PROJECTS, random.choice((1, 2, 2, 3))):
            freshness = random.choice(FRESHNESS)
            divided = random.choice((None, "namespaces", "slots"))
            parts: list[dict[str, Any]] = [{}]
            if divided == "namespaces":
                parts = [{"namespaces": [0]}, {"namespaces": random.choice(([2], [2, 4]))}]
            elif divided == "slots":
                parts = [{"slots": ["main"]}, {"slots": ["extra"]}]
            for part in parts if random.random() < 0.6 else parts[:1]:
                dates = sorted(f"2024-{random.randint(1, 9):02}-{random.randint(1, 28):02}" for _ in range(2))
                window = random.choice(({}, {}, {"earliest": dates[0]}, {"latest": dates[1]}, "both"))
                if window == "both":
                    window = {"earliest": dates[0], "latest": dates[1]}
                grants.append({"projects": [project], "freshness": freshness} | part | cast("Any", window))
        document = {"grants": grants, "valid_from": "2020-01-01"}
        self.grants = grants
        self.version = Version(parse_document(document, "acme"), 1, 1)
        self.now = START + random.randrange(0, 160 * STEP)

    def oracle(self) -> Oracle:
        return Oracle(self.events, self.commits, self.grants, self.now, END)

    def asked(self, call: Callable[[Any], Any]) -> tuple[bytes, Any]:
        """Return all bytes that an answer has, and its messages; or its error, as bytes and by its reason."""

        def run() -> tuple[bytes, Any]:
            act_for(Caller("acme", Role.LICENSEE, bytes(8)))
            try:
                found = call(Still())
                messages = list(found) if isinstance(found, Iterator) else [found]
            except errors.RecensionError as error:
                said = [error.message, error.hint, *error.metadata.values()]
                return "\n".join(said).encode(), error.reason
            raw = [one if isinstance(one, bytes) else one.SerializeToString() for one in messages]
            return b"".join(raw + [text for one in messages for text in _unpacked(one)]), messages

        return copy_context().run(run)

    def question(self) -> tuple[str, Any, Any, Oracle, bytes]:
        """Ask something; return what it was, what the oracle says, what came, the oracle, and all bytes."""
        random, oracle = self.random, self.oracle()
        kind = random.choice(sorted(self.QUESTIONS))
        expected, call, read = self.QUESTIONS[kind](self, oracle)
        raw, found = self.asked(call)
        return kind, expected, found if isinstance(found, str) else read(found), oracle, raw

    def _edit(self) -> Happened:
        edits = [one for one in self.events if one.what == "edit"]
        return self._likely(edits, lambda one: {one.project})

    def _manifest(self) -> Manifest:
        return self._likely(self.manifests, lambda one: set(one.selector.projects))

    def _likely(self, some: list[_T], projects: Callable[[_T], set[str]]) -> _T:
        """Choose one, most often of projects that are granted."""
        granted = {name for grant in self.grants for name in grant["projects"]}
        near = [one for one in some if projects(one) <= granted]
        return self.random.choice(near if near and self.random.random() < 0.85 else some)

    def _project(self, event: Happened) -> str:
        return event.project if self.random.random() < 0.95 else "none"

    def _revision(self, oracle: Oracle) -> Any:
        event, known_at = self._edit(), self._position()
        project = self._project(event)
        request = revision_pb.GetRevisionRequest(project=project, rev_id=event.rev, known_at=known_at)
        return (
            oracle.revision(project, event.rev, known_at),
            lambda context: self.revision.GetRevision(request, context),
            lambda found: _shown(found[0].revision),
        )

    def _batch(self, oracle: Oracle) -> Any:
        events, known_at = [self._edit() for _ in range(4)], self._position()
        project = self._project(events[0])
        request = revision_pb.BatchGetRevisionsRequest(
            project=project,
            rev_ids=[event.rev for event in events],
            known_at=known_at,
            accept_frames=self.random.random() < 0.5,
        )
        items = [oracle.revision(project, event.rev, known_at) for event in events]
        failed = items[0] if items[0] == "PROJECT_NOT_FOUND" else None

        def read(found: Any) -> Any:
            return [
                item.error.reason if item.HasField("error") else _shown(item.revision)
                for item in found[0].items
            ]

        return failed or items, lambda context: self.revision.BatchGetRevisions(request, context), read

    def _article(self, oracle: Oracle) -> Any:
        event, time, known_at = self._edit(), self._time(), self._position()
        project = self._project(event)
        as_of = convert.wanted_as_of_to_proto(time, known_at)
        titled = self.random.random() < 0.5
        if titled:
            oracle.told.add(event.title)  # an error repeats it
        named = {"title": event.title} if titled else {"page_id": event.page}
        request = revision_pb.GetArticleRequest(project=project, as_of=as_of, **cast("Any", named))
        return (
            oracle.article(project, event.title if titled else event.page, time, known_at),
            lambda context: self.revision.GetArticle(request, context),
            lambda found: _shown(found[0].revision),
        )

    def _credit(self, oracle: Oracle) -> Any:
        event, known_at = self._edit(), self._position()
        as_of = convert.wanted_as_of_to_proto(None, known_at)
        request = revision_pb.GetAttributionRequest(project=event.project, rev_id=event.rev, as_of=as_of)
        expected = oracle.revision(event.project, event.rev, known_at)
        return (
            expected if isinstance(expected, str) else expected[:2],
            lambda context: self.revision.GetAttribution(request, context),
            lambda found: (found[0].attribution.rev_id, found[0].attribution.essential.title),
        )

    def _timeline(self, oracle: Oracle) -> Any:
        event, known_at = self._edit(), self._position()
        project = self._project(event)

        def pages(context: Any) -> Iterator[Any]:
            request = revision_pb.ListRevisionsRequest(
                project=project, page_id=event.page, known_at=known_at, page_size=self.random.randint(1, 4)
            )
            while True:
                page = self.revision.ListRevisions(request, context)
                yield page
                if not page.next_page_token:
                    return
                request.page_token = page.next_page_token

        def read(found: Any) -> Any:
            return [_happened(item) for page in found for item in page.items]

        return oracle.timeline(project, event.page, known_at), pages, read

    def _diff_revisions(self, oracle: Oracle) -> Any:
        a, known_at = self._edit(), self._position()
        b = self.random.choice(
            [one for one in self.events if one.what == "edit" and one.project == a.project]
        )
        role = self.random.choice(ROLES)
        request = revision_pb.DiffRevisionsRequest(
            project=a.project, rev_id_a=a.rev, rev_id_b=b.rev, role=role, known_at=known_at
        )
        return (
            oracle.diff(a.project, (a.rev, b.rev), role, known_at),
            lambda context: self.revision.DiffRevisions(request, context),
            lambda found: [found[0].revision_a.rev_id, found[0].revision_b.rev_id],
        )

    def _text(self, oracle: Oracle) -> Any:
        event, role = self._edit(), self.random.choice(ROLES)
        request = revision_pb.ReadTextRequest(project=event.project, rev_id=event.rev, role=role)
        found = oracle.revision(event.project, event.rev, 0)
        text = found if isinstance(found, str) else dict(found[2]).get(role, "TEXT_UNAVAILABLE")
        return (
            "TEXT_UNAVAILABLE" if text == HIDDEN else text,
            lambda context: self.revision.ReadText(request, context),
            lambda found: b"".join(piece.data for piece in found).decode(),
        )

    def _create(self, oracle: Oracle) -> Any:
        projects, namespaces, time, known_at = self._selection()
        selector = Selector.of(projects, namespaces)
        request = snapshot_pb.CreateSnapshotRequest(
            selector=convert.selector_to_proto(selector), as_of=convert.wanted_as_of_to_proto(time, known_at)
        )

        def read(found: Any) -> Any:
            as_of = convert.as_of_from_proto(found[0].snapshot.as_of)
            # Now is never before the newest commit, and each snapshot of a case is one.
            return END if END < as_of.valid_at < END + HOUR else as_of.valid_at, as_of.known_at

        return (
            oracle.create(projects, namespaces, time, known_at),
            lambda context: self.snapshots.CreateSnapshot(request, context),
            read,
        )

    def _entries(self, oracle: Oracle, manifest: Manifest) -> Any:
        selector, as_of = manifest.selector, manifest.as_of
        asked = selector.projects, selector.namespaces, as_of.valid_at, as_of.known_at
        return oracle.entries(*asked) if oracle.sees(*asked) else "SNAPSHOT_NOT_FOUND"

    def _read(self, oracle: Oracle) -> Any:
        manifest = self._manifest()
        request = snapshot_pb.ReadSnapshotRequest(
            snapshot=format_digest(manifest.snapshot_id), accept_frames=self.random.random() < 0.5
        )

        def read(found: Any) -> Any:
            messages = [
                snapshot_pb.ReadSnapshotResponse.FromString(one) for one in found if isinstance(one, bytes)
            ]
            return dict(_entry(entry) for message in messages for entry in message.batch.entries)

        return (
            self._entries(oracle, manifest),
            lambda context: self.snapshots.ReadSnapshot(request, context),
            read,
        )

    def _list(self, oracle: Oracle) -> Any:
        names = {format_digest(one.snapshot_id): one for one in self.manifests}

        def pages(context: Any) -> Iterator[Any]:
            request = snapshot_pb.ListSnapshotsRequest(page_size=self.random.randint(1, 30))
            while True:
                page = self.snapshots.ListSnapshots(request, context)
                yield page
                if not page.next_page_token:
                    return
                request.page_token = page.next_page_token

        expected = sorted(
            name for name, one in names.items() if self._entries(oracle, one) != "SNAPSHOT_NOT_FOUND"
        )
        return (
            expected,
            pages,
            lambda found: sorted({one.id for page in found for one in page.snapshots} & names.keys()),
        )

    def _prove(self, oracle: Oracle) -> Any:
        manifest, event = self._manifest(), self._edit()
        request = snapshot_pb.ProveEntryRequest(
            snapshot=format_digest(manifest.snapshot_id), project=event.project, page_id=event.page
        )
        entries = self._entries(oracle, manifest)
        expected = entries
        if not isinstance(entries, str):
            absent = "PROJECT_NOT_FOUND" if event.project not in manifest.selector.projects else None
            expected = absent or _without_texts(entries.get((event.project, event.page)))

        def read(found: Any) -> Any:
            return _without_texts(_entry(found[0].entry)[1]) if found[0].HasField("entry") else None

        return expected, lambda context: self.snapshots.ProveEntry(request, context), read

    def _watch(self, oracle: Oracle) -> Any:
        event, position, namespaces = self._edit(), self._position(), self._selection()[1]
        project = self._project(event)
        selector = Selector.of([project], namespaces)
        is_wrong = self.random.random() < 0.1
        request = change_pb.WatchRequest(
            selector=convert.selector_to_proto(selector),
            position=position,
            root=format_digest(bytes(32)) if is_wrong else "",
            view=revision_pb.REVISION_VIEW_FULL,
        )
        quiet = replace(oracle, told=set()) if is_wrong else oracle
        expected = quiet.watch(project, namespaces, position, self.store.log.head().position)
        outlet = Outlet()

        def call(context: Any) -> Iterator[Any]:
            self.changes.Watch(request, context, outlet)
            return outlet.all()

        def read(messages: Any) -> Any:
            stream = WatchStream(selector, position, text=True)
            stream.request()
            commits = [one for message in messages for one in stream.take(message) if isinstance(one, Commit)]
            self._check_roots(selector, position, commits)
            steps = [step for message in messages for step in message.batch.steps]
            assert outlet.text_bytes == sum(
                len(slot.text) for step in steps for page in step.pages for slot in page.entry.slots
            )
            return messages[-1].heartbeat.position, [_stepped(step) for step in steps]

        if is_wrong and not isinstance(expected, str):
            return "ROOT_MISMATCH", call, read
        return expected, call, read

    def _check_roots(self, selector: Selector, position: int, commits: list[Commit]) -> None:
        """Each root is that of the tree that is made anew of the pages as they were told, from nothing on."""
        if position:
            return
        pages: dict[int, tuple[int, bytes]] = {}
        for commit in commits:
            for step in (page.step for page in commit.pages):
                pages.pop(step.page_id, None)
                if step.after is not None:
                    pages[step.page_id] = (*step.after,)
            root, _ = build(((page, *pages[page]) for page in sorted(pages)), lambda digest, node: None)
            assert commit.root == root

    def _diff(self, oracle: Oracle) -> Any:
        a = self._manifest()
        b = self.random.choice(
            [one for one in self.manifests if one.selector.projects == a.selector.projects]
        )
        request = snapshot_pb.DiffSnapshotsRequest(
            snapshot_a=format_digest(a.snapshot_id),
            snapshot_b=format_digest(b.snapshot_id),
            view=revision_pb.REVISION_VIEW_FULL,
        )
        sides = self._entries(oracle, a), self._entries(oracle, b)
        failed = next((side for side in sides if isinstance(side, str)), None)

        def read(found: Any) -> Any:
            changes = [change for message in found for change in message.batch.changes]
            for change in changes:
                for has, side, expected in (
                    (change.HasField("before"), change.before, sides[0]),
                    (change.HasField("after"), change.after, sides[1]),
                ):
                    if has:
                        place, entry = _entry(side)
                        assert expected[place] == entry
            return len(changes) > -1

        return failed or True, lambda context: self.snapshots.DiffSnapshots(request, context), read

    def _projects(self, oracle: Oracle) -> Any:
        expected = [name for name in PROJECTS if oracle.of(name)]
        return (
            expected,
            lambda context: self.catalog.ListProjects(catalog_pb.ListProjectsRequest(), context),
            lambda found: [one.name for one in found[0].projects],
        )

    def _info(self, oracle: Oracle) -> Any:
        newest = max(oracle.newest(name) for name in PROJECTS if oracle.of(name))
        head = self.store.log.head().position
        return (
            min(newest, head),
            lambda context: self.catalog.GetServerInfo(catalog_pb.GetServerInfoRequest(), context),
            lambda found: found[0].position,
        )

    QUESTIONS: ClassVar[dict[str, Callable[[World, Oracle], Any]]] = {
        "article": _article,
        "batch": _batch,
        "create": _create,
        "credit": _credit,
        "diff": _diff,
        "diff revisions": _diff_revisions,
        "info": _info,
        "list": _list,
        "projects": _projects,
        "prove": _prove,
        "read": _read,
        "revision": _revision,
        "text": _text,
        "timeline": _timeline,
        "watch": _watch,
    }


def _shown(message: Any) -> Any:
    slots = tuple((slot.role, _text_of(slot) if slot.digest else HIDDEN) for slot in message.slots)
    return message.rev_id, message.title, slots


def _text_of(slot: Any) -> str:
    return decoded(slot.text_zstd, slot.size_bytes, slot.role).decode() if slot.text_zstd else str(slot.text)


def _unpacked(message: Any) -> Iterator[bytes]:
    """Yield the texts of all frames of a message, which are compressed where it is searched as bytes."""
    if isinstance(message, bytes):
        message = snapshot_pb.ReadSnapshotResponse.FromString(message)
    holders: list[Any] = []
    if isinstance(message, snapshot_pb.ReadSnapshotResponse):
        holders = list(message.batch.entries)
    elif isinstance(message, revision_pb.BatchGetRevisionsResponse):
        holders = [item.revision for item in message.items]
    for slot in (slot for holder in holders for slot in holder.slots if slot.text_zstd):
        yield decoded(slot.text_zstd, slot.size_bytes, slot.role)


def _entry(message: Any) -> Any:
    place = message.project, message.page_id
    if message.content_commitment:
        assert not any(slot.text or slot.text_zstd or slot.digest for slot in message.slots)
        return place, (message.rev_id, message.title, WITHHELD)
    return place, _shown(message)


def _stepped(step: Any) -> Any:
    """Return a step as the oracle tells it: a commit has one event here."""
    assert (False, False) == (step.continued, step.bridge)
    change = None
    for page in step.pages:
        assert change is None
        after = _entry(page.entry)[1] if page.HasField("entry") else None
        assert (after is None) is not page.HasField("after")
        assert after is None or after[0] == page.after.rev_id
        change = page.page_id, page.before.rev_id if page.HasField("before") else None, after
    return step.position, list(map(_happened, step.events)), change


def _without_texts(entry: Any) -> Any:
    if entry is None or entry[2] == WITHHELD:
        return entry
    return (*entry[:2], tuple(role for role, _ in entry[2]))


def _happened(item: Any) -> Any:
    kind = item.WhichOneof("kind")
    what = getattr(item, kind)
    match kind:
        case "edit":
            return "edit", what.rev_id, what.title, tuple(slot.role for slot in what.slots)
        case "visibility":
            return "hide", what.rev_id
        case "move":
            return "move", what.to_title
        case _:
            return kind, what.title


@dataclass
class Outcome:
    """What came of many questions."""

    disagreements: list[str] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


def ask(world: World, cases: int) -> Outcome:
    """Ask at random; tell each question that was answered otherwise, or with a byte too much."""
    out = Outcome()
    world.follow_anew()  # what was sent under a broken rule is no answer under another
    for case in range(cases):
        world.agree()
        try:
            kind, expected, found, oracle, raw = world.question()
        except (AssertionError, LookupError, TypeError, ValueError, scopes.OverGrantError) as error:
            out.disagreements.append(f"{case}: {type(error).__name__}")
            continue
        is_error = isinstance(found, str) and found.isupper()
        (out.refused if is_error else out.answered)[kind] += 1
        strange = set(CANARY.findall(raw)) - set(CANARY.findall("\n".join(oracle.told).encode()))
        digests = [digest_of(text.encode()) for text in world.texts - oracle.told]
        leaked = [one for one in digests if one in raw or one.hex().encode() in raw]
        if expected != found or strange or leaked:
            out.disagreements.append(f"{case}, {kind}: {expected} and not {found}; {strange}, {leaked}")
    return out


def test_what_is_served() -> None:
    """Two thousand agreements, questions and clocks: nothing too much, nothing too little."""
    outcome = ask(World(7), 2_000)
    assert [] == outcome.disagreements
    assert set(World.QUESTIONS) == {kind for kind, count in outcome.answered.items() if count >= 5}
    assert set(World.QUESTIONS) - {"info", "list", "projects", "batch"} == set(outcome.refused) - {"batch"}


@pytest.mark.torture
def test_what_is_served_at_length() -> None:
    """A hundred thousand, over fifty histories."""
    for seed in range(50):
        assert [] == ask(World(100 + seed), 2_000).disagreements


def _always(*_: object) -> bool:
    return True


def _keep_projects(agreement: Agreement, project: str) -> list[Grant]:
    return [grant for grant in agreement.grants if project in grant.projects] or list(agreement.grants)


def _slots_of_all(grants: object, namespace: object, roles: Sequence[str], times: object) -> Decision:
    return Decision(Reason.GRANTED, frozenset(roles))


def _own_time_alone(
    grants: list[Grant], namespace: int, roles: Sequence[str], times: Sequence[int]
) -> Decision:
    return _SLOTS(grants, namespace, roles, times[:1])


def _first_alone(grants: list[Grant], namespaces: Sequence[int | None], time: int) -> Decision:
    return _ALL(grants, namespaces[:1], time)


def _any_slot(agreement: Agreement, request: Request, commit_time: int, now: int) -> Decision:
    if isinstance(request, ContentRequest):
        return _SLOTS(
            grants_of(agreement, request.project), request.namespace, request.roles, (request.time,)
        )
    return _DECIDE(agreement, request, commit_time, now)


_SLOTS, _ALL, _DECIDE = decision._slots, decision._all, decision.decide
_BROKEN: dict[str, dict[Any, dict[str, Any]]] = {
    "projects": {decision: {"grants_of": _keep_projects}, scopes: {"grants_of": _keep_projects}},
    "namespaces": {decision: {"_covers": _always}},
    "windows": {decision: {"_within": _always}},
    "slots": {decision: {"_slots": _slots_of_all}},
    "the time asked about": {decision: {"_slots": _own_time_alone}},
    "each namespace of a move or a selector": {decision: {"_all": _first_alone}},
    "all slots of an entry": {scopes: {"decide": _any_slot}},
    "embargo": {
        decision: {"horizon_of": lambda grants, now: FOREVER},
        scopes: {"horizon_of": lambda grants, now: FOREVER},
    },
}


@pytest.fixture(autouse=True)
def nothing_decided() -> Iterator[None]:
    """What was decided is kept for agreements of the same terms, so a broken rule must leave none behind."""
    scopes._terms.clear()
    yield
    scopes._terms.clear()


@pytest.fixture(scope="module")
def world() -> World:
    return World(7)


def noticed(world: World, at_once: int = 100) -> list[str]:
    """Return the first disagreements of at most some thousand questions."""
    found = (ask(world, at_once).disagreements for _ in range(4_000 // at_once))
    return next(filter(None, found), [])


@pytest.mark.parametrize("rule", _BROKEN)
def test_each_rule_is_needed(world: World, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with one rule taken out of the decision the oracle disagrees.

    What looks at answers a second time is out too, for it would notice before the oracle does.
    """
    assert [] == ask(world, 50).disagreements
    _break(rule, monkeypatch)
    assert noticed(world)


@pytest.mark.parametrize("rule", [rule for rule in _BROKEN if rule != "the time asked about"])
def test_followers_are_told_by_each_rule(world: World, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of what they are told alone; nobody asks them about a time."""
    monkeypatch.setattr(World, "QUESTIONS", {"watch": World.QUESTIONS["watch"]})
    assert [] == ask(world, 20).disagreements
    _break(rule, monkeypatch)
    assert noticed(world, 20)


def _break(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes.Scope, "check", lambda scope, value: None)
    for module, names in _BROKEN[rule].items():
        for name, broken in names.items():
            monkeypatch.setattr(module, name, broken)


@pytest.mark.parametrize("rule", ["projects", "namespaces", "windows", "slots", "embargo"])
def test_a_second_look(world: World, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where messages are built, what a broken decision let through ends the call."""
    for name, broken in _BROKEN[rule][decision].items():
        monkeypatch.setattr(decision, name, broken)
    monkeypatch.setattr(scopes.Scope, "horizon", lambda scope, project: FOREVER)
    found = (noticed(world) for _ in range(20))
    assert any("OverGrantError" in one for said in found for one in said)
