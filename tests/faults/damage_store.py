"""Damage copies of a store at random and ask each everything, in a child of its own: LMDB may crash on them.

Run by ``test_damage``: ``damage_store SEED SECONDS ROUNDS DATA SCRATCH``. Prints as JSON how many cases there
were with each "question outcome", and the first of those that break a promise, with their cases. Promised is
what rows and records prove by themselves: log, snapshots and revisions are never other than they were.

Not promised, because nothing proves that a row is not there: a damaged key or page can hide rows, so a page
or revision may seem absent, and a timeline or article lack one. Reading a snapshot notices it. And a damaged
page 0 or 1 lets LMDB go back to the commit before: all answers are then of an older head.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

from recension.model.errors import RecensionError
from recension.store.lmdb import LmdbStore
from tests.faults.answers import Question, answer, questions
from tests.faults.children import DiedError, in_a_child
from tests.faults.durations import Duration

PAGE_BYTES = 4096
_ASKED = 200
_ALWAYS = frozenset({"log", "projects", "snapshot"})
_TIMEOUT = signal.SIGALRM.name
_MOST_SHOWN = 10
_OUTCOMES = frozenset({"named", "unnamed", "absent", "died", "older"})
_NEVER_WRONG = frozenset({"log wrong", "snapshot wrong", "revision wrong"})


def damaged(data: bytes, moments: random.Random) -> bytes:
    """Change a few bytes of one file of LMDB, a page, or its length."""
    out = bytearray(data)
    pages = len(out) // PAGE_BYTES
    match moments.randrange(8):
        case 0:
            at = moments.randrange(pages) * PAGE_BYTES
            out[at : at + PAGE_BYTES] = bytes(PAGE_BYTES)
        case 1:
            one, two = (moments.randrange(pages) * PAGE_BYTES for _ in range(2))
            out[one : one + PAGE_BYTES] = out[two : two + PAGE_BYTES]
        case 2:
            del out[moments.randrange(pages) * PAGE_BYTES + moments.choice((0, 100)) :]
        case _:
            for _ in range(moments.choice((1, 8, 64, 512))):
                out[moments.randrange(len(out))] ^= 1 << moments.randrange(8)
    return bytes(out)


def differences(folder: Path, head: int, expected: dict[Question, str]) -> dict[str, str]:
    """Ask a store; return each answer that is not the expected one, by question."""
    try:
        with closing(LmdbStore.open(folder)) as store:
            if store.log.head().position < head:
                return {"store": "older"}
            found = {question: answer(store, question) for question in expected}
    except RecensionError as error:
        return {"open": f"named {error.reason}"}
    except Exception as error:  # noqa: BLE001 - as in ``answer``
        return {"open": f"unnamed {type(error).__name__}: {error}"}
    return {
        f"{kind} {about!r}": text for (kind, about), text in found.items() if text != expected[kind, about]
    }


def found_in_a_child(folder: Path, head: int, expected: dict[Question, str]) -> dict[str, str]:
    """Do the same in a child; its death is a difference of its own."""
    try:
        found: dict[str, str] = in_a_child(lambda: differences(folder, head, expected))
    except DiedError as error:
        return {"process": str(error)}
    return found


def main() -> int:
    seed, seconds, least, source, scratch = sys.argv[1:]
    with closing(LmdbStore.open(Path(source))) as store:
        everything = {question: answer(store, question) for question in questions(store)}
        head = store.log.head().position
    whole = (Path(source) / "lmdb/data.mdb").read_bytes()
    folder = Path(scratch)
    (folder / "lmdb").mkdir(parents=True)
    counts: Counter[str] = Counter()
    broken: list[str] = []
    always = {question: text for question, text in everything.items() if question[0] in _ALWAYS}
    for case in Duration(seed, float(seconds)).rounds(int(least)):
        moments = random.Random(case)
        (folder / "lmdb/data.mdb").write_bytes(damaged(whole, moments))
        (folder / "lmdb/lock.mdb").unlink(missing_ok=True)
        asked = {**always, **dict(moments.sample(list(everything.items()), _ASKED))}
        outcomes = set()
        for question, text in found_in_a_child(folder, head, asked).items():
            outcome = text.split(" ")[0]
            outcome = f"{question.split(' ')[0]} {outcome if outcome in _OUTCOMES else 'wrong'}"
            outcomes.add(outcome)
            if outcome in _NEVER_WRONG or "unnamed" in outcome or text == f"died {_TIMEOUT}":
                broken.append(f"case {case}: {question}: {text}")
        counts.update(outcomes or {"no difference"})
        counts["cases"] += 1
    print(json.dumps({"counts": counts, "broken": broken[:_MOST_SHOWN]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
