"""What every ingest does with a batch, of a file or of a stream: judge, append, quarantine, count."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from recension.archive.history import find_revision
from recension.archive.ingest import Ingestor, Refused
from recension.archive.intake.frames import Fed
from recension.archive.judging import judge_changes
from recension.archive.prepared import Prepared, prepare
from recension.archive.projects import definition_of, project_number
from recension.archive.sightings import judge
from recension.model.credit import license_at
from recension.model.errors import RecensionError, TooManyRejectedError
from recension.model.instant import format_instant
from recension.model.mark import Mark
from recension.model.record import Kind
from recension.server.dumpsets import DumpSet
from recension.server.quarantine import Records
from recension.server.telling import plain
from recension.sources.items import MAX_EXCERPT_BYTES, Rejected, Sighting, SiteInfo, Skipped, count_by_name
from recension.store.interface import Store

_ALL = 100.0
_TELLING = 1_000
"""Of fewer records a share says little."""
_POSITIONS = {"line": "line", "byte": "byte", "offset": "stored byte"}
"""Where a fault is, by the names of its metadata."""


_SUSPICIOUS_SHARE = 0.05
"""More SHA-1 mismatches than this and the file deserves a look: damaged exports have shown in this way."""


@dataclass(slots=True)
class Summary:
    """What an ingest did."""

    files: int = 0
    events: int = 0
    revisions: int = 0
    accepted: int = 0
    known: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    claims: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    """Revisions whose records state another licence than the project's for their time: which, and which."""
    log_entries_resolved: int = 0
    log_entries_unresolved: int = 0
    pages_sealed: int = 0
    """Whose new texts were compressed into blocks at the end."""
    faults: list[RecensionError] = field(default_factory=list)
    seconds: float = 0.0
    position: int = 0
    head: str = ""
    quarantine: str = ""
    """Where the rejected records are."""
    sets: list[DumpSet] = field(default_factory=list)
    """Of a dump or log: which files were taken for one."""
    suspicious: dict[str, float] = field(default_factory=dict)
    """Files of which so many texts do not match the SHA-1 that is stated: their share."""
    complete: dict[str, object] = field(default_factory=dict)
    """What followed from a complete dump."""

    def judge_claims(self, name: str, claims: Mapping[str, int]) -> None:
        """Note a file that deserves a look; ``claims``: counts of verdicts on its texts."""
        checked = claims["exact"] + claims["exact_after_crlf"] + claims["mismatch"]
        if claims["mismatch"] > _SUSPICIOUS_SHARE * checked:
            self.suspicious[name] = claims["mismatch"] / checked

    def document(self) -> dict[str, object]:
        """Return the summary for machines."""
        return {
            "files": self.files,
            "events": self.events,
            "revisions": self.revisions,
            "accepted": self.accepted,
            "known": self.known,
            "rejected": dict(sorted(self.rejected.items())),
            "quarantine": plain(self.quarantine),
            "skipped": dict(sorted(self.skipped.items())),
            "claims": dict(sorted(self.claims.items())),
            "licenses": {plain(what): count for what, count in sorted(self.licenses.items())},
            "log_entries": {
                "resolved": self.log_entries_resolved,
                "unresolved": self.log_entries_unresolved,
            },
            "sets": [one.document() for one in self.sets],
            "suspicious": {plain(name): round(share, 4) for name, share in self.suspicious.items()},
            "complete": self.complete,
            "pages_sealed": self.pages_sealed,
            "faults": [_fault_document(fault) for fault in self.faults],
            "seconds": round(self.seconds, 3),
            "revisions_per_second": round(self.revisions / self.seconds) if self.seconds else 0,
            "position": self.position,
            "head": self.head,
        }


@dataclass(frozen=True, slots=True)
class Budget:
    """How many records of a run may be rejected before it is stopped; without a bound, any."""

    most: int | None = None
    percent: float | None = None
    """Of all records read; looked at from ``_TELLING`` records on, and at the end of each file."""

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``N`` or ``N%``. Raises ``ValueError``."""
        number = float(text.removesuffix("%"))
        if not 0 <= number < float("inf") or (text.endswith("%") and number > _ALL):
            raise ValueError(f"not a number, and no share: {text}")
        return cls(percent=number) if text.endswith("%") else cls(most=int(text))

    def check(self, summary: Summary, *, at_end: bool = False) -> None:
        """Raise ``TooManyRejectedError`` if it is spent."""
        rejected = summary.rejected.total()
        read = rejected + summary.accepted + summary.known
        over = self.most is not None and rejected > self.most
        if self.percent is not None and (at_end or read >= _TELLING):
            over |= rejected * _ALL > self.percent * read
        if over:
            raise TooManyRejectedError(
                f"{rejected:,} of {read:,} records were rejected, more than are allowed",
                hint="look at them with recension-server quarantine; what was stored stays",
                rejected=rejected,
                read=read,
            )


NO_BUDGET = Budget()


def take(
    store: Store,
    ingestor: Ingestor,
    project: str,
    batch: Fed,
    kept: Records,
    summary: Summary,
    mark: Mark,
) -> None:
    """Store one batch with its mark, keep what is rejected, and count.

    What sightings mean is judged by what is known, and stored in the commit of the batch. Durable when it
    returns; what is rejected of a stream is so before the mark that goes on behind it. Raises as
    ``append_prepared`` does, and as ``kept`` does.
    """
    sightings = []
    for remark in batch.remarks:
        match remark:
            case SiteInfo():
                ingestor.learn_site(project, remark.namespaces, remark.case)
            case Rejected():
                _reject(kept, summary, remark)
            case Sighting():
                sightings.append(remark)
            case Skipped():
                count_by_name(summary.skipped, remark.counts)
    prepared = batch.events
    records = list(batch.records)
    if sightings:
        stated = _compare_licenses(store, project, sightings, summary)
        edits = {event.skeleton.rev_id for event in prepared.events if event.skeleton.kind is Kind.EDIT}
        mark = replace(mark, licenses=_by_license(seen for seen in stated if seen.rev_id in edits))
        following, ignored = judge(store, project, sightings)
        count_by_name(summary.skipped, +ignored)
        # In one commit: with the edits alone stored, a sighting of them would have nothing left to tell.
        prepared = prepared.followed_by([prepare(event, ingestor.salts) for event in following])
    if batch.changes:
        judged = judge_changes(store, project, batch.changes)
        summary.skipped.update(+judged.ignored)
        records += [b""] * (len(prepared.events) - len(records)) + judged.records
        prepared = prepared.followed_by([prepare(event, ingestor.salts) for event in judged.events])
    events = prepared.events
    told: set[int] = set()

    def refuse(refused: Refused) -> None:
        for index, error in refused:
            if index not in told:
                event, record = events[index], records[index] if index < len(records) else b""
                rejected = Rejected(_where(event), error.reason, error.message, _excerpt(event), record)
                _reject(kept, summary, rejected)
                told.add(index)
        kept.secure()

    if not events and not mark.stands_alone:
        refuse(())
        return
    appended = ingestor.append_prepared(project, prepared, mark, refuse)
    summary.events += len(events)
    summary.revisions += sum(event.skeleton.kind is Kind.EDIT for event in events)
    summary.accepted += appended.accepted
    summary.known += appended.known
    summary.claims.update(appended.claims)


def _compare_licenses(
    store: Store, project: str, sightings: Sequence[Sighting], summary: Summary
) -> list[Sighting]:
    """Count what records say of licences against the project's rule, which alone is served.

    A record states the licence of the day on which it was made, whenever its revision was saved, so it is no
    fact of the revision: but where it differs, the project's rule deserves a look. Returns those that state
    one of a revision that is not known yet, whose provenance tells it.
    """
    stated = [seen for seen in sightings if seen.license]
    if not stated:
        return []
    with store.view() as view:
        number, known_at = project_number(view, project), view.head().position
        periods = definition_of(view, number).periods
        new = [seen for seen in stated if find_revision(view, number, seen.rev_id, known_at) is None]
    for seen in stated:
        rule = license_at(periods, seen.edited_at)
        if seen.license != rule:
            count_by_name(summary.licenses, {f"{seen.license} where the project has {rule}": 1})
    return new


def _by_license(stated: Iterable[Sighting]) -> dict[str, tuple[int, ...]]:
    found: dict[str, set[int]] = {}
    for seen in stated:
        found.setdefault(seen.license, set()).add(seen.rev_id)
    return {license_: tuple(sorted(rev_ids)) for license_, rev_ids in found.items()}


def _reject(kept: Records, summary: Summary, rejected: Rejected) -> None:
    kept.add(rejected)
    summary.quarantine = str(kept.folder)
    summary.rejected[rejected.reason] += 1


def _where(event: Prepared) -> str:
    skeleton = event.skeleton
    what = f"{skeleton.kind.name.lower()} {skeleton.rev_id or event.source_id}"
    return f"page {skeleton.page_id}, {what}" if skeleton.page_id else what


def _excerpt(event: Prepared) -> bytes:
    """Say what the event was, without what upstream can hide: its texts, its comment, its contributor."""
    skeleton = event.skeleton
    document = {
        "kind": skeleton.kind.name.lower(),
        "pageId": skeleton.page_id,
        "revId": skeleton.rev_id,
        "parentRevId": skeleton.parent_rev_id,
        "time": format_instant(skeleton.time),
        "sourceId": event.source_id,
        "namespace": skeleton.namespace,
        "titles": list(event.titles),
    }
    return json.dumps(document, ensure_ascii=False).encode()[:MAX_EXCERPT_BYTES]


def _fault_document(fault: RecensionError) -> dict[str, str]:
    known = [f"{name} {fault.metadata[key]}" for key, name in _POSITIONS.items() if key in fault.metadata]
    return {
        "reason": fault.reason,
        "message": plain(fault.message),
        "hint": fault.hint,
        "file": plain(fault.metadata.get("file") or fault.metadata.get("path", "")),
        "position": ", ".join(known),
    }
