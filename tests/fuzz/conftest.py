from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fuzz.campaign import State, seed_wanted

_TABLE = pytest.StashKey[dict[str, State]]()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str, State], None]:
    """Put a target's state into the table that the run ends with."""
    table = request.config.stash.setdefault(_TABLE, {})

    def told(name: str, state: State) -> None:
        if name not in table or table[name].executions < state.executions:
            table[name] = state

    return told


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was tried and found."""
    table: dict[str, State] = terminalreporter.config.stash.get(_TABLE, {})
    if not table:
        return
    terminalreporter.section(f"fuzzed, seed {seed_wanted()}")
    for name, state in sorted(table.items()):
        terminalreporter.line(
            f"{name}: {state.executions:,} inputs, {state.accepted:,} accepted, {state.coverage} branches, "
            f"peak {state.peak_mib} MiB, {len(state.findings)} findings"
        )
