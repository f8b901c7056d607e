"""The commands ``key create``, ``key rotate`` and ``key list``: with what a server signs its checkpoints."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recension.archive.ledger import Ledger, signing_keys
from recension.model.note import VerifierKey
from recension.server.opening import OpenStore, take_data_and_json
from recension.server.signing import Signer
from recension.server.telling import write_json
from recension.store.directory import KEY_FILE


def add_commands(commands: Any, open_store: OpenStore) -> None:
    """Add the commands to the subparsers of ``recension-server``."""
    key = commands.add_parser("key", help="make and rotate the key that checkpoints are signed with")
    chosen = key.add_subparsers(title="commands", metavar="COMMAND", required=True)

    create = chosen.add_parser("create", help="make the first key")
    create.description = "Make the first key. Whoever serves the data directory signs with it from then on."
    create.add_argument(
        "name", metavar="NAME", help="of the log, for ever; a URL without scheme: example.org/recension"
    )
    create.add_argument(
        "--replace",
        action="store_true",
        help="the key before is lost: clients will not follow, and have to be told",
    )
    _finish(create, lambda arguments: _create(arguments, open_store))

    rotate = chosen.add_parser("rotate", help="make another key, which the present one signs")
    _finish(rotate, lambda arguments: _rotate(arguments, open_store))

    listing = chosen.add_parser("list", help="list all keys that the log names, the newest last")
    _finish(listing, lambda arguments: _list(arguments, open_store))


def _finish(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument(
        "--signing-key", type=Path, metavar="FILE", help=f"where the key lies (DIR/{KEY_FILE})"
    )
    take_data_and_json(parser, run)


@contextmanager
def _signer(arguments: argparse.Namespace, open_store: OpenStore) -> Iterator[Signer]:
    with closing(open_store(arguments.data)) as store:
        yield Signer(store, Ledger(store), arguments.signing_key or arguments.data / KEY_FILE)


def _create(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with _signer(arguments, open_store) as signer:
        return _tell(signer.create(arguments.name, replace=arguments.replace), arguments)


def _rotate(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with _signer(arguments, open_store) as signer:
        return _tell(signer.rotate(), arguments)


def _tell(key: VerifierKey, arguments: argparse.Namespace) -> int:
    sys.stdout.write(json.dumps({"key": str(key)}) + "\n" if arguments.json else f"{key}\n")
    return 0


def _list(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with closing(open_store(arguments.data)) as store, store.view() as view:
        found = signing_keys(view)
    if arguments.json:
        write_json([asdict(key) for key in found])
        return 0
    for key in found:
        sys.stdout.write(f"{key.key}\tleaf {key.leaf_index}\tposition {key.position}\n")
    if not found:
        sys.stderr.write("no keys yet; make one with: recension-server key create\n")
    return 0
