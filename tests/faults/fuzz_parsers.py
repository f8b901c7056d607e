"""Parse mutated files as the parsing child does, under its limits; each case has a time limit of its own.

Run by ``test_fuzz``: ``fuzz_parsers SEED SECONDS ROUNDS SCRATCH KIND PATH [KIND PATH …]``. Ends with status 0
unless something else than items or a named error came of a case; that is named on standard error then.
"""

from __future__ import annotations

import faulthandler
import random
import sys
from pathlib import Path

from recension.archive.clock import random_salts
from recension.archive.intake.child import PARSERS, Ready, batches, error_frame, limit_resources
from recension.archive.intake.frames import BATCH, RUN, Batch, unpack_batch
from recension.model.errors import SourceError
from recension.sources.containers import open_container
from tests.faults.durations import Duration
from tests.faults.mutations import mutated

CASE_SECONDS = 60
_PEAK_KIB = 400 * 1024
_CASE_BYTES = 1_000_000  # the child may not write larger files
_PLAIN_BYTES = 256 * 1024


def parse(kind: str, path: Path) -> int:
    """Parse one file into frames and read those; returns the number of items."""
    count = 0
    try:
        with open_container(path, tar=kind == "enterprise") as container:
            items = PARSERS[kind](container, path, "p", {})
            for ready in batches(items, container, Batch(random_salts)):
                frame = ready.frame() if isinstance(ready, Ready) else ready
                if frame.kind == RUN:
                    continue
                assert BATCH == frame.kind
                _, fed = unpack_batch(frame.meta, memoryview(b"".join(frame.body)))
                count += len(fed.remarks) + len(fed.events.events)
    except SourceError as error:
        error_frame(error)
        error.metadata["path"]
    except MemoryError:
        pass  # the child's main names it
    return count


def plain(path: Path) -> bytes:
    """Return the beginning of what a file holds."""
    data = b""
    try:
        with open_container(path) as container:
            while len(data) < _PLAIN_BYTES and (more := container.read(_PLAIN_BYTES)):
                data += more
    except SourceError:
        pass
    return data[:_PLAIN_BYTES]


def peak_kib() -> int:
    """Return the most memory this program had, where ``ru_maxrss`` counts that of who started it as well."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise AssertionError("no VmHWM")


def main() -> int:
    seed, seconds, least, scratch, *inputs = sys.argv[1:]
    kinds = inputs[::2]
    originals = [(path.read_bytes(), plain(path)) for path in map(Path, inputs[1::2])]
    path = Path(scratch)
    limit_resources()
    cases = items = 0
    case = ""
    try:
        for case in Duration(seed, float(seconds)).rounds(int(least)):
            moments = random.Random(case)
            which = moments.randrange(len(kinds))
            path.write_bytes(mutated(moments.choice(originals[which]), moments)[:_CASE_BYTES])
            faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
            items += parse(kinds[which], path)
            cases += 1
    except BaseException:
        print(f"case {case}, kept in {path}", file=sys.stderr)
        raise
    peak = peak_kib()
    print(f"{cases} cases, {items} items, peak {peak} KiB")
    return 0 if peak < _PEAK_KIB else 1


if __name__ == "__main__":
    sys.exit(main())
