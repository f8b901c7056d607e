from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.findings import Findings

_TABLE = pytest.StashKey[list[tuple[str, str, Findings]]]()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str, Findings], None]:
    """Put a row into the table that the run ends with: a seed, and what was found."""
    table = request.config.stash.setdefault(_TABLE, [])
    return lambda seed, found: table.append((request.node.name, seed, found))


@pytest.fixture(scope="session")
def strace() -> None:
    """Skip, and say so, where system calls cannot be watched."""
    try:
        subprocess.run(["strace", "--output=/dev/null", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("NOT TESTED: failing system calls; run tools/scripts/system_packages.sh to have strace")


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Mount a small file system of its own; kind and size are the parameter."""
    kind, size = request.param.split()
    disk, image = tmp_path / "disk", tmp_path / "image"
    disk.mkdir()
    commands = [["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]]
    if kind == "ext4":
        commands = [
            ["truncate", "-s", size, str(image)],
            ["mkfs.ext4", "-q", str(image)],
            ["mount", "-o", "loop", str(image), str(disk)],
        ]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"NOT TESTED: a full disk of {kind}; to mount one needs root, and {error}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was tried and found."""
    table = terminalreporter.config.stash.get(_TABLE, [])
    if table:
        terminalreporter.section("faults tried")
    for name, seed, found in table:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(found.counts.items()))
        terminalreporter.line(f"{name}, seed {seed}: {counts}")
