"""Commands about the command line itself: ``completion``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import shtab

from recension_client.cli import output
from recension_client.cli.arguments import OK, Commands

SHELLS = ("bash", "zsh", "fish")


def register(commands: Commands) -> None:
    """Add the commands of this group."""

    def completion(options: Namespace) -> int:
        return _completion(commands.parser, options)

    one = commands.add("completion", "write what makes a shell complete these commands", completion)
    one.add_argument("shell", choices=SHELLS, help="source its output in the shell's start-up file")


def _completion(parser: ArgumentParser, options: Namespace) -> int:
    output.write(shtab.complete(parser, options.shell).encode() + b"\n")
    return OK
