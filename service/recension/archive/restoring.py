"""What a retraction destroys, as values that can be kept elsewhere and put back.

Nothing is believed of what comes back: each field has to give the commitment that the log sealed, each text
its digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_bytes

from recension.archive.replay import LABELS, holder_keys
from recension.archive.retracting import Place, Plan
from recension.archive.rows import read_page_value
from recension.archive.sealed import CONTENT_FIELD, Sealed, find_sealed, with_sealed
from recension.archive.texts.reading import knows_text, next_text_id, read_text
from recension.archive.texts.writing import NewText, TextWriter
from recension.model.digest import digest_of
from recension.model.errors import VerificationError
from recension.model.event import Presence
from recension.model.record import Kind
from recension.model.seal import read_content
from recension.store import keys
from recension.store.interface import Rewrite, Store, View

_TOGETHER = 64
"""Events, or texts, put back in one transaction."""
_LABELS = LABELS[Kind.EDIT]


@dataclass(frozen=True, slots=True)
class Kept:
    """An edit as it was before it was erased."""

    place: Place
    time: int
    event: tuple[int, int]
    """(position, ordinal)."""
    sealed: Sealed


@dataclass(frozen=True, slots=True)
class Withheld:
    """All that an erasure destroys."""

    edits: tuple[Kept, ...]
    texts: Mapping[bytes, bytes]
    """By digest."""


def withheld_by(store: Store, plan: Plan) -> Withheld:
    """Return what erasing by a plan would destroy: held in memory as a whole."""
    edits = []
    places = [(one.place, event) for one in plan.left for event in one.events]
    for place, event in [*places, *plan.hidden_holders]:
        with store.view() as view:
            edits.append(Kept(place, _time(view, place, event), event, find_sealed(view, *event)))
    texts = {}
    for digest in plan.erased:
        with store.view() as view:
            texts[digest] = read_text(view, digest)
    return Withheld(tuple(edits), texts)


def put_back(store: Store, withheld: Withheld) -> None:
    """Put back what an erasure destroyed; what is there already stays. Durable when it returns.

    It stays hidden: that is for a commit to say. For the holder of ``store.exclusive_writer()``; killed
    anywhere, it is done again. Raises ``VerificationError``, with nothing put back, for values that are not
    what the log committed to.
    """
    edits = []
    for one in withheld.edits:
        with store.view() as view:
            current = find_sealed(view, *one.event)
        if _sealings(one.sealed) != _sealings(current):
            raise VerificationError(
                f"what is kept of revision {one.place.rev} is not what was erased", revId=one.place.rev
            )
        if current != one.sealed:
            edits.append(one)
    for digest, text in withheld.texts.items():
        if digest_of(text) != digest:
            raise VerificationError(f"the text sha256:{digest.hex()} is another", digest=digest.hex())
    _put_texts(store, withheld)
    for at in range(0, len(edits), _TOGETHER):
        plan = Rewrite({}, {keys.removed(): token_bytes(8)}, {})
        with store.view() as view:
            for one in edits[at : at + _TOGETHER]:
                with_sealed(view, plan.blobs, *one.event, one.sealed)
        store.rewrite([plan])


def _time(view: View, place: Place, event: tuple[int, int]) -> int:
    row = view.get(keys.revision(place.number, place.rev, *event))
    return 0 if row is None else read_page_value(row)[1]


def _sealings(sealed: Sealed) -> list[bytes]:
    return [committed for _, committed in sealed.sealings(range(len(_LABELS)), _LABELS)]


def _put_texts(store: Store, withheld: Withheld) -> None:
    """Store the texts that are not there, with the pages that they were of, and say who else holds them."""
    held = [(text, one) for one in withheld.edits for text in _texts(one.sealed) if text in withheld.texts]
    first: dict[bytes, Kept] = {}
    for text, one in held:
        first.setdefault(text, one)
    wanted = list(first)
    for at in range(0, len(wanted), _TOGETHER):
        some = set(wanted[at : at + _TOGETHER])
        with store.view() as view:
            known = {text for text in some if knows_text(view, text)}
            new = [_new(first[text], text, withheld.texts[text]) for text in sorted(some - known)]
            blobs, index = TextWriter().store(view, next_text_id(view), new)
        holders = [(text, (one.place.number, one.place.page)) for text, one in held if text in some]
        rows = dict(index) | dict.fromkeys(holder_keys(holders, known.__contains__), b"")
        store.rewrite([Rewrite(dict.fromkeys(map(keys.text, some - known)), {**rows}, dict(blobs))])


def _new(one: Kept, digest: bytes, text: bytes) -> NewText:
    return NewText((one.place.number, one.place.page), one.time, text, digest)


def _texts(sealed: Sealed) -> Sequence[bytes]:
    content = sealed.values[CONTENT_FIELD]
    slots: Iterable[bytes] = (
        slot.digest
        for slot in (read_content(content) if content is not None else ())
        if slot.presence is Presence.PRESENT
    )
    return list(slots)
