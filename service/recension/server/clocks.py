"""The commands ``clock show`` and ``clock confirm``: by which time embargoes are kept."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from recension.model.errors import NotAStoreError
from recension.model.instant import format_instant
from recension.server.embargo import EmbargoClock, State
from recension.server.opening import take_data_and_json
from recension.server.telling import write_json
from recension.store.directory import CLOCK_FILE

_SECOND = 1_000_000


def add_commands(commands: Any) -> None:
    """Add the commands to the subparsers of ``recension-server``."""
    group = commands.add_parser("clock", help="see and confirm the time by which embargoes are kept")
    chosen = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    show = chosen.add_parser("show", help="compare it with the machine's clock")
    _finish(show, EmbargoClock.state)

    confirm = chosen.add_parser("confirm", help="say that the machine's clock is right")
    confirm.description = (
        "Say that the machine's clock is right. A server that was off for more than a day, or whose clock was"
        " set forward, does not know that, and holds back what is under embargo until then."
    )
    _finish(confirm, EmbargoClock.confirm)


def _finish(parser: argparse.ArgumentParser, act: Callable[[EmbargoClock], State]) -> None:
    take_data_and_json(parser, lambda arguments: _run(arguments, act))


def _run(arguments: argparse.Namespace, act: Callable[[EmbargoClock], State]) -> int:
    if not (arguments.data / "lmdb").is_dir():
        raise NotAStoreError(
            f"{arguments.data} is no data directory", hint="recension-server project create makes one"
        )
    state = act(EmbargoClock(arguments.data / CLOCK_FILE))
    now, wall = format_instant(state.now), format_instant(state.wall)
    behind = state.behind / _SECOND
    if arguments.json:
        said = {"now": now, "wall": wall, "behind_seconds": round(behind, 3), "held": state.held}
        write_json(said)
        return 0
    sys.stdout.write(f"embargoes are kept by {now}\nthe machine's clock says {wall}\n")
    if state.held:
        sys.stdout.write("held: the machine's clock is far ahead of what was known before its restart\n")
    elif behind >= 1:
        sys.stdout.write(f"behind: the machine's clock was set forward by {behind:.0f} s or more\n")
    if state.held or behind >= 1:
        sys.stderr.write("if the machine's clock is right: recension-server clock confirm\n")
    return 0
