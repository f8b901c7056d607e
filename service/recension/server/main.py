"""The command ``recension-server``: the one place that picks the backend and wires everything.

Exit status: 0 well, 1 records were rejected, 2 wrong usage, 3 a named error, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple

from recension.model.errors import RecensionError
from recension.server.telling import NAMED_ERROR, write_error
from recension.store.lmdb import LmdbStore

_INTERRUPTED = 130
_EPILOG = """\
exit codes:
  0    done
  1    records were rejected
  2    wrong usage
  3    an error with a name: see "error:" and "hint:" on stderr
  130  interrupted
"""


class Group(NamedTuple):
    """Commands of one module."""

    module: str
    commands: tuple[str, ...]
    backend: Sequence[object] = (LmdbStore.open,)
    """What its ``add_commands`` takes beside the subparsers."""


GROUPS = (
    Group("projects", ("project",)),
    Group("ingesting", ("ingest",)),
    Group("quarantining", ("quarantine",)),
    Group("fetching", ("fetch",), ()),
    Group("follow_commands", ("follow", "pending")),
    Group("serving", ("serve", "worker")),
    Group("operating", ("compact", "backup", "restore", "stats"), (LmdbStore,)),
    Group("checking", ("fsck", "rebuild", "gc")),
    Group("keying", ("key",)),
    Group("apikeys", ("apikey",)),
    Group("clocks", ("clock",), ()),
    Group("usage", ("usage",)),
    Group("agreements", ("licensee", "agreement")),
    Group("audit.commands", ("audit", "report")),
    Group("retracting", ("retract", "retractions", "receipts")),
    Group("health", ("health",), ()),
)
"""A command imports its own module alone: together they take a second to load."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        arguments = _parser(argv).parse_args(argv)
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except RecensionError as error:
        write_error(error)
        return NAMED_ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Says the exit statuses at the end of each help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of the command that is asked for; of all, if that is none."""
    parser = _Parser(prog="recension-server", description="Hold article revisions and serve them.")
    parser.add_argument("--version", action="version", version=f"recension {version('recension')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    asked = [group for group in GROUPS if argv and argv[0] in group.commands]
    for group in asked or GROUPS:
        import_module(f"recension.server.{group.module}").add_commands(commands, *group.backend)
    return parser


if __name__ == "__main__":
    sys.exit(main())
