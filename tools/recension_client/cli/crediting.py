"""Commands about whom to credit: ``attribution``, ``credits``."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from recension.model.agreement import Version
from recension.model.credit import statement
from recension.model.digest import format_digest, parse_digest
from recension.model.errors import ExtraMissingError, InvalidArgumentError
from recension.model.event import MAX_ID
from recension_client import lockfile
from recension_client.cli import arguments, output
from recension_client.cli.arguments import OK, Commands, asking, connect
from recension_client.cli.exports import FORMS, check_signed, folder_of
from recension_client.client import Client
from recension_client.credits import describing
from recension_client.credits.facts import Facts
from recension_client.credits.markdown import MarkdownBook
from recension_client.credits.signals import document_of
from recension_client.credits.writing import CREDITS, Book, Credits, write
from recension_client.export.folder import Folder

_SHOWN = 50
"""Contributors that are listed without ``--json``."""


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    one = commands.add("attribution", "whom to credit for a page as it was, and how", asking(_attribution))
    one.add_argument("project", metavar="PROJECT")
    one.add_argument("page", metavar="PAGE", type=_subject, help="a title, id:N, or rev:N for one revision")
    arguments.as_of(one)

    one = commands.add("credits", "write whom to credit for a snapshot beside its files", _credits)
    one.add_argument(
        "what",
        metavar="WHAT",
        nargs="*",
        help="SNAPSHOT FOLDER, or FOLDER alone or nothing: then what the lock says",
    )
    arguments.lock(one)
    one.add_argument(
        "--form", choices=list(FORMS), default="jsonl", help="of the rows (default: jsonl, in zstd)"
    )
    one.add_argument(
        "--since",
        metavar="LOCK|SNAPSHOT",
        help="only pages whose entry is another than in that snapshot, or the one of that lock",
    )
    one.add_argument("--html", action="store_true", help="make pages to read and to print too")
    one.add_argument("--markdown", action="store_true", help="the same in Markdown")
    one.add_argument(
        "--card",
        action="store_true",
        help="describe the files of the folder too: README.md, a dataset card, and croissant.json",
    )


def _subject(text: str) -> int | str | tuple[int]:
    """Read a page, or a revision: in a tuple."""
    if not re.fullmatch(r"rev:[0-9]{1,19}", text):
        return arguments.page_name(text)
    number = int(text.removeprefix("rev:"))
    if not 1 <= number <= MAX_ID:
        raise InvalidArgumentError(f"{number} is not a revision id", hint=f"they go from 1 to {MAX_ID}")
    return (number,)


def _attribution(client: Client, options: Namespace) -> int:
    if isinstance(options.page, tuple):
        if options.at is not None:
            raise InvalidArgumentError("a revision has its own time", hint="leave out --at")
        credited = client.revision_attribution(options.project, *options.page, known_at=options.known_at)
    else:
        credited = client.article_attribution(
            options.project, options.page, valid_at=options.at, known_at=options.known_at
        )
    project = client.project(options.project)
    if options.json:
        output.write_json(document_of(credited, project, _agreement(client)))
        return OK
    found = credited.attribution
    output.write_line((statement(found, project.base_url),), (0,))
    for share in found.shares[:_SHOWN]:
        output.write_line(
            (f"{share.edits:,}", share.person.kind.name.lower(), share.person.shown), (8, 10, 0)
        )
    more = len(found.shares) - _SHOWN + found.omitted
    if more > 0:
        output.note(f"and {more:,} more; --json has {len(found.shares):,}")
    for edits, who in ((found.hidden_edits, "hidden"), (found.unstated_edits, "unstated")):
        if edits:
            output.write_line((f"{edits:,}", who, ""), (8, 10, 0))
    return OK


def _agreement(client: Client) -> Version | None:
    """Return what the caller is served under; nothing for who may read all."""
    info = client.own_agreement()
    return None if info is None else info.version


def _credits(options: Namespace) -> int:
    books = list(_books(options))
    since = _since(options.since) if options.since else b""
    if len(options.what) > 2:  # noqa: PLR2004 - a snapshot and a folder
        raise InvalidArgumentError("too many arguments", hint="recension credits --help")
    if len(options.what) == 2:  # noqa: PLR2004
        snapshot, folder = options.what
        with connect(options) as client:
            digest = parse_digest(snapshot, "snapshot")
            return _write(client, digest, Path(folder), since, books, options)
    lock = lockfile.read(options.lock)
    target, _ = folder_of(lock, options)
    with connect(options, locked=lock.server) as client:
        check_signed(client, lock)
        snapshot_id = lock.manifest.snapshot_id
        return _write(client, snapshot_id, target, since, books, options, lock.server_key)


def _books(options: Namespace) -> Iterator[Book]:
    if options.markdown:
        yield MarkdownBook()
    if options.html:
        try:
            from recension_client.credits.html import HtmlBook  # noqa: PLC0415 - of an extra
        except ModuleNotFoundError as error:
            raise ExtraMissingError(
                f"pages of HTML need {error.name}, which is not installed",
                hint="pip install 'recension[report]'",
                module=error.name,
            ) from None
        yield HtmlBook()


def _since(said: str) -> bytes:
    """Return a snapshot that is named, or that a lock is of."""
    if said.startswith("sha256:"):
        return parse_digest(said, "since")
    return lockfile.read(Path(said)).manifest.snapshot_id


def _write(
    client: Client,
    snapshot: bytes,
    target: Path,
    since: bytes,
    books: list[Book],
    options: Namespace,
    server_key: str = "",
) -> int:
    index = None
    if options.card:
        if since:
            raise InvalidArgumentError(
                "an increment describes no dataset", hint="leave out --since or --card"
            )
        with Folder.at(target) as root:
            index = describing.describable(root, snapshot)
    made = write(
        client,
        client.snapshot(snapshot),
        target,
        FORMS[options.form],
        since=since,
        books=books,
        watch=lambda found, pages: output.watched(found, "credits", pages),
    )
    if index is not None:
        keys = client.server_info().signing_keys
        key = server_key or (keys[-1].key if keys else "")
        projects = {part.project: client.project(part.project) for part in made.manifest.parts}
        with Folder.at(target) as root:
            describing.write(root, Facts(index, made, projects, client.target, key, _agreement(client)))
    _say(made, target, options)
    return OK


def _say(made: Credits, target: Path, options: Namespace) -> None:
    if made.uncredited:
        output.warn(f"{made.uncredited:,} pages lie outside of what is granted, and are not credited")
    if options.json:
        since = {"since": format_digest(made.since)} if made.since else {}
        output.write_json(
            {
                "snapshot": format_digest(made.manifest.snapshot_id),
                "folder": str(target / CREDITS),
                "known_at": made.known_at,
                "pages": made.pages,
                "edits": made.edits,
                "hidden_edits": made.hidden_edits,
                "uncredited": made.uncredited,
                "licenses": dict(made.licenses),
                "files": len(made.files),
            }
            | since
        )
        return
    licenses = ", ".join(f"{pages:,} {spdx}" for spdx, pages in made.licenses.items())
    output.note(f"{target / CREDITS}: {made.pages:,} pages, {made.edits:,} edits; {licenses}")
