"""What a long test tried and found: told by a script, checked by its test, shown at the end of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_MOST_SHOWN = 10


@dataclass(slots=True)
class Findings:
    """Counts of what was tried and of what came of it, and the first cases that break a promise."""

    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def add(self, case: str, problems: list[str]) -> None:
        """Count a case and its problems."""
        self.counts["cases"] += 1
        self.counts["broken"] += bool(problems)
        for problem in problems:
            if len(self.broken) < _MOST_SHOWN:
                self.broken.append(f"case {case}: {problem}")

    def print(self) -> None:
        """Tell the test."""
        print(json.dumps({"counts": self.counts, "broken": self.broken}))


def environment() -> dict[str, str]:
    """Return the environment of a script: what is killed cannot tell how much of it was covered."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def run_script(name: str, *arguments: object) -> Findings:
    """Run a script of this folder."""
    command = [sys.executable, "-m", f"tests.faults.{name}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return Findings(Counter(result["counts"]), result["broken"])
