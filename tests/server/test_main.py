"""Commands are loaded one by one."""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module

import pytest

from recension.server.main import GROUPS, Group

_LOADED = """
import contextlib, sys
from recension.server.main import main
with contextlib.suppress(SystemExit):
    main([*sys.argv[1:], "--help"])
sys.stderr.write("\\n".join(sys.modules))
"""


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.module)
def test_each_module_has_the_commands_of_the_table(group: Group) -> None:
    """None is left out of it, so each is found when it is asked for alone."""
    added = argparse.ArgumentParser().add_subparsers()
    import_module(f"recension.server.{group.module}").add_commands(added, *group.backend)
    assert tuple(added.choices) == group.commands


def loaded(command: str) -> set[str]:
    """Return the modules of a process that was asked for the help of a command."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, command], check=True, capture_output=True, encoding="utf-8"
    )
    assert f"recension-server {command}" in done.stdout
    return set(done.stderr.split())


def test_a_command_loads_what_it_needs() -> None:
    """A health check is asked every few seconds, so it loads neither the archive nor what others need."""
    assert "recension.server.serve" in loaded("serve")
    assert not {"recension.archive", "recension.server.serve", "structlog", "rich"} & loaded("health")
