"""The command ``fetch``: files of Wikimedia Enterprise into a folder, from which they are ingested."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recension.sources import enterprise_login
from recension.sources.enterprise_files import API, Files
from recension.sources.http import Http

_Fetch = Callable[[argparse.Namespace, Files], Iterator[Path]]


def add_commands(commands: Any) -> None:
    """Add the command to the subparsers of ``recension-server``."""
    group = commands.add_parser("fetch", help="fetch files of Wikimedia Enterprise, to be ingested")
    kinds = group.add_subparsers(title="what", metavar="WHAT", required=True)

    snapshot = kinds.add_parser("snapshot", help="all articles of a namespace, as of the last snapshot")
    _namespace(snapshot)
    snapshot.add_argument("--chunks", action="store_true", help="in the pieces that upstream keeps of it")
    _finish(
        snapshot, lambda asked, files: files.snapshot(asked.project, asked.namespace, chunks=asked.chunks)
    )

    batch = kinds.add_parser("batch", help="what changed in one hour of the last two days")
    _namespace(batch)
    batch.add_argument("date", metavar="DATE", help="2026-01-31")
    batch.add_argument("hour", metavar="HOUR", type=int, help="0 to 23, UTC")
    _finish(batch, lambda asked, files: files.batch(asked.project, asked.date, asked.hour, asked.namespace))

    article = kinds.add_parser("article", help="articles as they are now")
    article.add_argument("project", metavar="PROJECT", help="as upstream calls it: enwiki")
    article.add_argument("names", metavar="NAME", nargs="+", help="names of articles")
    _finish(article, lambda asked, files: files.articles(asked.project, asked.names))


def add_account(parser: argparse.ArgumentParser) -> None:
    """Add what says who asks Wikimedia Enterprise."""
    parser.add_argument(
        "--credentials",
        type=Path,
        metavar="FILE",
        help=f"user name and password or refresh token, JSON, of mode 600 ({enterprise_login.USERNAME} and"
        f" {enterprise_login.PASSWORD} of the environment)",
    )
    parser.add_argument(
        "--auth-url", default=enterprise_login.AUTH, metavar="URL", help="where tokens are made (%(default)s)"
    )


def login_of(arguments: argparse.Namespace) -> enterprise_login.Login:
    """Return who asks. Raises ``InvalidArgumentError``."""
    credentials = enterprise_login.read_credentials(arguments.credentials)
    return enterprise_login.Login(Http(arguments.auth_url), credentials)


def _namespace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="as upstream calls it: enwiki")
    parser.add_argument("--namespace", type=int, default=0, metavar="N", help="number (%(default)s)")


def _finish(parser: argparse.ArgumentParser, fetch: _Fetch) -> None:
    add_account(parser)
    parser.add_argument("--url", default=API, metavar="URL", help="origin of the files (%(default)s)")
    parser.add_argument(
        "--into", type=Path, default=Path(), metavar="DIR", help="folder of the files (the current one)"
    )
    parser.add_argument("--json", action="store_true", help="name the files as JSON")
    parser.set_defaults(run=lambda arguments: _run(arguments, fetch))


def _run(arguments: argparse.Namespace, fetch: _Fetch) -> int:
    files = Files(Http(arguments.url, bearer=login_of(arguments)), arguments.into, _Progress())
    fetched = []
    for path in fetch(arguments, files):
        fetched.append(str(path))
        if not arguments.json:
            sys.stdout.write(f"{path}\n")
            sys.stdout.flush()
    if arguments.json:
        sys.stdout.write(json.dumps(fetched) + "\n")
    return 0


class _Progress:
    """Tells a person how far a file is, a line a percent at most."""

    def __init__(self) -> None:
        self._said = (Path(), -1)

    def __call__(self, path: Path, done: int, total: int) -> None:
        now = (path, done * 100 // max(total, 1))
        if sys.stderr.isatty() and now != self._said:
            sys.stderr.write(f"\r{path.name.removesuffix('.part')}: {now[1]} %" + "\n" * (done == total))
            self._said = now
