"""The benchmarks: ``python -m tests.bench [SECTION ...]``, beside git on the same data in the same run.

Figures are of real stores with real syncs: wall times, and CPU times beside them, which other work on the
machine disturbs less. Nothing here is a test: no figure fails anything.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from rich.console import Console

from tests.bench import (
    adversarial,
    crediting,
    diffs,
    dumps,
    enterprise,
    exports,
    fanout,
    growth,
    licence,
    memory,
    others,
    peps,
    planted,
    profiles,
    scattered,
    streams,
    training,
)
from tests.bench.histories import ROOT, Bench, cache_folder

SECTIONS: dict[str, Callable[[Bench], None]] = {
    "texts": peps.texts,
    "ingest": peps.ingesting,
    "dumps": dumps.run,
    "enterprise": enterprise.run,
    "reading": peps.reading,
    "corpus": peps.corpus,
    "diffs": diffs.run,
    "exports": exports.run,
    "streams": streams.run,
    "fanout": fanout.run,
    "licence": licence.run,
    "training": training.run,
    "credits": crediting.run,
    "growth": growth.run,
    "scattered": scattered.run,
    "replay": planted.run,
    "memory": memory.run,
    "others": others.run,
    "adversarial": adversarial.run,
    "profile": profiles.run,
}


def machine() -> str:
    """Say what the figures were measured on and of what."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=ROOT, check=False, capture_output=True, text=True)
        return done.stdout.strip()

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no", "service") else ""
    return (
        f"{platform.machine()} {model}, {os.cpu_count()} processors, {memory_gib:.0f} GiB, "
        f"Python {platform.python_version()}, {git('--version')}\n"
        f"commit {git('rev-parse', '--short', 'HEAD') or 'unknown'}{changed}, "
        f"load average before: {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    """Run the sections that are asked for, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of: {' '.join(SECTIONS)} (all)")
    parser.add_argument(
        "--revisions",
        type=int,
        default=10**6,
        metavar="N",
        help="largest size of growth and scattered (%(default)s)",
    )
    parser.add_argument(
        "--pages",
        type=int,
        default=10**5,
        metavar="N",
        help="pages with one revision each, of credits three (%(default)s)",
    )
    parser.add_argument(
        "--replayed", type=int, default=10**6, metavar="N", help="pages of twenty events (%(default)s)"
    )
    parser.add_argument(
        "--window",
        type=int,
        default=10,
        metavar="N",
        help="git's in adversarial, 250 elsewhere (%(default)s)",
    )
    parser.add_argument("--folder", type=Path, help="where stores are made, and removed (the system's)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are: {' '.join(SECTIONS)}")
    console = Console(width=None if os.environ.get("COLUMNS") or os.isatty(1) else 150, highlight=False)
    if shutil.which("git") is None:
        console.print("[bold red]SKIPPED[/] everything: git is not installed, and is what we compare with")
        return
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    console.print(machine() + "\n")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.folder) as folder:
        bench = Bench(
            console, Path(folder), cache_folder(),
            arguments.revisions, arguments.pages, arguments.replayed, arguments.window,
        )  # fmt: skip
        for name in arguments.sections or SECTIONS:
            began = time.perf_counter()
            SECTIONS[name](bench)
            console.print(f"[dim]{name}: {time.perf_counter() - began:.0f} s[/]\n")


if __name__ == "__main__":
    main()
