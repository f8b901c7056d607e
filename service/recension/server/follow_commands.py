"""The commands ``follow``: streams of upstream's; and ``pending``: what waits there."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recension.archive.ingest import Ingestor
from recension.model.errors import NotAStoreError
from recension.model.instant import format_instant, parse_instant
from recension.server import logs
from recension.server.eventstreams import FETCHERS, EventStream, Waits
from recension.server.fetching import add_account, login_of
from recension.server.following import follow
from recension.server.opening import OpenStore, take_data, take_data_and_json
from recension.server.pending import read_all
from recension.server.stopping import stop_signals
from recension.server.telling import plain
from recension.server.wikis import add_wiki, agent_of, wiki_of
from recension.sources import enterprise_stream, eventstreams
from recension.sources.http import Http, Patience
from recension.sources.piece import Stream
from recension.store.interface import Store

_IDLE_SECONDS = 300.0
"""A small project may be silent for minutes."""
_LONGEST = 1e6
"""Hours or seconds that may be asked for."""
_STREAMS = (eventstreams.PAGE_CHANGE, eventstreams.VISIBILITY)

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
    _add_eventstreams(kinds, open_store)
    pending = commands.add_parser("pending", help="say what followers could not take yet, and why")
    take_data_and_json(pending, _pending)


def _add_eventstreams(kinds: Any, open_store: OpenStore) -> None:
    parser = kinds.add_parser("eventstreams", help="changes of pages from Wikimedia's EventStreams")
    parser.add_argument("projects", metavar="PROJECT", nargs="+", help="existing projects")
    parser.add_argument(
        "--stream",
        action="append",
        metavar="NAME",
        help=f"name of a stream, may be repeated ({', '.join(_STREAMS)})",
    )
    parser.add_argument(
        "--url", default=eventstreams.STREAMS_URL, metavar="URL", help="origin of the streams (%(default)s)"
    )
    add_wiki(parser)
    parser.add_argument(
        "--since", default="", metavar="T", help="where to begin when nothing was read before (now)"
    )
    parser.add_argument(
        "--give-up-hours",
        type=_positive,
        default=Waits().text_seconds / 3600,
        metavar="H",
        help="until a text that upstream does not have is given up (%(default)g)",
    )
    _finish(parser, open_store, _eventstreams)


def _finish(parser: argparse.ArgumentParser, open_store: OpenStore, make: MakeStreams) -> None:
    parser.add_argument(
        "--idle-seconds",
        type=_positive,
        default=_IDLE_SECONDS,
        metavar="S",
        help="of silence before it connects anew (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="at the end, say as JSON what was done")
    take_data(parser, lambda arguments: _run(arguments, open_store, make))


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= _LONGEST:
        raise argparse.ArgumentTypeError(f"not a number above 0, or too large: {text}")
    return number


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


def _eventstreams(arguments: argparse.Namespace, store: Store) -> Sequence[Stream]:
    projects = tuple(dict.fromkeys(arguments.projects))
    hub = eventstreams.Hub(
        Http(
            arguments.url, patience=Patience(idle_seconds=arguments.idle_seconds), agent=agent_of(arguments)
        ),
        arguments.stream or _STREAMS,
        projects,
        since=parse_instant(arguments.since) if arguments.since else None,
    )
    fetchers = ThreadPoolExecutor(FETCHERS, "texts")
    waits = Waits(text_seconds=arguments.give_up_hours * 3600)
    return [
        EventStream(
            hub,
            project,
            store,
            wiki_of(arguments, store, project),
            fetchers,
            arguments.data,
            waits=waits,
        )
        for project in projects
    ]


def _pending(arguments: argparse.Namespace) -> int:
    if not arguments.data.is_dir():
        raise NotAStoreError(
            f"{arguments.data}: there is no such directory", hint="check the path", path=arguments.data
        )
    found = dict(read_all(arguments.data))
    if arguments.json:
        document = {project: [one.document() for one in pending] for project, pending in found.items()}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        return 0
    table = Table("project", "page", "revision", "waits for", "since", "tries", "why", box=None)
    for project, pending in found.items():
        for one in pending:
            table.add_row(
                project, str(one.page_id), str(one.rev_id or ""), one.waits_for, format_instant(one.since),
                str(one.tries), Text(plain(one.why)),
            )  # fmt: skip
    Console().print(table)
    return 0
