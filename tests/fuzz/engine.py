"""Fuzz targets, each in a child of its own: ``engine RUNS SEED SECONDS FOLDER TARGET…``.

The parsers are instrumented once, while they are imported; then each target's child inherits them. It reads
the committed inputs and ``FOLDER/TARGET/corpus``, to which it adds what led to code that nothing had led to,
and writes what libFuzzer says to ``FOLDER/TARGET/log``. An input that is a finding is left in
``FOLDER/TARGET``. Prints a line of JSON for each target. ``SECONDS``: longest that one input may take.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import os
import random
import re
import resource
import shutil
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import atheris
from google.protobuf.message import DecodeError

_FOLLOWED = (
    *("recension.sources", "recension.model", "recension.wire", "recension.archive.intake.frames"),
    *("recension.server.documents", "recension.server.cursors", "recension.server.tokens"),
    *("recension_client.verify", "recension_client.lockfile", "recension_client.checkpoints"),
    *("recension_client.export.jsonl", "recension_client.export.layout", "recension_client.export.rendition"),
    *("recension_client.watching", "recension.server.dumpsets"),
    *("recension_client.export.rows", "recension_client.export.parquet", "py7zr.archiveinfo", "tarfile"),
)
"""Parsers. To follow as well what their answers are checked with would take half the time."""


def _others(package: str) -> list[str]:
    """Return the modules of a package that are not followed; nothing of it is imported."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    paths = (path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py"))
    names = (".".join(path.parts).removesuffix(".__init__") for path in paths)
    return [name for name in names if not f"{name}.".startswith(tuple(f"{one}." for one in _FOLLOWED))]


_PACKAGES = ("recension", "recension_client", "py7zr")
with (
    contextlib.redirect_stderr(io.StringIO()),  # a line for each module
    atheris.instrument_imports(
        include=[*_PACKAGES, "tarfile"], exclude=[name for one in _PACKAGES for name in _others(one)]
    ),
):
    from recension.archive.intake.child import MEMORY_BYTES
    from tests.fuzz import controls, readback
    from tests.fuzz.corpora import files_of
    from tests.fuzz.mutators import Mutator
    from tests.fuzz.targets import TARGETS

atheris.instrument_func(controls.crash)
ALL = TARGETS | controls.CONTROLS

_COUNTS = struct.Struct("=QQ")
_CHECKED_EVERY = 16
_FAILED = 99
_MOST_RESIDENT_MIB = 400
_STATISTIC = re.compile(r"^stat::(\w+):\s+(\d+)$", re.MULTILINE)
_COVERAGE = re.compile(r"cov: (\d+)")
_FINDING = re.compile(r"(?:crash|timeout|oom|leak|slow-unit)-")


def fuzz(name: str, runs: int, seed: int, seconds: int, folder: Path) -> dict[str, Any]:
    """Fuzz one target in a child; return what came of it."""
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    counts = mmap.mmap(-1, _COUNTS.size)
    child = os.fork()
    if child == 0:
        _run(name, runs, seed, seconds, folder, counts)
    _, status = os.waitpid(child, 0)
    said = (folder / "log").read_text(errors="replace")
    numbers = {key: int(value) for key, value in _STATISTIC.findall(said)}
    executions, accepted = _COUNTS.unpack(counts[:])
    coverage = _COVERAGE.findall(said)
    return {
        "target": name,
        "status": os.waitstatus_to_exitcode(status),
        "executions": executions,
        "accepted": accepted,
        "coverage": int(coverage[-1]) if coverage else 0,
        "peak_mib": numbers.get("peak_rss_mb", 0),
        "findings": sorted(str(path) for path in set(folder.iterdir()) - before if _FINDING.match(path.name)),
    }


def _run(name: str, runs: int, seed: int, seconds: int, folder: Path, counts: mmap.mmap) -> NoReturn:
    """Be the child. libFuzzer ends it when all runs are made, and where Python cannot."""
    try:
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, sys.stdout.fileno())
        os.dup2(log, sys.stderr.fileno())
        _begin(name, runs, seed, seconds, folder, counts)
    except BaseException:  # noqa: BLE001 - nothing of the parent may go on here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(_FAILED)


def _begin(name: str, runs: int, seed: int, seconds: int, folder: Path, counts: mmap.mmap) -> None:
    target = ALL[name]
    readback.checked_every = _CHECKED_EVERY
    executions = accepted = 0

    def one(data: bytes) -> None:
        nonlocal executions, accepted
        executions += 1
        try:
            accepted += target.accepts(data)
        except BaseException:
            (folder / f"crash-{sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise
        finally:
            counts[:] = _COUNTS.pack(executions, accepted)

    words = folder / "words"
    words.write_text("".join(map(_quoted, target.words or (b"\0",))))  # an empty file is refused
    given = folder / "given"
    shutil.rmtree(given, ignore_errors=True)
    given.mkdir()
    for path in files_of(name):
        shutil.copy(path, given)
    for number, example in enumerate(target.examples):
        (given / f"example-{number}").write_bytes(example)
    _limit_resources()
    options = {
        "runs": runs, "seed": seed, "timeout": seconds, "rss_limit_mb": _MOST_RESIDENT_MIB,
        "max_len": target.most_bytes, "dict": words, "artifact_prefix": f"{folder}/", "print_final_stats": 1,
    }  # fmt: skip
    arguments = [f"-{option}={value}" for option, value in options.items()]
    hooks = {} if target.mutate is None else {"custom_mutator": _either(target.mutate)}
    atheris.Setup([name, *arguments, str(folder / "corpus"), str(given)], one, **hooks)
    atheris.Fuzz()


def _either(mutate: Mutator) -> Callable[[bytes, int, int], bytes]:
    """Change an input in its form, or blindly, or both."""

    def mutated(data: bytes, most_bytes: int, seed: int) -> bytes:
        chance = random.Random(seed)
        way = chance.randrange(4)
        if way:
            with contextlib.suppress(ValueError, RecursionError, DecodeError):
                data = mutate(data, chance)
        return data[:most_bytes] if way > 1 else bytes(atheris.Mutate(data, most_bytes))

    return mutated


def _limit_resources() -> None:
    """Take the address space of the process that parses (``archive.intake.child``), and dump no core."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _quoted(word: bytes) -> str:
    """Write a word as libFuzzer's dictionaries have it."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


def main(arguments: Sequence[str]) -> None:
    """Fuzz one target after another."""
    runs, seed, seconds, folder, *names = arguments
    for name in names:
        print(json.dumps(fuzz(name, int(runs), int(seed), int(seconds), Path(folder) / name)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
