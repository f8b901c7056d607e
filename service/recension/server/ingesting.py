"""The command ``ingest``; what it does is in ``ingest``."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

from recension.model.errors import InvalidArgumentError, InvalidTimeError
from recension.model.instant import parse_instant
from recension.server import ingest
from recension.server.completing import Whole
from recension.server.opening import OpenStore, take_data
from recension.server.taking import NO_BUDGET, Budget
from recension.server.wikis import add_wiki, wiki_of


def add_commands(commands: Any, open_store: OpenStore) -> None:
    """Add the command to the subparsers of ``recension-server``."""
    one = commands.add_parser("ingest", help="read files into a project")
    one.add_argument("kind", choices=get_args(ingest.Form), help="what the files are")
    one.add_argument("project", metavar="PROJECT", help="an existing project")
    one.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="files to read, in this order; of dumps also folders",
    )
    one.add_argument(
        "--allow-rejected", action="store_true", help="leave with 0 even if records were rejected"
    )
    one.add_argument(
        "--max-rejected",
        type=_budget,
        default=NO_BUDGET,
        metavar="LIMIT",
        help="stop once more records were rejected than N, or a greater share of those read than N%% (none)",
    )
    one.add_argument(
        "--workers",
        type=_workers,
        default=ingest.usable_workers(),
        metavar="N",
        help="processes that parse a dump (%(default)s)",
    )
    one.add_argument(
        "--allow-incomplete", action="store_true", help="read a folder although parts of its dump are missing"
    )
    one.add_argument(
        "--complete",
        action="store_true",
        help="the dump is all that there is: pages and revisions that it does not have are gone",
    )
    one.add_argument(
        "--made-at", type=_instant, metavar="T", help="when a complete dump was made (the date in its name)"
    )
    add_wiki(one)
    one.add_argument("--json", action="store_true", help="report as JSON")
    one.add_argument("--quiet", action="store_true", help="no progress")
    take_data(one, lambda arguments: _ingest(arguments, open_store))


def _workers(text: str) -> int:
    """Read a number of processes."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number of processes: {text}")
    return int(text)


def _instant(text: str) -> int:
    """Read a time."""
    try:
        return parse_instant(text)
    except InvalidTimeError as error:
        raise argparse.ArgumentTypeError(error.message) from None


def _budget(text: str) -> Budget:
    """Read how many records may be rejected."""
    try:
        return Budget.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"no number of records, and no share like 0.5%: {text}") from None


def _ingest(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    if arguments.kind != "dump" and (arguments.complete or arguments.made_at is not None):
        raise InvalidArgumentError(
            "--complete: only a dump can be complete", hint="ingest dump", field="complete"
        )
    streamed = arguments.kind == "eventstreams"
    if not streamed and (arguments.content or arguments.contact):
        raise InvalidArgumentError(
            "--content, --contact: only documents of EventStreams lack their texts",
            hint="ingest eventstreams",
            field="content",
        )
    with closing(open_store(arguments.data)) as store:
        status: int = ingest.run_ingest(
            store,
            arguments.kind,
            arguments.project,
            arguments.files,
            data=arguments.data,
            allow_rejected=arguments.allow_rejected,
            json_output=arguments.json,
            quiet=arguments.quiet,
            workers=arguments.workers,
            whole=Whole(arguments.allow_incomplete, arguments.complete, arguments.made_at),
            budget=arguments.max_rejected,
            content=wiki_of(arguments, store, arguments.project) if streamed else None,
        )
    return status
