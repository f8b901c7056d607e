"""Every parser under its invariant: committed inputs, a short run that is guided by coverage, and long ones.

The engine needs atheris, which is there for Linux on x86-64 and CPython 3.11 to 3.13; elsewhere what needs it
skips, and says so. Committed inputs are read everywhere.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.campaign import HAS_ENGINE, ROOT, State, engine, step
from tests.fuzz.controls import CONTROLS, SECRET
from tests.fuzz.corpora import files_of
from tests.fuzz.shrink import shrunk
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

needs_engine = pytest.mark.skipif(
    not HAS_ENGINE, reason="NOT TESTED: fuzzing that is guided by coverage, for want of atheris"
)
_UNHURRIED_SECONDS = 60
"""For one input, where other tests run beside this one."""
_HANG_SECONDS = 5
"""The same where an input that takes forever is waited for."""
_GUIDED_RUNS = 20_000
"""In which the fault behind comparisons is found; blind, it would take some thousand million."""
_SHORT_RUNS = 60
"""Inputs that are made up of each target, behind its corpus."""
_NONE_ACCEPTED = {"token"}
"""No token is good for longer than some minutes."""


def examples_of(name: str, folder: Path) -> list[Path]:
    paths = []
    for number, example in enumerate(TARGETS[name].examples):
        paths.append(folder / f"{name}-{number}")
        paths[-1].write_bytes(example)
    return paths


def test_committed_inputs(tmp_path: Path) -> None:
    """Of the corpora and of what was found once comes nothing that is a finding, under a parser's limits."""
    fault = tmp_path / "fault"
    fault.write_bytes(SECRET)
    given = [(name, path) for name in TARGETS for path in [*files_of(name), *examples_of(name, tmp_path)]]
    inputs = [f"{name}={path}" for name, path in given]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.replay", *inputs, f"control-crash={fault}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert f"control-crash={fault} is a finding" == done.stderr.partition("\n")[0], "a negative control"
    assert 0 != done.returncode
    accepted = {name for (name, _), said in zip(given, done.stdout.split(), strict=True) if said == "1"}
    assert set(TARGETS) - _NONE_ACCEPTED == accepted, "each corpus has inputs that are accepted"


def test_an_error_without_a_name_is_a_finding() -> None:
    """Negative control: what a target does not name is not taken for a refusal."""
    assert not Target("a", lambda _: int("x"), (ValueError,)).accepts(b"")
    with pytest.raises(ValueError, match="invalid literal"):
        Target("a", lambda _: int("x")).accepts(b"")


def test_shrinking() -> None:
    """What is not needed is left out."""
    assert b"ac" == shrunk(b"xxaxbbc" * 9, lambda data: b"a" in data and b"c" in data.partition(b"a")[2])


@needs_engine
def test_short_runs(tmp_path: Path) -> None:
    """Nothing is found near the corpora. The same inputs each time: seeds and counts are fixed, not times."""
    runs = {name: len(files_of(name)) + _SHORT_RUNS for name in TARGETS}
    told = engine(list(TARGETS), max(runs.values()), 1, tmp_path, _UNHURRIED_SECONDS)
    assert list(TARGETS) == [one["target"] for one in told]
    for one in told:
        assert (0, []) == (one["status"], one["findings"]), one
        assert runs[one["target"]] <= one["executions"], one
        assert one["accepted"] or one["target"] in _NONE_ACCEPTED, one
        assert one["coverage"], one


@needs_engine
def test_faults_are_found(tmp_path: Path) -> None:
    """Negative controls: what lies behind comparisons, takes too long, or takes too much memory."""
    told = engine(list(CONTROLS), _GUIDED_RUNS, 1, tmp_path, _HANG_SECONDS)
    for one, kind in zip(told, ("crash", "timeout", "crash"), strict=True):
        assert 0 != one["status"], one
        (finding,) = one["findings"]
        assert Path(finding).name.startswith(f"{kind}-"), one
    assert Path(told[0]["findings"][0]).read_bytes().startswith(SECRET)


@needs_engine
@pytest.mark.torture
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("name", TARGETS)
def test_long_runs(name: str, part: int, tell: Callable[[str, State], None]) -> None:
    """A million inputs of each target, a tenth at a time, going on where the last run ended."""
    state = step(name)
    tell(name, state)
    assert not state.findings
