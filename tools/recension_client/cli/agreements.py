"""The command ``agreement``: what the caller may be served, and under which version."""

from __future__ import annotations

import json
from argparse import Namespace

from recension.model.agreement import VersionInfo
from recension.model.agreement_words import row_of, shown
from recension_client.cli import output
from recension_client.cli.arguments import OK, Commands, asking
from recension_client.client import Client

_COLUMNS = ("ordinal", "standing", "valid_from", "valid_until", "ended_at", "version")


def register(commands: Commands) -> None:
    """Add the command."""
    one = commands.add("agreement", "show your agreement with the operator", asking(_agreement))
    one.add_argument(
        "version",
        metavar="VERSION",
        nargs="?",
        default="",
        help="2 or sha256:... (default: the one in force)",
    )
    one.add_argument("--all", action="store_true", help="list all versions")
    one.add_argument("--tsv", action="store_true", help=f"with --all: {', '.join(_COLUMNS)}")


def _agreement(client: Client, options: Namespace) -> int:
    if options.all:
        return _list(client, options)
    info = client.own_agreement(options.version)
    if info is None:
        if options.json:
            output.write_json({"unrestricted": True})
        else:
            output.write(b"you may read all there is, without an agreement\n")
        return OK
    if options.json:
        document = json.loads(info.version.agreement.encoded)
        output.write_json({"unrestricted": False, **row_of(info), "document": document})
        return OK
    for fact in shown(info):
        output.write_line(fact, (28, 0))
    return OK


def _list(client: Client, options: Namespace) -> int:
    infos = client.own_agreements()
    if options.json:
        for info in infos:
            output.write_json(row_of(info))
        return OK
    rows = map(_cells, infos)
    if options.tsv:
        for row in rows:
            output.write_tsv(row)
    else:
        output.write_table(_COLUMNS, rows)
    return OK


def _cells(info: VersionInfo) -> tuple[object, ...]:
    row = row_of(info)
    return tuple("" if row[name] is None else row[name] for name in _COLUMNS)
