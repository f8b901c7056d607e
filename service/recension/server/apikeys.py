"""The commands ``apikey create``, ``apikey revoke`` and ``apikey list``: who may call a server."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from recension.archive.keyring import Keyring
from recension.model.access import ID_BYTES, ApiKey, Role
from recension.model.errors import InvalidArgumentError
from recension.model.instant import format_instant, parse_instant
from recension.server.limits.quotas import keys_seen
from recension.server.opening import OpenStore, take_data_and_json
from recension.server.pepper import Pepper
from recension.server.telling import write_json
from recension.store.directory import PEPPER_FILE

_DAYS = 365
_DAY = 86_400 * 1_000_000


def add_commands(commands: Any, open_store: OpenStore) -> None:
    """Add the commands to the subparsers of ``recension-server``."""
    group = commands.add_parser("apikey", help="make and end the keys that callers show")
    chosen = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    create = chosen.add_parser("create", help="make a key, and show it once")
    create.description = (
        "Make a key, and show it once: on stdout, for its owner to keep. From the first key on, the server"
        " answers nobody without one."
    )
    create.add_argument("owner", metavar="OWNER", help="the licensee, or who operates or audits: acme")
    create.add_argument(
        "--role", choices=[role.value for role in Role], default=Role.LICENSEE.value, help="(%(default)s)"
    )
    create.add_argument("--expires", metavar="T", type=parse_instant, help=f"2027-01-31 (in {_DAYS} days)")
    _finish(create, lambda arguments: _create(arguments, open_store))

    revoke = chosen.add_parser("revoke", help="end a key; open streams of it end within seconds")
    revoke.add_argument("id", metavar="ID", type=_id, help="the 16 hex digits behind rcn_")
    _finish(revoke, lambda arguments: _revoke(arguments, open_store))

    listing = chosen.add_parser("list", help="list the keys, without their secrets")
    _finish(listing, lambda arguments: _list(arguments, open_store))


def _finish(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument(
        "--pepper", type=Path, metavar="FILE", help=f"the secret that keys are kept under (DIR/{PEPPER_FILE})"
    )
    take_data_and_json(parser, run)


def _id(text: str) -> bytes:
    try:
        found = bytes.fromhex(text.removeprefix("rcn_"))
    except ValueError:
        found = b""
    if len(found) != ID_BYTES:  # never repeated: it may be a whole key
        raise argparse.ArgumentTypeError("not the 16 hex digits of a key's id")
    return found


@contextmanager
def _keyring(
    arguments: argparse.Namespace, open_store: OpenStore, *, make: bool = False
) -> Iterator[Keyring]:
    with closing(open_store(arguments.data)) as store:
        pepper = Pepper(arguments.pepper or arguments.data / PEPPER_FILE)
        keyring = Keyring(store, pepper)
        if make and keyring.is_empty():
            pepper.make()
        yield keyring


def _create(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    now = time.time_ns() // 1000
    expires = now + _DAYS * _DAY if arguments.expires is None else arguments.expires
    if expires <= now:
        raise InvalidArgumentError("--expires is not in the future", field="expires")
    with _keyring(arguments, open_store, make=True) as keyring:
        first = keyring.is_empty()
        secret = keyring.make(arguments.owner, Role(arguments.role), expires)
    if arguments.json:
        said = {"id": secret.id.hex(), "key": secret.written, "owner": arguments.owner}
        said |= {"role": arguments.role, "expires_at": format_instant(expires)}
        write_json(said)
        return 0
    sys.stdout.write(f"{secret.written}\n")
    sys.stderr.write(f"key {secret.id.hex()} of {arguments.owner}, until {format_instant(expires)}\n")
    sys.stderr.write("it is not shown again\n")
    if first:
        sys.stderr.write("from now on the server answers nobody without a key\n")
    return 0


def _revoke(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with _keyring(arguments, open_store) as keyring:
        ended = keyring.revoke(arguments.id)
    if arguments.json:
        write_json({"id": ended.id.hex(), "owner": ended.owner, "revoked": True})
    else:
        sys.stdout.write(f"key {ended.id.hex()} of {ended.owner} opens nothing any more\n")
    return 0


def _list(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with _keyring(arguments, open_store) as keyring:
        found = keyring.all()
    seen = keys_seen(arguments.data)
    now = time.time_ns() // 1000
    if arguments.json:
        write_json([_row(key, now, seen) for key in found])
        return 0
    for key in found:
        row = _row(key, now, seen)
        sys.stdout.write("\t".join(map(str, row.values())) + "\n")
    if not found:
        sys.stderr.write(
            "no keys: the server answers everyone. Make one with: recension-server apikey create\n"
        )
    return 0


def _row(key: ApiKey, now: int, seen: dict[bytes, int]) -> dict[str, str]:
    state = "revoked" if key.revoked else "live" if key.is_live(now) else "expired"
    return {
        "id": key.id.hex(),
        "owner": key.owner,
        "role": key.role.value,
        "expires_at": format_instant(key.expires_at),
        "state": state,
        "last_used_at": format_instant(seen[key.id]) if key.id in seen else "",
    }
