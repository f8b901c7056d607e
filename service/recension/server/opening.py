"""What every command of ``recension-server`` needs: a data directory, and what opens the store in it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from recension.store.interface import Store


class OpenStore(Protocol):
    """Opens the store of a data directory."""

    def __call__(self, path: Path, *, create: bool = False) -> Store:
        """Open it; with ``create``, make it first unless it is one already."""
        ...


def take_data(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    """Have a command take the data directory, and do what it does."""
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="data directory")
    parser.set_defaults(run=run)


def take_data_and_json(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    """The same of a command that answers as JSON too if it is told to."""
    take_data(parser, run)
    parser.add_argument("--json", action="store_true", help="as JSON")
