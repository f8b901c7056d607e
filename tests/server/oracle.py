"""What a licensee may be told, worked out again: from docs/licence.md alone, over plain lists of events.

It shares nothing with the server but the values of an agreement's document. What it says of a question is
either the reason of the error, or everything of the answer that a licence can change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = 10**18
"""Later than everything, microseconds since the epoch."""
HIDDEN = "(hidden)"
WITHHELD = "(withheld)"

Shown = tuple[int, str, tuple[tuple[str, str], ...]]
"""A revision: its id, its title, and (role, text or ``HIDDEN``) of each slot."""


@dataclass(frozen=True)
class Happened:
    """One event, committed alone."""

    project: str
    page: int
    time: int
    what: str
    """edit, move, delete, restore or hide."""
    position: int = 0
    recorded_at: int = 0
    rev: int = 0
    namespace: int = 0
    title: str = ""
    from_namespace: int = 0
    from_title: str = ""
    slots: tuple[tuple[str, str], ...] = ()


@dataclass
class Oracle:
    """One licensee at one moment."""

    events: Sequence[Happened]
    commits: Sequence[tuple[int, int]]
    """(position, recorded at) of every commit of the log up to the last event."""
    grants: Sequence[dict[str, Any]]
    now: int
    """By the clock of embargoes."""
    end: int
    """By the wall: later than all events."""
    told: set[str] = field(default_factory=set)
    """Texts of the answers so far."""

    # --- the agreement ------------------------------------------------------------------------------

    def of(self, project: str) -> list[dict[str, Any]]:
        return [grant for grant in self.grants if project in grant["projects"]]

    def horizon(self, project: str) -> int | None:
        freshness = self.of(project)[0]["freshness"]
        if freshness == "realtime":
            return None
        if isinstance(freshness, dict):
            return int(self.now - freshness["delay_seconds"] * 1_000_000)
        day = (EPOCH + timedelta(microseconds=self.now)).date()
        if freshness == "weekly":
            while day.isoweekday() != 1:
                day -= timedelta(days=1)
        elif freshness == "monthly":
            day = day.replace(day=1)
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return (midnight - EPOCH) // timedelta(microseconds=1)

    def newest(self, project: str) -> int:
        """Return the newest position that there is for the licensee; a large one in realtime."""
        horizon = self.horizon(project)
        if horizon is None:
            return 10**6
        return max((position for position, at in self.commits if at <= horizon), default=0)

    def roles(self, project: str, namespace: int, roles: Sequence[str], times: Sequence[int]) -> list[str]:
        """Return the slots that may be shown."""
        out = []
        for role in roles:
            for grant in self.of(project):
                if "namespaces" in grant and namespace not in grant["namespaces"]:
                    continue
                if "slots" in grant and role not in grant["slots"]:
                    continue
                low, high = micros(grant.get("earliest")), micros(grant.get("latest"))
                if all((low is None or low <= time) and (high is None or time <= high) for time in times):
                    out.append(role)
                    break
        return out

    def namespace_open(self, project: str, namespace: int | None, time: int) -> bool:
        for grant in self.of(project):
            if "namespaces" in grant and (namespace is None or namespace not in grant["namespaces"]):
                continue
            low, high = micros(grant.get("earliest")), micros(grant.get("latest"))
            if (low is None or low <= time) and (high is None or time <= high):
                return True
        return False

    def last_time(self, project: str) -> int | None:
        ends = [micros(grant.get("latest")) for grant in self.of(project)]
        known = [end for end in ends if end is not None]
        return max(known) if len(known) == len(ends) else None

    # --- the history --------------------------------------------------------------------------------

    def known(self, project: str, known_at: int, page: int | None = None) -> list[Happened]:
        """Return what is known at K."""
        return [
            event
            for event in self.events
            if event.project == project
            and (not known_at or event.position <= known_at)
            and page in (None, event.page)
        ]

    def title(self, events: Sequence[Happened], edit: Happened, time: int) -> tuple[int, str]:
        """Return what the page of an edit is called at a time: by the last that named it."""
        moves = [event for event in events if event.what == "move" and event.page == edit.page]
        before = sorted((move for move in moves if move.time <= time), key=lambda move: move.time)
        if not before or edit.time >= before[-1].time:
            return edit.namespace, edit.title
        return before[-1].namespace, before[-1].title

    def state(self, project: str, page: int, time: int, known_at: int) -> tuple[Happened, int, str] | None:
        events = self.known(project, known_at, page)
        edits = [event for event in events if event.what == "edit" and event.time <= time]
        if not edits:
            return None
        newest = max(edits, key=lambda event: (event.time, event.rev))
        marks = [event for event in events if event.what in ("delete", "restore") and event.time <= time]
        if marks and marks[-1].what == "delete" and newest.time < marks[-1].time:
            return None
        return (newest, *self.title(events, newest, time))

    def hidden(self, event: Happened, known_at: int = 0) -> bool:
        return any(one.what == "hide" and one.rev == event.rev for one in self.known(event.project, known_at))

    def shown(self, event: Happened, title: str, roles: Sequence[str]) -> Shown:
        hidden = self.hidden(event)
        slots = tuple((role, HIDDEN if hidden else text) for role, text in event.slots if role in roles)
        self.told.update(text for _, text in slots)
        self.told.add(title)
        return event.rev, title, slots

    # --- the questions ------------------------------------------------------------------------------

    def _k(self, project: str, known_at: int) -> int | str:
        """Return K, or the reason of the error; -1 when nothing is old enough."""
        if not self.of(project):
            return "PROJECT_NOT_FOUND"
        newest = self.newest(project)
        if known_at > min(newest, self.commits[-1][0] if newest == 10**6 else newest):
            return "AS_OF_OUT_OF_RANGE"
        return known_at or (0 if newest == 10**6 else newest or -1)

    def revision(self, project: str, rev: int, known_at: int) -> Shown | str:
        k = self._k(project, known_at)
        if isinstance(k, str):
            return k
        events = self.known(project, k) if k >= 0 else []
        for event in events:
            if event.what == "edit" and event.rev == rev:
                namespace, title = self.title(events, event, event.time)
                roles = self.roles(project, namespace, [role for role, _ in event.slots], [event.time])
                if roles:
                    return self.shown(event, title, roles)
        return "REVISION_NOT_FOUND"

    def article(self, project: str, page: int | str, time: int | None, known_at: int) -> Shown | str:
        k = self._k(project, known_at)
        if isinstance(k, str):
            return k
        last = self.last_time(project)
        if time is None:
            time = self.end if last is None else min(self.end, last)
        pages = {event.page for event in self.events if event.project == project}
        for number in sorted(pages) if k >= 0 else ():
            found = self.state(project, number, time, k)
            if found is None or page not in (number, found[2]):
                continue
            event, namespace, title = found
            roles = self.roles(project, namespace, [role for role, _ in event.slots], [event.time, time])
            if roles:
                return self.shown(event, title, roles)
        return "PAGE_NOT_FOUND"

    def timeline(self, project: str, page: int, known_at: int) -> list[Any] | str:
        k = self._k(project, known_at)
        if isinstance(k, str):
            return k
        out: list[Any] = []
        events = self.known(project, k, page) if k >= 0 else []
        for event in sorted(events, key=lambda one: (one.time, one.rev, one.position)):
            if event.what == "edit":
                found = self.revision(project, event.rev, known_at)
                if not isinstance(found, str):
                    out.append(("edit", found[0], found[1], tuple(role for role, _ in found[2])))
            elif event.what == "hide":
                whose = [one for one in events if one.what == "edit" and one.rev == event.rev]
                if whose:
                    namespace, _ = self.title(events, whose[0], whose[0].time)
                    roles = [role for role, _ in whose[0].slots]
                    if self.roles(project, namespace, roles, [whose[0].time, event.time]):
                        out.append(("hide", event.rev))
            else:
                names = [event.namespace] + ([event.from_namespace] if event.what == "move" else [])
                if all(self.namespace_open(project, name, event.time) for name in names):
                    out.append((event.what, event.title))
                    self.told.update((event.title, event.from_title))
        return out or "PAGE_NOT_FOUND"

    def diff(self, project: str, revs: tuple[int, int], role: str, known_at: int) -> list[Any] | str:
        sides = [self.revision(project, rev, known_at) for rev in revs]
        for side in sides:
            if isinstance(side, str):
                return side
        texts = [dict(side[2]).get(role) for side in sides if not isinstance(side, str)]
        if any(text is None or text == HIDDEN for text in texts):
            return "TEXT_UNAVAILABLE"
        return [side[0] for side in sides if not isinstance(side, str)]

    def selects(self, projects: Sequence[str], namespaces: Sequence[int], time: int) -> bool:
        wanted: Sequence[int | None] = namespaces or [None]
        return all(self.namespace_open(project, one, time) for project in projects for one in wanted)

    def create(
        self, projects: Sequence[str], namespaces: Sequence[int], time: int | None, known_at: int
    ) -> tuple[int, int] | str:
        """Return (T, K), or the reason of the error."""
        if not all(self.of(project) for project in projects):
            return "PROJECT_NOT_FOUND"
        newest = min(self.newest(project) for project in projects)
        upto = self.commits[-1][0] if newest == 10**6 else newest
        concerned = [event for event in self.events if event.project in projects]
        if newest != 10**6:
            if known_at > upto:
                return "AS_OF_OUT_OF_RANGE"
            if not known_at and not any(event.position <= upto for event in concerned):
                return "AS_OF_OUT_OF_RANGE"
        lasts = [last for last in map(self.last_time, projects) if last is not None]
        if time is None:
            time = min([self.end, *lasts])
        if not self.selects(projects, namespaces, time):
            return "OUTSIDE_AGREEMENT"
        if known_at > upto:
            return "AS_OF_OUT_OF_RANGE"
        k = known_at or max(event.position for event in concerned if event.position <= upto)
        for project in projects:
            times = [event.time for event in self.known(project, k)]
            if not times or min(times) > time:
                return "AS_OF_OUT_OF_RANGE"
        return time, k

    def sees(self, projects: Sequence[str], namespaces: Sequence[int], time: int, known_at: int) -> bool:
        """Say whether a snapshot exists."""
        return all(
            bool(self.of(project)) and known_at <= self.newest(project) for project in projects
        ) and self.selects(projects, namespaces, time)

    def entries(
        self, projects: Sequence[str], namespaces: Sequence[int], time: int, known_at: int
    ) -> dict[tuple[str, int], Any]:
        """Return what there is of each page of a snapshot that exists."""
        out: dict[tuple[str, int], Any] = {}
        for project in projects:
            for page in sorted({event.page for event in self.events if event.project == project}):
                found = self.entry(project, page, namespaces, time, known_at)
                if found is not None:
                    out[project, page] = found
        return out

    def entry(self, project: str, page: int, namespaces: Sequence[int], time: int, known_at: int) -> Any:
        """Return what there is of a page that a selector takes; ``None`` if it takes none."""
        found = self.state(project, page, time, known_at)
        if found is None or self.hidden(found[0], known_at):
            return None
        event, namespace, title = found
        if namespaces and namespace not in namespaces:
            return None
        roles = [role for role, _ in event.slots]
        granted = self.roles(project, namespace, roles, [event.time])
        self.told.add(title)
        if granted != roles or self.hidden(event):
            return event.rev, title, WITHHELD
        return self.shown(event, title, roles)

    # --- changes ------------------------------------------------------------------------------------

    def watch(
        self, project: str, namespaces: Sequence[int], position: int, head: int
    ) -> tuple[int, list[Any]] | str:
        """Return up to where a follower is told, and what of each commit: its events, its page's change.

        ``head``: the newest position of all.
        """
        if not self.of(project):
            return "PROJECT_NOT_FOUND"
        last = self.last_time(project)
        time = NEVER if last is None else last
        if not self.selects([project], namespaces, time):
            return "OUTSIDE_AGREEMENT"
        newest = min(self.newest(project), head)
        if position > newest:
            return "AS_OF_OUT_OF_RANGE"
        quiet = replace(self, told=set())
        out: list[Any] = []
        for event in self.events:
            if event.project != project or not position < event.position <= newest:
                continue
            before = quiet.entry(project, event.page, namespaces, time, event.position - 1)
            after = quiet.entry(project, event.page, namespaces, time, event.position)
            happened = self._happened(event, namespaces, is_inside=bool(before or after))
            change = None
            if (before and before[:2]) != (after and after[:2]):
                after = self.entry(project, event.page, namespaces, time, event.position)
                change = (event.page, before and before[0], after)
            if happened or change:
                out.append((event.position, happened, change))
        return newest, out

    def _happened(self, event: Happened, namespaces: Sequence[int], *, is_inside: bool) -> list[Any]:
        """Return an event as a follower is told of it, if it is."""
        if event.what == "hide":
            return [("hide", event.rev)] if self._hears(event, namespaces) else []
        if not is_inside:
            return []
        if event.what == "edit":
            known = self.known(event.project, event.position, event.page)
            namespace, title = self.title(known, event, event.time)
            roles = self.roles(event.project, namespace, [role for role, _ in event.slots], [event.time])
            if not roles:
                return []
            self.shown(event, title, roles)  # their digests are told
            return [("edit", event.rev, title, tuple(roles))]
        names = [event.namespace] + ([event.from_namespace] if event.what == "move" else [])
        if not all(self.namespace_open(event.project, name, event.time) for name in names):
            return []
        self.told.update((event.title, event.from_title))
        return [(event.what, event.title)]

    def _hears(self, event: Happened, namespaces: Sequence[int]) -> bool:
        """Say whether a follower hears that a revision is hidden: it was granted in a namespace it had."""
        known = self.known(event.project, event.position, event.page)
        edits = sorted(
            (one for one in known if one.what == "edit"), key=lambda one: (one.time, one.rev, one.position)
        )
        at = next((at for at, one in enumerate(edits) if one.rev == event.rev), None)
        if at is None:
            return False
        whose, rest = edits[at], edits[at + 1 :]
        until = rest[0].time if rest else NEVER
        times = [one.time for one in known if one.what == "move" and whose.time < one.time <= until]
        named = {self.title(known, whose, time)[0] for time in (whose.time, *times)}
        if namespaces and named.isdisjoint(namespaces):
            return False
        roles = [role for role, _ in whose.slots]
        return any(self.roles(event.project, one, roles, [whose.time]) for one in named)


def micros(date: str | None) -> int | None:
    """Return the instant of a date."""
    if date is None:
        return None
    return (datetime.fromisoformat(date).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
