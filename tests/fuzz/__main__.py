"""Fuzz all targets, or those that are named: ``python -m tests.fuzz [TARGET…]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.fuzz.campaign import HAS_ENGINE, RUNS, runs_wanted, seed_wanted, step
from tests.fuzz.targets import TARGETS


def main(names: Sequence[str]) -> int:
    """Fuzz until each target has had its inputs; 1 if anything was found."""
    if not HAS_ENGINE:
        print("atheris is not there: it is made for Linux on x86-64, and for some versions of Python")
        return 2
    print(f"seed {seed_wanted()}, {runs_wanted():,} inputs for each target ({RUNS})")
    found = False
    for name in names or TARGETS:
        state = step(name)
        while state.executions < runs_wanted() and not state.findings:
            state = step(name)
        print(
            f"{name}: {state.executions:,} inputs, {state.accepted:,} accepted, {state.coverage} branches, "
            f"peak {state.peak_mib} MiB, {len(state.findings)} findings {' '.join(state.findings)}",
            flush=True,
        )
        found |= bool(state.findings)
    return int(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
