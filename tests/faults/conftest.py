from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.findings import Findings

_TABLE = pytest.StashKey[list[tuple[str, str, Findings]]]()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str, Findings], None]:
    """Put a row into the table that the run ends with: a seed, and what was found."""
    table = request.config.stash.setdefault(_TABLE, [])
    return lambda seed, found: table.append((request.node.name, seed, found))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was tried and found."""
    table = terminalreporter.config.stash.get(_TABLE, [])
    if table:
        terminalreporter.section("faults tried")
    for name, seed, found in table:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(found.counts.items()))
        terminalreporter.line(f"{name}, seed {seed}: {counts}")
