"""Fuzz targets until each has had so many inputs, going on where an earlier run ended.

A target's state lies beside its corpus. Its count begins anew when anything in the code has changed since;
its corpus stays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.faults.findings import environment

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".fuzz"
RUNS = "RECENSION_FUZZ_RUNS"
"""Environment variable: inputs for each target in ``make torture`` and ``make fuzz``; else a million."""
SEED = "RECENSION_FUZZ_SEED"
"""Environment variable: the seed from which all others follow; 1 if it is not set."""
STEP = 100_000
"""Inputs of one process; the next begins with the corpus that it leaves."""
MOST_SECONDS = 10
"""For one input."""
HAS_ENGINE = find_spec("atheris") is not None
"""It is made for some versions of Python on Linux on x86-64 alone."""


@dataclass(slots=True)
class State:
    """What was tried of a target, and what was found."""

    executions: int = 0
    accepted: int = 0
    """Inputs of which anything was accepted."""
    coverage: int = 0
    """Branches, as libFuzzer counts them."""
    peak_mib: int = 0
    findings: list[str] = field(default_factory=list)
    code: str = ""
    """Digest of the code that was fuzzed."""


def runs_wanted() -> int:
    """Return how many inputs each target is to have."""
    return int(os.environ.get(RUNS, "1000000"))


def seed_wanted() -> int:
    """Return the seed."""
    return int(os.environ.get(SEED, "1"))


def digest_of_code() -> str:
    """Return a digest of all that the outcome depends on."""
    files = [path for name in ("service", "tools", "tests/fuzz") for path in (ROOT / name).rglob("*.py")]
    lines = [f"{path.relative_to(ROOT)} {sha256(path.read_bytes()).hexdigest()}" for path in sorted(files)]
    return sha256("\n".join(lines).encode()).hexdigest()


def engine(names: Sequence[str], runs: int, seed: int, folder: Path, seconds: int) -> list[dict[str, Any]]:
    """Fuzz targets one after another in a process of its own; return what came of each."""
    command = [sys.executable, "-m", "tests.fuzz.engine", *map(str, (runs, seed, seconds, folder)), *names]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT,
        env=environment() | {"PYTHONHASHSEED": "0"},  # or the same seed would not give the same inputs
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def step(name: str, folder: Path = FOLDER) -> State:
    """Give a target its next inputs, unless it has had all; what is found is made small."""
    path = folder / name / "state.json"
    state = State(**json.loads(path.read_text())) if path.exists() else State()
    code = digest_of_code()
    if state.code != code:
        state = State(code=code)
    left = runs_wanted() - state.executions
    if left <= 0 or state.findings:
        return state
    seed = seed_wanted() + state.executions
    (told,) = engine([name], min(STEP, left), seed, folder, MOST_SECONDS)
    state.executions += told["executions"]
    state.accepted += told["accepted"]
    state.coverage = max(state.coverage, told["coverage"])
    state.peak_mib = max(state.peak_mib, told["peak_mib"])
    state.findings += told["findings"] or ([f"status {told['status']}"] if told["status"] else [])
    for finding in told["findings"]:
        if Path(finding).name.startswith("crash-"):
            subprocess.run([sys.executable, "-m", "tests.fuzz.shrink", name, finding], check=False, cwd=ROOT)
    path.write_text(json.dumps(asdict(state)))
    return state
