"""The command ``follow``: streams of upstream's, until it is told to stop."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import structlog

from recension.archive.ingest import Ingestor
from recension.model.instant import parse_instant
from recension.server import logs
from recension.server.fetching import add_account, login_of
from recension.server.following import follow
from recension.server.opening import OpenStore, take_data
from recension.server.stopping import stop_signals
from recension.sources import enterprise_stream
from recension.sources.http import Http, Patience
from recension.sources.piece import Stream
from recension.store.interface import Store

_IDLE_SECONDS = 300.0
"""A small project may be silent for minutes."""

MakeStreams = Callable[[argparse.Namespace, Store], Sequence[Stream]]


def add_commands(commands: Any, open_store: OpenStore) -> None:
    """Add the command to the subparsers of ``recension-server``."""
    group = commands.add_parser("follow", help="follow streams of upstream's until it is told to stop")
    kinds = group.add_subparsers(title="streams", metavar="STREAM", required=True)

    enterprise = kinds.add_parser("enterprise", help="articles of Wikimedia Enterprise, as they change")
    enterprise.add_argument("projects", metavar="PROJECT", nargs="+", help="existing projects")
    add_account(enterprise)
    enterprise.add_argument(
        "--url", default=enterprise_stream.REALTIME, metavar="URL", help="origin of the stream (%(default)s)"
    )
    enterprise.add_argument(
        "--since", default="", metavar="T", help="where to begin when nothing was read before (now)"
    )
    _finish(enterprise, open_store, _enterprise)


def _finish(parser: argparse.ArgumentParser, open_store: OpenStore, make: MakeStreams) -> None:
    parser.add_argument(
        "--idle-seconds",
        type=float,
        default=_IDLE_SECONDS,
        metavar="S",
        help="of silence before it connects anew (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="at the end, say as JSON what was done")
    take_data(parser, lambda arguments: _run(arguments, open_store, make))


def _run(arguments: argparse.Namespace, open_store: OpenStore, make: MakeStreams) -> int:
    logs.configure()
    with stop_signals() as stop, closing(open_store(arguments.data)) as store:
        followed = follow(
            store, make(arguments, store), stop, data=arguments.data, log=structlog.get_logger()
        )
    if arguments.json:
        sys.stdout.write(json.dumps([one.document() for one in followed], ensure_ascii=False) + "\n")
    return 0


def _enterprise(arguments: argparse.Namespace, store: Store) -> Sequence[Stream]:
    patience = Patience(idle_seconds=arguments.idle_seconds)
    http = Http(arguments.url, bearer=login_of(arguments), patience=patience)
    ingestor = Ingestor(store)
    return [
        enterprise_stream.EnterpriseStream(
            http,
            project,
            ingestor.namespaces(project),
            since=parse_instant(arguments.since) if arguments.since else None,
        )
        for project in dict.fromkeys(arguments.projects)
    ]
