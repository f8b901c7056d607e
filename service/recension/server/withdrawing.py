"""A retraction, as the command and ``AdminService`` make it: whom it concerns, what is hidden and erased."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from recension.archive.affected import Affected, affected
from recension.archive.projects import project_names
from recension.archive.retracting import Erasure, Place, Plan, Retractor, Wanted
from recension.model.digest import format_digest
from recension.model.errors import InvalidArgumentError, WriterBusyError
from recension.model.instant import format_instant
from recension.model.retraction import Part, Reason, check_case
from recension.server.quarantine import QUARANTINE_FOLDER
from recension.server.sought import Sought
from recension.store.frames import discard_stale
from recension.store.interface import Store

DEFAULT_PARTS = (Part.TEXT, Part.COMMENT)
Escrow = Callable[[Plan], bytes]
"""Keeps what a plan is about to erase, and returns the digest of where; empty bytes if nothing is kept."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be withdrawn, and why."""

    project: str
    wanted: Wanted
    case: str
    """What the operator calls the case."""
    reason: Reason
    parts: tuple[Part, ...] = ()
    """Empty for the usual ones: all three of what is found by its contributor, else text and comment."""
    everywhere: bool = False
    """Also revisions elsewhere that hold such a text."""

    def __post_init__(self) -> None:
        """Refuse what names no case or no revision. Raises ``InvalidArgumentError``."""
        check_case(self.case)
        if not (self.wanted.revisions or self.wanted.pages or self.wanted.contributors):
            raise InvalidArgumentError(
                "nothing is named", hint="name revisions, pages or contributors", field="revision"
            )


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What an order concerns, and what was done of it."""

    plan: Plan
    concerned: Affected
    names: dict[int, str]
    """Of projects, by their numbers."""
    quarantine: tuple[str, ...]
    """Files of rejected records of the project: they may hold records as they came."""
    left: int
    """Revisions of which something was left to do at first."""
    positions: tuple[int, ...] = ()
    """Of the commits that hide now what was not hidden before."""
    erasure: Erasure | None = None
    """``None`` when nothing was to be done, or it has to wait for another writer."""
    report: Path | None = None

    @property
    def document(self) -> dict[str, object]:
        """What it concerns, as JSON."""
        return _document(self.plan, self.concerned, self.names) | {"quarantine": list(self.quarantine)}


def withdraw(
    store: Store, data: Path, order: Order, *, really: bool, escrow: Escrow | None = None
) -> Withdrawal:
    """Say whom an order concerns and, ``really``, hide it from every reader at once and erase it.

    Killed anywhere, the same again does what is left. What is hidden is durable before anything is erased,
    and erased if nobody else has the right to write; else by the next order or compaction. Raises
    what ``Retractor.plan`` and ``mask`` raise.
    """
    sought = Sought(data)
    retractor = Retractor(store, keep=sought.keep)
    parts = order.parts or (tuple(Part) if order.wanted.contributors else DEFAULT_PARTS)
    # What only hides need not know who else holds a text, nor whom it concerns: that may take a while.
    around = not really or escrow is not None
    plan = retractor.plan(order.project, order.wanted, parts, everywhere=order.everywhere, around=around)
    left = len(plan.left)
    really = really and left > 0
    positions: list[int] = []
    if really:
        kept = b"" if escrow is None else escrow(plan)
        positions = retractor.mask(plan, order.case, order.reason, escrow=kept)
    retractor.look_around(plan)
    concerned = affected(store, [target.place for target in plan.targets.values()])
    quarantined = sorted(map(str, (data / QUARANTINE_FOLDER / order.project).glob("*.ndjson")))
    found = Withdrawal(plan, concerned, project_names_of(store), tuple(quarantined), left)
    if not really:
        return found
    report = None
    for position in retractor.positions(plan):
        facts = {"case": order.case, "reason": order.reason.value, "position": position}
        report = sought.report(position, facts | found.document)
    erasure = _erase(store, retractor, plan)
    discard_stale(data, store)
    return replace(found, positions=tuple(positions), erasure=erasure, report=report)


def project_names_of(store: Store) -> dict[int, str]:
    """Return the names of all projects by their numbers."""
    with store.view() as view:
        return {number: name for name, number in project_names(view)}


def _erase(store: Store, retractor: Retractor, plan: Plan) -> Erasure | None:
    """Erase, unless an ingest holds the right to write."""
    try:
        with store.exclusive_writer():
            return retractor.erase(plan)
    except WriterBusyError:
        return None


def _document(plan: Plan, concerned: Affected, names: dict[int, str]) -> dict[str, object]:
    def place(one: Place) -> dict[str, object]:
        return {"project": names[one.number], "page_id": one.page, "rev_id": one.rev}

    kept: dict[Place, set[Place]] = {}
    for target in plan.targets.values():
        for text in target.texts & plan.holders.keys():
            kept.setdefault(target.place, set()).update(plan.holders[text])
    return {
        "project": plan.project,
        "parts": [part.value for part in plan.parts],
        "revisions": [
            place(target.place) | {"text_bytes": target.text_bytes, "done": target.is_done}
            for _, target in sorted(plan.targets.items())
        ],
        "left": len(plan.left),
        "texts": {"erased": len(plan.erased), "erased_bytes": sum(plan.erased.values())},
        "kept": [
            place(one) | {"held_by": [place(other) for other in sorted(holders)]}
            for one, holders in sorted(kept.items())
        ],
        "also_erased": [place(one) for one, _ in plan.hidden_holders],
        "snapshots": [
            {"snapshot": format_digest(snapshot_id), "revisions": len(places)}
            for snapshot_id, places in concerned.snapshots.items()
        ],
        "pins": [
            {
                "owner": pin.statement.owner,
                "name": pin.statement.name,
                "id": pin.statement.id.hex(),
                "snapshot": format_digest(pin.statement.snapshot_id),
                "readable_until": format_instant(pin.statement.readable_until),
                "expired": pin.expired,
                "revisions": pin.entries,
            }
            for pin in concerned.pins
        ],
        "licensees": [
            {"owner": owner, "pins": len(pins)} for owner, pins in sorted(concerned.licensees.items())
        ],
        "articles": [
            place(one) | {"snapshots": snapshots, "pins": pins, "licensees": owners}
            for one, snapshots, pins, owners in concerned.articles()
        ],
    }
